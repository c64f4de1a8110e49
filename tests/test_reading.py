"""Words as they lie on disk: in two files, in folders, in pictures, and in older files of ours."""

import base64
import json
import zlib

import pytest
import torch
from click.testing import CliRunner
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file

from sentinv.cli.main import cli
from sentinv.concepts.concept import Concept
from sentinv.concepts.reading import load_concept, load_concepts
from sentinv.errors import ConceptError


def pair(folder, names, keys=("<c>", "<c>"), widths=(768, 1280), counts=(2, 2)):
    parts = zip(names, keys, widths, counts, strict=True)
    for name, key, width, count in parts:
        save_file({key: torch.full((count, width), float(width))}, folder / f"{name}.safetensors")
    return [folder / f"{name}.safetensors" for name in names]


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (("learned_embeds", "learned_embeds_2"), ("<c>", "<c>")),
        (("c_2", "c"), ("emb_params", "emb_params")),
        (("wide", "narrow"), ("<c>", "<c>")),
    ],
)
def test_two_files_are_one_word(tmp_path, names, keys):
    widths = (1280, 768) if names[0] in ("c_2", "wide") else (768, 1280)
    files = pair(tmp_path, names, keys, widths)
    (concept,) = load_concepts(files)
    assert concept.token == "<c>"
    assert {name: tuple(rows.shape) for name, rows in concept.rows.items()} == {
        "text_encoder": (2, 768),
        "text_encoder_2": (2, 1280),
    }
    if names != ("wide", "narrow"):
        assert load_concept([tmp_path]).rows.keys() == concept.rows.keys()


def test_inspect_takes_both_files_and_names_the_family(tmp_path):
    files = [str(file) for file in pair(tmp_path, ("c", "c_2"))]
    for arguments in (files, [str(tmp_path)]):
        shown = CliRunner().invoke(cli, ["inspect", *arguments])
        assert shown.exit_code == 0, shown.output
        assert "stable-diffusion-xl-v1-base, by the width" in shown.stdout
        assert shown.stdout.count("<c>_1") == 2
    assert CliRunner().invoke(cli, ["inspect", str(tmp_path / "none")]).exit_code == 1


def test_files_that_are_not_of_one_word(tmp_path):
    two = pair(tmp_path, ("a", "a_2"), ("<cat>", "<dog>"))
    assert [one.token for one in load_concepts(two)] == ["<cat>", "<dog>"]
    same = pair(tmp_path, ("b", "b_2"), ("emb_params", "emb_params"), (768, 768))
    assert [one.token for one in load_concepts(same)] == ["<b>", "<b_2>"]
    with pytest.raises(ConceptError, match="they are not of one word"):
        load_concepts(pair(tmp_path, ("d", "d_2"), counts=(2, 3)))
    with pytest.raises(ConceptError, match="folder with 6 files"):
        load_concepts([tmp_path])
    with pytest.raises(ConceptError, match="one at a time"):
        load_concept(two)


def text_of(rows, name="My Snail"):
    content = {"string_to_token": {"*": 265}, "string_to_param": {"*": {"TORCHTENSOR": rows}}, "name": name}
    return base64.b64encode(json.dumps(content).encode()).decode()


@pytest.mark.parametrize("compressed", [False, True])
def test_words_inside_pictures(tmp_path, compressed):
    rows = torch.randn(3, 768)
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "a picture")
    info.add_text("sd-ti-embedding", text_of(rows.tolist()), zip=compressed)
    Image.new("RGB", (64, 64)).save(tmp_path / "snail.png", pnginfo=info)
    concept = Concept.load(tmp_path / "snail.png")
    assert concept.token == "<my-snail>" and torch.equal(concept.rows["text_encoder"], rows)
    done = CliRunner().invoke(cli, ["export", str(tmp_path / "snail.png"), "--to", "diffusers", "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert load_file(tmp_path / "my-snail-sd1.safetensors").keys() == {"<my-snail>"}


BOMB = PngImagePlugin.PngInfo()
BOMB.add(b"zTXt", b"sd-ti-embedding\0\0" + zlib.compress(b"A" * 40_000_000))
PICTURES = {
    "no word": (None, "picture without a word in its text"),
    "no base64": ("%%%", "damaged word"),
    "no json": (base64.b64encode(b"{").decode(), "damaged word"),
    "a list": (base64.b64encode(b"[]").decode(), "damaged word"),
    "deep": (base64.b64encode(b"[" * 200_000).decode(), "damaged word"),
    "ragged": (text_of([[1.0, 2.0], [3.0]]), "damaged word"),
    "text": (text_of([["a"]]), "damaged word"),
    "nan": (text_of([[float("nan")] * 768]), "NaN"),
    "too many": (text_of([[1.0]] * 600), "at most"),
    "nothing": (text_of([]), r"\[n, dim\]"),
    "bomb": (BOMB, "a word of 20 MiB; expected at most 20"),
}


@pytest.mark.parametrize("case", PICTURES)
def test_pictures_that_hold_no_word(tmp_path, case):
    text, message = PICTURES[case]
    info = text if isinstance(text, PngImagePlugin.PngInfo) else PngImagePlugin.PngInfo()
    if isinstance(text, str):
        info.add_text("sd-ti-embedding", text)
    Image.new("RGB", (16, 16)).save(tmp_path / "c.png", pnginfo=info)
    with pytest.raises(ConceptError, match=message) as error:
        Concept.load(tmp_path / "c.png")
    assert "\n" not in str(error.value)


def test_other_pictures_are_told_as_such(tmp_path):
    for name in ("c.jpg", "c.webp"):
        Image.new("RGB", (16, 16)).save(tmp_path / name)
        with pytest.raises(ConceptError, match="is a picture without a word"):
            Concept.load(tmp_path / name)


def test_one_vector_is_a_row_and_older_files_are_read(tmp_path):
    concept = Concept(token="<snail>", rows={"text_encoder": torch.ones(1, 768)})
    assert load_file(concept.save(tmp_path / "new.safetensors"))["<snail>"].shape == (1, 768)
    save_file({"<snail>": torch.ones(768)}, tmp_path / "old.safetensors")
    assert Concept.load(tmp_path / "old.safetensors").rows["text_encoder"].shape == (1, 768)
