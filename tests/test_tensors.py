"""Strangers' embeddings and LoRAs: known layouts are read, the rest is refused in one line, and runs nothing."""

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from sentinv.errors import ConceptError
from sentinv.files import tensors
from sentinv.files.tensors import read_safetensors, read_tensors

ROWS = torch.linspace(-1, 1, 2 * 768).reshape(2, 768)


def safetensors_file(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


ONE = struct.pack("<f", 1.5)
BENIGN = {
    "diffusers": {"<cat>": ROWS},
    "one vector": {"<cat>": ROWS[0].clone()},
    "a1111": {"emp_params": ROWS},
    "sdxl": {"clip_l": ROWS, "clip_g": torch.ones(2, 1280)},
    "half": {"<cat>": ROWS.half()},
    "bfloat16": {"<cat>": ROWS.bfloat16()},
    "peft lora": {"unet.a.lora_A.weight": torch.ones(4, 8), "unet.a.lora_B.weight": torch.zeros(8, 4)},
    "kohya lora": {"lora_unet_a.lora_down.weight": torch.ones(4, 8), "lora_unet_a.alpha": torch.tensor(4)},
    "strange name": {"../../évil\0": ROWS},
}


@pytest.mark.parametrize("case", BENIGN)
def test_benign_safetensors_are_read_as_they_are(tmp_path: Path, case: str) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(save(BENIGN[case], metadata={"note": "ü"}))
    got, header = read_tensors(path)
    assert header == {"note": "ü"}
    assert got.keys() == BENIGN[case].keys()
    for key, tensor in got.items():
        assert torch.equal(tensor, BENIGN[case][key].to(tensor.dtype))
        assert tensor.dtype in (torch.float32, torch.float16, torch.bfloat16)


HOSTILE = {
    "empty": (b"", "is empty"),
    "short": (b"\x01\0", "not a safetensors file"),
    "text": (b"hello, this is not a file of tensors at all.", "not a safetensors file"),
    "cut": (save({"a": ROWS})[:-1], "a tensor larger than the file"),
    "trailing": (save({"a": ROWS}) + b"\0", "do not fill the file"),
    "giant header": (struct.pack("<Q", 2**62) + b"{}", "not a safetensors file"),
    "long header": (b"\0\0\0\1\0\0\0\0{" + b" " * 2**24, "header of 16 MiB; expected at most 8"),
    "no json": (safetensors_file(b"{]"), "is damaged: its header has no sense"),
    "utf-16": (safetensors_file("{}".encode("utf-16-le")), "is damaged"),
    "deep": (safetensors_file(b'{"a":' * 50_000), "is damaged"),
    "twice": (
        safetensors_file(b'{"a":%b,"a":%b}' % ((json.dumps(entry([1], 0, 4)).encode(),) * 2), ONE),
        "a key twice",
    ),
    "hole": (safetensors_file({"a": entry([1], 4, 8)}, ONE * 2), "do not fill"),
    "overlap": (safetensors_file({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, ONE), "do not fill"),
    "reversed": (safetensors_file({"a": entry([1], 4, 0)}, ONE), "do not fill"),
    "negative": (safetensors_file({"a": entry([-1, -1], 0, 4)}, ONE), "larger than the file"),
    "giant": (safetensors_file({"a": entry([10**9, 768], 0, 4)}, ONE), "larger than the file"),
    "empty giant": (safetensors_file({"a": entry([0, 2**40], 0, 0)}), "larger than the file"),
    "many sides": (safetensors_file({"a": entry([1] * 100, 0, 4)}, ONE), "larger than the file"),
    "float side": (safetensors_file({"a": entry([1.0], 0, 4)}, ONE), "larger than the file"),  # type: ignore[list-item]
    "no shape": (safetensors_file({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, ONE), "is damaged"),
    "number": (safetensors_file(b'{"a":' + b"1" * 5000 + b"}"), "is damaged"),
    "list": (safetensors_file(b"[]"), "not a safetensors file"),
    "metadata": (safetensors_file({"__metadata__": {"a": 1}, "a": entry([1], 0, 4)}, ONE), "metadata that is not text"),
    "fp8": (safetensors_file({"a": entry([4], 0, 4, "F8_E4M3")}, ONE), "a tensor of type F8_E4M3"),
    "complex": (safetensors_file({"a": entry([1], 0, 8, "C64")}, ONE * 2), "a tensor of type C64"),
    "integers": (save({"a": torch.ones(2, 768, dtype=torch.int64)}), "holds int64 in a"),
    "doubles": (save({"a": ROWS.double()}), "holds float64 in a; expected float32"),
    "nan": (save({"a": ROWS.clone().fill_diagonal_(float("nan"))}), "has 2 values in a that are NaN or infinite"),
    "infinite": (save({"a": ROWS / 0}), "NaN or infinite"),
    "zeros": (save({"a": torch.zeros(2, 768)}), "nothing but zeros"),
    "nothing": (safetensors_file(b"{}"), "holds no tensors"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_safetensors_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    data, message = HOSTILE[case]
    path = tmp_path / "file.safetensors"
    path.write_bytes(data)
    with pytest.raises(ConceptError) as error:
        read_tensors(path, allow_pickle=True)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert str(error.value).isprintable()


def test_too_many_tensors(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(safetensors_file({str(i): entry([0], 0, 0) for i in range(20_001)}))
    with pytest.raises(ConceptError, match="more than 20000 tensors"):
        read_tensors(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConceptError, match="is not a file"):
        read_tensors(tmp_path)
    with pytest.raises(ConceptError, match="does not exist"):
        read_tensors(tmp_path / "none.safetensors")
    with pytest.raises(ConceptError, match="can't be read"):
        read_tensors("nul\0")
    large = tmp_path / "large.safetensors"
    with large.open("wb") as file:
        file.truncate(tensors.MAX_BYTES + 1)
    with pytest.raises(ConceptError, match="has 64 MiB; expected at most 64"):
        read_tensors(large)


def test_our_own_files_may_hold_any_type_and_value(tmp_path: Path) -> None:
    content = {
        "state": torch.arange(20, dtype=torch.uint8),
        "step": torch.tensor(3),
        "best": torch.tensor(float("inf")),
        "empty": torch.empty(0, 3),
        "flag": torch.tensor([True, False]),
    }
    path = tmp_path / "step.safetensors"
    path.write_bytes(save(content))
    got, _ = read_safetensors(path)
    assert got.keys() == content.keys()
    assert all(torch.equal(got[key], content[key]) and got[key].dtype == content[key].dtype for key in content)


@settings(max_examples=200, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=3)), min_size=1, max_size=3),
    cut=st.none() | st.integers(0, 10_000),
)
def test_any_damage_ends_in_tensors_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, bytes]], cut: int | None
) -> None:
    data = bytearray(save({"<a>": ROWS[:, :4].contiguous(), "b": torch.ones(3)}, metadata={"k": "v"}))
    for at, patch in edits:
        at %= len(data)
        data[at : at + len(patch)] = patch
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    path.write_bytes(data[:cut])
    try:
        got, _ = read_tensors(path)
    except ConceptError as error:
        assert str(error).isprintable()
    else:
        assert sum(tensor.nbytes for tensor in got.values()) <= len(data)


def torch_file(content: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


class Runs:
    """Touches a file when it is unpickled carelessly."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def deflated(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return b"\x80\x02" + buffer.getvalue()


def parameters() -> torch.nn.ParameterDict:
    return torch.nn.ParameterDict({"*": torch.nn.Parameter(ROWS)})


PICKLES_READ = {
    "diffusers": ({"<cat>": ROWS}, {"<cat>": ROWS}),
    "legacy": ({"<cat>": ROWS}, {"<cat>": ROWS}),
    "a1111": (
        {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": ROWS},
            "name": "cat",
            "step": 9,
            "sd_checkpoint": None,
        },
        {"*": ROWS},
    ),
    "first": ({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": parameters()}, {"*": ROWS}),
    "alone": (ROWS, {"*": ROWS}),
    "sdxl": (OrderedDict(clip_l=ROWS, clip_g=torch.ones(2, 1280)), {"clip_l": ROWS, "clip_g": torch.ones(2, 1280)}),
    "view": ({"<cat>": ROWS.t().contiguous().t()}, {"<cat>": ROWS}),
}


FORK_EACH = """
import os, sys, torch, safetensors.torch
from sentinv.files import unpickling
for path in sys.argv[1:]:
    if not os.fork():
        os.dup2(os.open(path, os.O_RDONLY), 0)
        os.dup2(os.open(path + ".answer", os.O_WRONLY | os.O_CREAT), 1)
        sys.argv[1:] = [str(2**26)]
        unpickling.resource.RLIMIT_FSIZE = unpickling.resource.RLIMIT_CORE  # the answer goes to a file here
        unpickling.main()
        sys.stdout.buffer.flush()
        os._exit(0)
    os.wait()
"""


def answers(folder: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    """What the reader of pickles says to each; as in its own process, but importing torch once for all."""
    paths = {case: folder / f"{number}.pt" for number, case in enumerate(files)}
    for case, path in paths.items():
        path.write_bytes(files[case])
    subprocess.run([sys.executable, "-c", FORK_EACH, *map(str, paths.values())], check=True)
    return {case: path.with_name(path.name + ".answer").read_bytes() for case, path in paths.items()}


def test_known_pickles_are_read(tmp_path: Path) -> None:
    files = {
        case: torch_file(content, _use_new_zipfile_serialization=case != "legacy")
        for case, (content, _) in PICKLES_READ.items()
    }
    for case, answer in answers(tmp_path, files).items():
        got, wanted = load(answer), PICKLES_READ[case][1]
        assert got.keys() == wanted.keys(), case
        assert all(torch.equal(got[key], wanted[key]) for key in wanted), case


def test_a_pickle_is_read_only_when_allowed(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(torch_file({"<cat>": ROWS}))
    with pytest.raises(ConceptError, match="is a pickle, which can run code: get it as"):
        read_tensors(path)
    got, header = read_tensors(path, allow_pickle=True)
    assert header == {}
    assert torch.equal(got["<cat>"], ROWS)


def refused_pickles(canary: Path) -> dict[str, tuple[bytes, str]]:
    giant = torch.ones(1).expand(10**9, 768)
    return {
        "runs": (torch_file({"<cat>": ROWS, "x": Runs(canary)}), "wants to use"),
        "runs bare": (b"cos\nsystem\n(S'touch %b'\ntR." % str(canary).encode(), "wants to use os.system"),
        "runs legacy": (torch_file(Runs(canary), _use_new_zipfile_serialization=False), "wants to use"),
        "constructor": (torch_file({"<cat>": np.ones(768)}), "wants to use"),
        "giant": (torch_file({"<cat>": giant}), "shape [1000000000, 768], more than 64 MiB"),
        "bomb": (deflated(torch_file({"<cat>": torch.zeros(2**20)})), "is compressed"),
        "sparse": (torch_file({"<cat>": ROWS.to_sparse()}), "sparse"),
        "nothing": (torch_file({"name": "cat"}), "holds no tensors"),
        "nested": (torch_file({"a": {"b": ROWS}}), "unknown layout"),
        "number": (torch_file(3), "holds no tensors but int"),
        "cut": (torch_file({"<cat>": ROWS})[:-400], "is damaged"),
        "zip": (deflated(b"PK\x05\x06" + b"\0" * 18), "is damaged"),
        "tar": (tar(), "is damaged"),
    }


def test_hostile_pickles_are_refused_and_run_nothing(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    cases = refused_pickles(canary)
    for case, answer in answers(tmp_path, {case: data for case, (data, _) in cases.items()}).items():
        assert answer[:1] == b"!", case
        assert cases[case][1] in answer.decode(), case
        assert answer.decode().isprintable()
    assert not canary.exists()


@pytest.mark.parametrize("case", ["runs", "nan"])
def test_a_hostile_pickle_is_told_in_one_line(tmp_path: Path, case: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / "file.bin"
    nan = torch_file({"<cat>": ROWS / 0}), "NaN or infinite"
    data, message = {**refused_pickles(canary), "nan": nan}[case]
    path.write_bytes(data)
    with pytest.raises(ConceptError) as error:
        read_tensors(path, allow_pickle=True)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert str(error.value).isprintable()
    assert not canary.exists()


def test_the_canary_works(tmp_path: Path) -> None:
    function, arguments = Runs(tmp_path / "canary").__reduce__()
    assert function(*arguments) == 0
    assert (tmp_path / "canary").exists()


def test_a_name_that_says_otherwise_is_refused(tmp_path: Path) -> None:
    pickle = tmp_path / "file.SafeTensors"
    pickle.write_bytes(torch_file({"<cat>": ROWS}))
    for allow in (False, True):
        with pytest.raises(ConceptError, match="under the name of a safetensors file"):
            read_tensors(pickle, allow_pickle=allow)
    for suffix in (".pt", ".bin", ".CKPT"):
        path = tmp_path / f"file{suffix}"
        path.write_bytes(save({"<cat>": ROWS}))
        with pytest.raises(ConceptError, match="is a safetensors file under another name"):
            read_tensors(path, allow_pickle=True)
