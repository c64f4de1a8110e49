"""Words as other programs read them: names, shapes, types, headers; what is refused, in one line, with nothing written."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sentinv
from sentinv.cli.main import cli
from sentinv.concepts.concept import Concept
from sentinv.concepts.export import PROGRAMS, Export, export_word, write_exports
from sentinv.concepts.layouts import ENCODER_KEYS, WIDTHS
from sentinv.concepts.reading import load_concept
from sentinv.errors import SentinvError
from sentinv.files.atomic import atomic_write

SAME = {"sd1": {"snail-sd1": ["emb_params"]}, "sd2": {"snail-sd2": ["emb_params"]}}
XL = {"snail-sdxl": ["clip_g", "clip_l"]}
KEYS = {
    "diffusers": {
        "sd1": {"snail-sd1": ["<snail>"]},
        "sd2": {"snail-sd2": ["<snail>"]},
        "sdxl": {"snail-sdxl": ["<snail>"], "snail-sdxl_2": ["<snail>"]},
    },
    "a1111": {**SAME, "sdxl": XL},
    "comfyui": {**SAME, "sdxl": XL},
    "invokeai": {**SAME, "sdxl": XL},
    "kohya": {**SAME, "sdxl": XL},
    "onetrainer": {"sd1": {"snail-sd1": ["emp_params"]}, "sd2": {"snail-sd2": ["emp_params"]}, "sdxl": XL},
}
"""Program → base → file → names of its tensors; benchmarks/interop has found that each program's own code takes these."""

PROMPTS = {
    "diffusers": "<snail>",
    "a1111": "snail-{}",
    "comfyui": "embedding:snail-{}",
    "invokeai": "<snail-{}>",
    "kohya": "snail-{}",
    "onetrainer": "<snail>",
}


def word(base="sd1", count=2, token="<snail>", **options):
    widths = WIDTHS.get(base, (64,))
    generator = torch.Generator().manual_seed(count)
    rows = {
        name: torch.randn(count, width, generator=generator) for name, width in zip(ENCODER_KEYS, widths, strict=False)
    }
    return Concept(token=token, rows=rows, base_model=base, **options)


def run(*arguments, code=0):
    result = CliRunner().invoke(cli, ["export", *map(str, arguments)])
    assert result.exit_code == code, result.output
    if code:
        assert result.stderr.count("\n") == 1 and not result.stdout
    return result


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("base", WIDTHS)
@pytest.mark.parametrize("program", KEYS)
def test_each_program_gets_its_names_shapes_and_types(tmp_path, program, base, count):
    concept = word(base, count)
    made = sentinv.export(concept, program, tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == set(KEYS[program][base])
    rows = iter(concept.rows.values())
    for stem, keys in KEYS[program][base].items():
        tensors = load_file(tmp_path / f"{stem}.safetensors")
        assert sorted(tensors) == keys
        for key, value in tensors.items():
            wanted = (
                concept.rows[{"clip_l": "text_encoder", "clip_g": "text_encoder_2"}[key]] if key[0] == "c" else None
            )
            wanted = next(rows) if wanted is None else wanted
            assert value.dtype == torch.float32 and value.shape == wanted.shape and torch.equal(value, wanted)
        with safe_open(tmp_path / f"{stem}.safetensors", "pt") as file:
            header = file.metadata()
        assert header["sentinv.base_model"] == base and header["sentinv.token"] == "<snail>"
        assert header["modelspec.architecture"].startswith("stable-diffusion-")
        assert header["modelspec.trigger_phrase"] == made.prompt
    assert made.prompt == PROMPTS[program].format(base) and made.base == base and made.kind == "word"
    assert "in its prompt, write" in made.line and "\n" not in made.line
    again = load_concept(sorted(tmp_path.iterdir()))
    assert (again.token, again.base_model, again.count) == ("<snail>", base, count)
    assert all(torch.equal(again.rows[name], concept.rows[name]) for name in concept.rows)


def test_the_table_of_programs_is_whole():
    from sentinv.cli.export import PROGRAMS as NAMES

    assert set(KEYS) == set(PROGRAMS) == set(NAMES)


@pytest.mark.parametrize("count", [1, 5])
def test_plain_diffusers_takes_both_files_of_xl(tmp_path, xl, count):
    rows = {"text_encoder": torch.randn(count, 16), "text_encoder_2": torch.randn(count, 24)}
    widths = [encoder.get_input_embeddings().weight.shape[1] for encoder in (xl.text_encoder, xl.text_encoder_2)]
    rows = {name: torch.randn(count, width) for name, width in zip(rows, widths, strict=True)}
    concept = Concept(token="<c>", rows=rows, metadata={"modelspec.architecture": "stable-diffusion-xl-v1-base"})
    made = sentinv.export(concept, "diffusers", tmp_path)
    first, second = (str(tmp_path / name) for name in made.files)
    xl.load_textual_inversion(first, text_encoder=xl.text_encoder, tokenizer=xl.tokenizer)
    xl.load_textual_inversion(second, text_encoder=xl.text_encoder_2, tokenizer=xl.tokenizer_2)
    for encoder, words, value in (
        (xl.text_encoder, xl.tokenizer, rows["text_encoder"]),
        (xl.text_encoder_2, xl.tokenizer_2, rows["text_encoder_2"]),
    ):
        ids = words.convert_tokens_to_ids(concept.vector_names)
        assert torch.equal(encoder.get_input_embeddings().weight[ids], value)


def test_the_same_word_gives_the_same_bytes():
    assert export_word(word(), "a1111") == export_word(word(), "a1111")


def test_the_command(tmp_path):
    word().save(tmp_path / "snail.safetensors")
    word("sdxl", token="<cup.2>").save(tmp_path / "cup.safetensors")
    files = [tmp_path / "snail.safetensors", tmp_path / "cup.safetensors"]
    done = run(*files, "--to", "comfyui", "-o", tmp_path / "new" / "folder")
    paths = [tmp_path / "new" / "folder" / name for name in ("snail-sd1.safetensors", "cup-2-sdxl.safetensors")]
    assert done.stdout.split() == [str(path) for path in paths] and all(path.is_file() for path in paths)
    assert done.stderr.count("in its prompt, write embedding:") == done.stderr.count("\n") == 2
    told = json.loads(run(files[0], "--to", "a1111", "-o", tmp_path / "json", "--json", "--quiet").stdout)
    assert told["exports"][0]["prompt"] == "snail-sd1" and Path(told["exports"][0]["files"][0]).is_file()
    run(*files, "--to", "a1111", "-o", tmp_path / "new" / "folder", "--force")
    assert load_file(paths[0]).keys() == {"emb_params"}


def lora(path):
    save_file({"lora_unet_a.lora_down.weight": torch.ones(4, 8), "lora_unet_a.lora_up.weight": torch.ones(8, 4)}, path)


def unet(path):
    save_file({f"down_blocks.{index}.conv.weight": torch.ones(2, 2) for index in range(5)}, path)


def pickled(path):
    torch.save({"string_to_param": {"*": torch.ones(1, 768)}}, path)


def latent_diffusion(path):
    rows = {"text_encoder": torch.ones(1, 1280)}
    Concept(token="<c>", rows=rows, metadata={"modelspec.architecture": "latent-diffusion/textual-inversion"}).save(
        path
    )


def small_model(path):
    word("toybox", metadata={"modelspec.architecture": "stable-diffusion-v1/textual-inversion"}).save(path)


def half(path):
    path.write_bytes(export_word(word("sdxl"), "diffusers").files["snail-sdxl.safetensors"])


def save_keys(*keys):
    return lambda path: save_file({key: torch.ones(2, 768) for key in keys}, path)


BAD = {
    "unknown program": (lambda path: word().save(path), "forge", "expected one of diffusers, a1111"),
    "no such file": (lambda path: None, "a1111", "does not exist"),
    "a folder with nothing": (lambda path: path.mkdir(), "a1111", "folder with 0 files"),
    "lora of no known base": (lora, "a1111", "no LoRAs there for the base of c.safetensors"),
    "unet": (unet, "a1111", "is a model's weights"),
    "pickle": (pickled, "kohya", "is a pickle"),
    "latent diffusion": (latent_diffusion, "diffusers", "diffusers: no words there for the base of <c>"),
    "a base that web UIs lack": (small_model, "invokeai", "InvokeAI: no words there for the base of <snail>"),
    "half a word": (half, "a1111", "give the other one too, c_2.safetensors"),
    "output embedding": (save_keys("emp_params", "emp_params_out"), "a1111", "output embedding of OneTrainer"),
    "output embedding of xl": (save_keys("clip_l_out", "clip_g_out"), "a1111", "output embedding of OneTrainer"),
    "flux": (save_keys("clip_l", "t5"), "comfyui", "T5 text encoder (t5)"),
    "stable diffusion 3": (save_keys("clip_l", "clip_g", "t5xxl"), "comfyui", "T5 text encoder (t5xxl)"),
    "bundle": (
        save_keys("lora_unet_a.lora_down.weight", "bundle_emb.c.clip_l"),
        "a1111",
        "lacks one of its two matrices",
    ),
    "loha": (save_keys("lora_unet_a.hada_w1_a", "lora_unet_a.hada_w1_b"), "a1111", "is an adapter"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, case):
    make, program, message = BAD[case]
    make(tmp_path / "c.safetensors" if case != "pickle" else tmp_path / "c.pt")
    file = tmp_path / ("c.pt" if case == "pickle" else "c.safetensors")
    done = run(file, "--to", program, "-o", tmp_path / "out", code=1)
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_nothing_is_replaced_and_nothing_is_half_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    word().save(tmp_path / "snail.safetensors")
    word("sdxl").save(tmp_path / "xl.safetensors")
    Path("snail-sdxl_2.safetensors").write_bytes(b"mine")
    assert "exists: give --force" in run("xl.safetensors", "--to", "diffusers", code=1).stderr
    both = run("snail.safetensors", "snail.safetensors", "--to", "a1111", code=1).stderr
    assert "two of the files would be written to" in both
    run("snail.safetensors", "--to", "a1111")
    itself = run("snail-sd1.safetensors", "--to", "kohya", "--force", code=1).stderr
    assert "is a file that is being exported" in itself
    assert Path("snail-sdxl_2.safetensors").read_bytes() == b"mine"
    assert not Path("snail-sdxl.safetensors").exists()


def test_a_second_file_that_fails_takes_the_first_with_it(tmp_path):
    files = {"a.safetensors": b"1", "x" * 300: b"2"}
    made = Export("diffusers", "word", "<c>", "sdxl", files, "", "")
    with pytest.raises(SentinvError, match="too long"):
        write_exports([made], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_are_replaced_are_so_all_or_none(tmp_path, monkeypatch):
    files = {"a.safetensors": b"1", "a_2.safetensors": b"2"}
    made = Export("diffusers", "word", "<c>", "sdxl", files, "", "")
    (tmp_path / "a.safetensors").write_bytes(b"old")
    (tmp_path / "a_2.safetensors").mkdir()
    with pytest.raises(SentinvError, match="a folder has that name"):
        write_exports([made], tmp_path, overwrite=True)
    assert (tmp_path / "a.safetensors").read_bytes() == b"old"
    (tmp_path / "a_2.safetensors").rmdir()

    def full(path: Path, content: bytes, *, overwrite: bool) -> Path:
        if content == b"2":
            raise SentinvError("the disk is full")
        return atomic_write(path, content, overwrite=overwrite)

    monkeypatch.setattr("sentinv.concepts.export.atomic_write", full)
    with pytest.raises(SentinvError, match="disk is full"):
        write_exports([made], tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert (tmp_path / "a.safetensors").read_bytes() == b"old"


def test_a_name_that_is_too_long_is_told_before_anything_is_written(tmp_path):
    made = Export("diffusers", "word", "<c>", "sdxl", {"a.safetensors": b"1", "x" * 300: b"2"}, "", "")
    with pytest.raises(SentinvError, match="too long"):
        write_exports([made], tmp_path)
    assert list(tmp_path.iterdir()) == []
