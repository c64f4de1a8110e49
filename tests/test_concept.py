import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from sentinv.concepts.concept import Concept
from sentinv.errors import ConceptError, SentinvError


def concept(count=2, dim=16, **options):
    rows = torch.randn(count, dim, generator=torch.Generator().manual_seed(count))
    return Concept(**{"token": "<c>", "rows": {"text_encoder": rows}, "base_model": "tiny", **options})


@pytest.mark.parametrize("count", [1, 3])
def test_round_trip(tmp_path, count):
    metadata = {"sentinv.initial_text": "ein Müg", "sentinv.tokens": json.dumps(["a", "mug"]), "modelspec.date": "2026"}
    saved = concept(count, metadata=metadata).with_thumbnail(Image.new("RGB", (300, 200), "red"))
    path = saved.save(tmp_path / "c.safetensors")
    loaded = Concept.load(path)
    assert (loaded.token, loaded.base_model, loaded.count, loaded.tokens) == ("<c>", "tiny", count, ("a", "mug"))
    assert torch.equal(loaded.rows["text_encoder"], saved.rows["text_encoder"])
    assert metadata.items() <= loaded.metadata.items()
    assert loaded.to_bytes() == saved.to_bytes() == path.read_bytes()


def test_never_overwrites_unasked(tmp_path):
    path = concept().save(tmp_path / "c.safetensors")
    with pytest.raises(SentinvError, match="exists"):
        concept(1).save(path)
    concept(1).save(path, overwrite=True)
    assert Concept.load(path).count == 1


@pytest.mark.parametrize("count", [1, 3])
def test_plain_diffusers_loads_the_same_rows(tmp_path, sd1, count):
    saved = concept(count)
    path = saved.save(tmp_path / "c.safetensors")
    with safe_open(path, "pt") as file:
        assert list(file.keys()) == ["<c>"]
    sd1.load_textual_inversion(str(path))
    table = sd1.text_encoder.get_input_embeddings().weight
    ids = sd1.tokenizer.convert_tokens_to_ids(saved.vector_names)
    assert torch.equal(table[ids], saved.rows["text_encoder"])


def test_two_text_encoders(tmp_path):
    rows = {"text_encoder": torch.ones(2, 4), "text_encoder_2": torch.ones(2, 6)}
    path = concept(rows=rows).save(tmp_path / "c.safetensors")
    with safe_open(path, "pt") as file:
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 - not a dict
    assert shapes == {"clip_g": [2, 6], "clip_l": [2, 4]}
    assert Concept.load(path).rows.keys() == rows.keys()


@pytest.mark.parametrize("key", ["emp_params", "emb_params", "clip_l", "*", "<My Cat>"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_layouts_of_others(tmp_path, key, dtype):
    path = tmp_path / "My Cat.safetensors"
    save_file({key: torch.ones(2, 4, dtype=dtype)}, path)
    loaded = Concept.load(path)
    assert loaded.token == "<my-cat>"
    assert loaded.rows["text_encoder"].dtype == torch.float32
    assert Concept.load(path, "<other>").token == "<other>"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"<c>": torch.full((2, 4), float("nan"))}, "NaN"),
        ({"<c>": torch.full((2, 4), float("inf"))}, "infinite"),
        ({"<c>": torch.zeros(2, 4)}, "zero"),
        ({"<c>": torch.ones(2, 4, dtype=torch.int64)}, "int64"),
        ({"<c>": torch.ones(2, 4, dtype=torch.float64)}, "float64"),
        ({"<c>": torch.ones(2, 2, 2)}, r"\[n, dim\]"),
        ({"<c>": torch.ones(0, 4)}, "damaged"),
        ({"<c>": torch.ones(1000, 4)}, "at most"),
        ({"<c>": torch.ones(1, 4), "<d>": torch.ones(1, 4)}, "got 2"),
        ({"clip_l": torch.ones(1, 4), "clip_g": torch.ones(2, 4)}, "as many"),
        ({}, "no tensors"),
    ],
)
def test_refuses_what_is_no_concept(tmp_path, tensors, message):
    path = tmp_path / "c.safetensors"
    save_file(tensors, path)
    with pytest.raises(ConceptError, match=message) as error:
        Concept.load(path)
    assert "\n" not in str(error.value)


def test_reads_pickles_only_when_asked(tmp_path):
    path = tmp_path / "old.pt"
    torch.save({"string_to_param": {"*": torch.ones(2, 4)}, "name": "old"}, path)
    with pytest.raises(ConceptError, match="run code"):
        Concept.load(path)
    assert Concept.load(path, allow_pickle=True).rows["text_encoder"].shape == (2, 4)


def test_refuses_missing_folders_pickles_and_large_files(tmp_path):
    (tmp_path / "c.pt").write_bytes(b"\x80\x02.")
    with (tmp_path / "large.safetensors").open("wb") as file:
        file.truncate(100 * 2**20)
    for name, message in (
        ("none", "not exist"),
        (".", "not a file"),
        ("c.pt", "run code"),
        ("large.safetensors", "100 MiB"),
    ):
        with pytest.raises(ConceptError, match=message):
            Concept.load(tmp_path / name)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 10**9), bit=st.integers(0, 7))
def test_every_flipped_bit_is_noticed(tmp_path_factory, position, bit):
    """Either the file is refused, or it means exactly what it meant (white space in the header)."""
    original = concept(metadata={"sentinv.initial_text": "a mug"})
    content = bytearray(original.to_bytes())
    content[position % len(content)] ^= 1 << bit
    path = tmp_path_factory.mktemp("flip") / "c.safetensors"
    path.write_bytes(content)
    try:
        loaded = Concept.load(path)
    except ConceptError:
        return
    assert loaded.to_bytes() == original.to_bytes()
