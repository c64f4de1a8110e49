"""R3, R4: hostile embeddings and LoRAs are refused in one line and run nothing; every known benign layout is read.

    python benchmarks/reliability/tensors.py [CORPUS_FOLDER ...]

Files of the corpora (of malicious pickles, say) are hostile; those of them that are read, because they hold nothing but
tensors, are listed as plain. Pickles go through the whole way, with a process for each.
"""

import argparse
import io
import json
import os
import random
import struct
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from kit import report, watched
from safetensors.torch import save

from sentinv.concepts.concept import Concept
from sentinv.errors import SentinvError
from sentinv.files.tensors import read_tensors

WIDTHS = (768, 1024, 1280, 2048, 4096)
CANARY = Path(tempfile.gettempdir()) / f"canary-{os.getpid()}"


class Runs:
    """Calls something when it is unpickled carelessly."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def torch_file(content: object, **options: Any) -> bytes:
    """As torch.save writes it."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def benign() -> Iterator[tuple[str, bytes, bool]]:
    """Name, content, and whether it makes a concept (a LoRA doesn't)."""
    for width in WIDTHS:
        rows = torch.randn(3, width)
        for key in ("<cat>", "emp_params", "emb_params", "*", "cat toy"):
            yield f"{width}-{key.strip('<*>')}.safetensors", save({key: rows}), True
        yield f"{width}-one.safetensors", save({"<cat>": rows[0].clone()}), True
        yield f"{width}-diffusers.bin", torch_file({"<cat>": rows}), False
        a1111 = {"string_to_token": {"*": 265}, "name": "cat", "step": 99, "sd_checkpoint": None}
        yield f"{width}-a1111.pt", torch_file({**a1111, "string_to_param": {"*": rows}}), False
    for dtype in (torch.float16, torch.bfloat16):
        yield f"{dtype}.safetensors", save({"<cat>": torch.randn(2, 768).to(dtype)}), True
    both = {"clip_l": torch.randn(2, 768), "clip_g": torch.randn(2, 1280)}
    yield "sdxl.safetensors", save(both), True
    yield "sdxl.pt", torch_file(both), False
    parameters = torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.randn(1, 1280))})
    first = {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": parameters}
    yield "first.pt", torch_file(first), False
    yield "legacy.pt", torch_file({"<cat>": torch.randn(2, 768)}, _use_new_zipfile_serialization=False), False
    for rank in (1, 4, 128):
        kohya = {
            "lora_unet_a.lora_down.weight": torch.ones(rank, 320),
            "lora_unet_a.lora_up.weight": torch.zeros(320, rank),
        }
        yield f"kohya-{rank}.safetensors", save({**kohya, "lora_unet_a.alpha": torch.tensor(rank)}), False
        peft = {"unet.a.lora_A.weight": torch.ones(rank, 320), "unet.a.lora_B.weight": torch.zeros(320, rank)}
        yield f"peft-{rank}.safetensors", save(peft, metadata={"lora_adapter_metadata": "{}"}), False


def hostile_safetensors() -> Iterator[tuple[str, bytes]]:
    """Headers that lie, data that does not fit, values that are of no use, and cuts."""

    def file(header: Any, data: bytes = b"") -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data

    def one(**changes: Any) -> dict[str, Any]:
        return {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}}

    data = struct.pack("<4f", 1, 2, 3, 4)
    shapes = [
        [2, 3],
        [-2, -2],
        [2**62, 4],
        [2, 2, 2**62, 0],
        [1.0, 4],
        ["2", 2],
        [True, 4],
        None,
        {},
        [2, [2]],
        [1] * 9,
    ]
    offsets = [[0, 15], [0, 17], [1, 17], [16, 0], [-16, 0], [0, 2**63], [0], [0, 16, 32], [0.0, 16], None, "0,16"]
    types = [
        "F64",
        "I8",
        "I16",
        "U16",
        "C64",
        "F8_E4M3",
        "F8_E5M2",
        "f32",
        "",
        None,
        3,
        [],
        "F4",
        "Q8",
        "BOOL",
        "I64",
        "U8",
    ]
    changes = [{"shape": s} for s in shapes] + [{"data_offsets": o} for o in offsets] + [{"dtype": t} for t in types]
    for number, change in enumerate([*changes, {"more": 1}]):
        yield f"entry-{number}", file(one(**change), data)
    for number, value in enumerate([float("nan"), float("inf"), float("-inf"), 0.0]):
        yield f"value-{number}", save({"a": torch.full((3, 768), value)})
    texts = [b"{", b"[]", b"null", b"{}", b'{"a":', b"{'a':1}", b'{"a":NaN}', b"\xff\xfe{}", b"{\0}", b'{"a":' * 99_999]
    metadata = [1, None, [], {"a": 1}, {"a": None}, {"a": {"b": "c"}}, "text"]
    texts += [json.dumps({"__metadata__": m, **one()}).encode() for m in metadata]
    for number, text in enumerate(texts):
        yield f"header-{number}", file(text, data)
    for number, length in enumerate([0, 1, 2**25, 2**31, 2**32, 2**62, 2**63, 2**64 - 1]):
        yield f"length-{number}", struct.pack("<Q", length) + json.dumps(one()).encode() + data
    yield "big-header", struct.pack("<Q", 2**24) + b"{" + b" " * (2**24 + 100)
    yield "nested", file(b'{"a":[' + b"[]," * 2_600_000 + b"1]}", data)
    yield "twice", file(b'{"a":1,"a":2}', data)
    yield "overlap", file({"a": one()["a"], "b": one()["a"]}, data)
    yield "many", file({str(i): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(99_999)})
    whole = save({"<cat>": torch.randn(2, 768)}, metadata={"name": "cat"})
    for number, cut in enumerate(range(0, len(whole), len(whole) // 100)):
        yield f"cut-{number}", whole[:cut]
        yield f"tail-{number}", whole + b"\0" * (number + 1)


def hostile_pickles() -> Iterator[tuple[str, bytes]]:
    """Pickles that run something, lie about sizes, or are damaged; as zip, legacy and bare."""
    touch = f"touch {CANARY}"
    import builtins
    import shutil
    import subprocess
    import webbrowser

    calls = [
        Runs(os.system, touch),
        Runs(os.popen, touch),
        Runs(subprocess.Popen, ["touch", str(CANARY)]),
        Runs(subprocess.check_output, ["touch", str(CANARY)]),
        Runs(getattr(builtins, "ex" + "ec"), f"open({str(CANARY)!r}, 'w')"),
        Runs(getattr(builtins, "ev" + "al"), f"open({str(CANARY)!r}, 'w')"),
        Runs(builtins.open, str(CANARY), "w"),
        Runs(shutil.copy, __file__, str(CANARY)),
        Runs(webbrowser.open, "http://127.0.0.1"),
        Runs(Path.touch, CANARY),
        Runs(os.mkdir, str(CANARY)),
        Runs(__import__, "antigravity"),
        Runs(torch.hub.load, "a/b", "c"),
        Runs(print, "x"),
    ]
    rows = torch.randn(2, 768)
    for number, call in enumerate(calls):
        for legacy in (False, True):
            for place, content in enumerate(
                [call, {"<cat>": rows, "x": call}, {"string_to_param": {"*": rows, "x": [call]}}]
            ):
                yield f"runs-{number}-{place}-{legacy}", torch_file(content, _use_new_zipfile_serialization=not legacy)
    giants = [torch.ones(1).expand(10**9, 768), torch.ones(768).expand(2**20, 768), torch.ones(1).expand(2**62)]
    odd = [
        rows.to_sparse(),
        rows.to_sparse_csr(),
        torch.quantize_per_tensor(rows, 0.1, 0, torch.qint8),
        rows.to("meta"),
    ]
    odd += [rows.to(dtype) for dtype in (torch.int64, torch.bool, torch.float64, torch.complex64, torch.float8_e4m3fn)]
    odd += [rows / 0, rows * float("nan"), torch.zeros(2, 768), torch.empty(0, 768)]
    plain: list[object] = [3, "text", [rows], {"a": {"b": {"c": rows}}}, {1: rows}, None, {}, {"a": [rows]}, (rows,)]
    for number, content in enumerate([{"<cat>": tensor} for tensor in giants + odd] + plain):
        yield f"content-{number}", torch_file(content)
    whole = torch_file({"<cat>": rows})
    for number, cut in enumerate(range(1, len(whole), len(whole) // 30)):
        yield f"cut-{number}", whole[:cut]
    buffer = io.BytesIO()
    zeros = io.BytesIO(torch_file({"a": torch.zeros(2**26)}))
    with zipfile.ZipFile(zeros) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
    yield "bomb", buffer.getvalue()
    chance = random.Random(0)
    for number in range(20):  # the pickle's own bytes, not those of the numbers
        content, at = bytearray(whole), whole.index(b"\x80\x02") + chance.randrange(2, 40)
        content[at : at + 3] = b"\xff\xfe\xfd"
        yield f"opcode-{number}", bytes(content)


def main() -> None:
    """Read them all, one watched child each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", nargs="*", type=Path)
    arguments = parser.parse_args()
    files = sorted(path for folder in arguments.corpora for path in folder.rglob("*") if path.is_file())
    hostile = [(f"{name}.safetensors", data) for name, data in hostile_safetensors()]
    pickles = [*hostile_pickles(), *((f"corpus-{path.name}", path.read_bytes()) for path in files)]
    hostile += [(f"{name}.pt", data) for name, data in pickles]
    hostile += [(f"{name}.safetensors", data) for name, data in pickles[::2]]
    torch.set_num_threads(1)  # its other threads would not outlive a fork
    base = watched(lambda: None).memory
    kinds: Counter[str] = Counter()
    slowest, largest, failures, plain = 0.0, 0, [], []
    with tempfile.TemporaryDirectory() as folder:
        for name, data in hostile:
            path = Path(folder) / name.replace("/", "_")
            path.write_bytes(data)
            outcome = watched(lambda: len(read_tensors(path, allow_pickle=True)[0]), 60)  # noqa: B023 - called at once
            path.unlink()
            kinds[outcome.kind] += 1
            slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.memory - base)
            if outcome.kind == "ok" and name.startswith("corpus-"):
                plain.append(name)
            elif outcome.kind != "refused" or CANARY.exists():
                failures.append(f"{name}: {outcome.kind} {outcome.message[-200:]}")
                print(failures[-1], file=sys.stderr)
        runs = int(CANARY.exists())
        layouts, refused = 0, []
        for name, data, is_concept in benign():
            path = Path(folder) / name
            path.write_bytes(data)
            layouts += 1
            try:
                read_tensors(path, allow_pickle=True)
                if is_concept:
                    Concept.load(path)
            except SentinvError as error:
                refused.append(f"{name}: {error}")
                print(refused[-1], file=sys.stderr)
    report(
        "tensors",
        f"{kinds['refused']} of {len(hostile) - len(plain)} hostile files refused in one line, {runs} ran code, slowest "
        f"{slowest:.1f} s of CPU, {largest / 1e6:.0f} MB above the start; {layouts - len(refused)} of {layouts} benign read",
        outcomes=dict(kinds),
        from_corpora=len(files),
        plain=plain,
        failures=failures[:20],
        refused=refused[:20],
    )
    sys.exit(bool(failures or refused or runs))


if __name__ == "__main__":
    main()
