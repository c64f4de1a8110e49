"""Hostile LoRAs are refused in one line; every known benign layout is put on and taken off.

python benchmarks/reliability/loras.py

Each goes the whole way in a child of its own, as export and generate --lora do it: read, laid out for another program, put on
a tiny model, taken off.
"""

import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from kit import report, watched
from safetensors.torch import save
from tensors import hostile_pickles, hostile_safetensors, torch_file
from tiny import backbone
from torch import Tensor

from sentinv.adapters.bases import UNETS, bare_unet
from sentinv.adapters.export import export_lora
from sentinv.adapters.install import adapted, fresh_layers
from sentinv.adapters.layouts import ADAPTER_METADATA, LoraLayer
from sentinv.adapters.lora import Lora, load_lora
from sentinv.adapters.names import flat
from sentinv.concepts.reading import load_concepts
from sentinv.errors import SentinvError
from sentinv.models.backbone import Backbone

Tensors = dict[str, Tensor]


def layers_of(model: Backbone) -> dict[str, LoraLayer]:
    """On all attention, with numbers in both matrices."""
    generator = torch.Generator().manual_seed(0)
    fresh = fresh_layers(model.unet, ("to_q", "to_k", "to_v", "to_out.0"), 2, generator)
    return {
        n: LoraLayer(one.down, torch.randn(one.up.shape, generator=generator), one.alpha) for n, one in fresh.items()
    }


def kohya(layers: dict[str, LoraLayer]) -> Tensors:
    """As kohya's scripts name them."""
    tensors: Tensors = {}
    for name, layer in layers.items():
        place = f"lora_unet_{flat(name)}"
        tensors |= {f"{place}.lora_down.weight": layer.down, f"{place}.lora_up.weight": layer.up}
        tensors[f"{place}.alpha"] = torch.tensor(layer.alpha)
    return tensors


def diffusers(layers: dict[str, LoraLayer]) -> Tensors:
    """As diffusers does."""
    down = {f"unet.{name}.lora_A.weight": layer.down for name, layer in layers.items()}
    return down | {f"unet.{name}.lora_B.weight": layer.up for name, layer in layers.items()}


def file(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    """As the library writes it."""
    return save({key: value.clone().contiguous() for key, value in tensors.items()}, metadata)


def spoilt(layers: dict[str, LoraLayer]) -> Iterator[tuple[str, bytes]]:
    """Files of the right format whose content is of no use."""
    good, plain = kohya(layers), diffusers(layers)
    first = next(iter(good)).partition(".")[0]
    down, up, alpha = (f"{first}.{part}" for part in ("lora_down.weight", "lora_up.weight", "alpha"))
    for key in (down, up, alpha):
        for value in ("nan", "inf", "-inf"):
            yield f"{value} in {key[-12:]}", file(good | {key: torch.full_like(good[key], float(value))})
        for shape in ((), (0,), (2,), (2, 0), (0, 16), (2, 3, 4), (2, 3, 4, 5, 6), (100_000, 1), (1, 100_000), (3, 3)):
            if (key, shape) != (alpha, ()):
                yield f"{key[-12:]} of {shape}", file(good | {key: torch.ones(shape)})
        for dtype in (
            torch.float64,
            torch.int64,
            torch.int8,
            torch.uint8,
            torch.bool,
            torch.float8_e4m3fn,
            torch.complex64,
        ):
            if (key, dtype) not in {
                (alpha, torch.int64),
                (alpha, torch.uint8),
                (alpha, torch.float64),
                (alpha, torch.bool),
            }:
                yield f"{dtype} in {key[-12:]}", file(good | {key: torch.ones(good[key].shape).to(dtype)})
        if key != alpha:
            yield f"without {key[-12:]}", file({name: value for name, value in good.items() if name != key})
    yield "alpha 0", file(good | {alpha: torch.tensor(0.0)})
    yield "alpha of several", file(good | {alpha: torch.ones(4)})
    yield "rank 100,000", file({down: torch.ones(100_000, 16), up: torch.ones(16, 100_000)})
    yield "zeros", file({key: torch.zeros_like(value) for key, value in good.items()})
    odd = (
        "what.is.this",
        "",
        ".",
        "lora_A",
        ".lora_A.weight",
        "a" * 9_000,
        "a\n\x1b[31mb\0",
        "\u202e",
        "unet",
        "lora_unet_",
    )
    for number, key in enumerate(odd):
        yield f"unknown key {number}", file(good | {key: torch.ones(2)})
        yield (
            f"no module {number}",
            file({f"{key}.lora_down.weight": torch.ones(2, 16), f"{key}.lora_up.weight": torch.ones(16, 2)}),
        )
    yield "a layer twice", file(good | plain)
    for kind in ("hada_w1_a", "lokr_w1", "oft_blocks", "dora_scale", "lora_mid.weight", "lora_magnitude_vector.weight"):
        yield kind, file(good | {f"{first}.{kind}": torch.ones(2, 2)})
    yield "text encoder only", file({key.replace("unet", "te"): value for key, value in good.items()})
    yield "a word", file({"<cat>": torch.ones(2, 16)})
    yield "bundle only", file({"bundle_emb.cat.clip_l": torch.ones(2, 16)})
    yield "20,001 tensors", file({f"a{number}": torch.ones(1) for number in range(20_001)})


def odd_headers(layers: dict[str, LoraLayer]) -> Iterator[tuple[str, bytes]]:
    """Headers that lie about rank and alpha, or would take for ever."""
    texts = [
        *(
            "[]",
            "{",
            "null",
            "3",
            '"a"',
            '{"unet.lora_alpha": "x"}',
            '{"unet.lora_alpha": NaN}',
            '{"unet.lora_alpha": 1e999}',
        ),
        *(
            f'{{"unet.alpha_pattern": {value}}}'
            for value in ("3", "[1]", '{"(": 1}', '{"a": "b"}', '{"((\\\\w+[._])+)+!": 1}')
        ),
        '{"unet.alpha_pattern": {"(.*)*(.*)*(.*)*x": 4}}',
        '{"a":' * 50_000,
    ]
    for number, text in enumerate(texts):
        yield f"rank and alpha {number}", file(diffusers(layers), {ADAPTER_METADATA: text})
    whole = Lora(layers=layers, token="<c>").to_bytes()
    for number, cut in enumerate(range(0, len(whole), len(whole) // 100)):
        yield f"cut {number}", whole[:cut]
        yield f"tail {number}", whole + bytes(number + 1)
    chance = torch.Generator().manual_seed(0)
    for number in range(100):
        at = int(torch.randint(len(whole), (1,), generator=chance))
        yield f"bit {number}", whole[:at] + bytes([whole[at] ^ (1 << number % 8)]) + whole[at + 1 :]
    entry = b'"unet.a.lora_A.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}'
    for text in (b"{%b,%b}" % (entry, entry), b"{" + b" " * 2**24 + entry + b"}"):
        yield f"header of {len(text)}", struct.pack("<Q", len(text)) + text + bytes(4)
    yield "a header of 2**40", struct.pack("<Q", 2**40) + b"{" + bytes(100)


def other_bases() -> Iterator[tuple[str, bytes]]:
    """For Stable Diffusion 1, 2 and XL, where the model is another one."""
    for base in UNETS:
        unet = bare_unet(base)
        name = next(name for name, _ in unet.named_modules() if name.endswith("attn2.to_k"))
        shape = unet.get_submodule(name).weight.shape
        layer = LoraLayer(torch.ones(4, shape[1]), torch.ones(shape[0], 4), 4.0)
        yield f"kohya for {base}", file(kohya({name: layer}))
        yield f"diffusers for {base}", file(diffusers({name: layer}))
    yield "for Flux", file({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(2, 8)})


def whole_way(path: Path, model: Backbone) -> str:
    """Read, export, put on, take off; that no program has such a base is no refusal of the file."""
    lora = load_lora(path)
    with suppress(SentinvError):
        export_lora(lora, "kohya")
    if lora.bundled:
        load_concepts([path])
    with adapted(model, [lora]) as adapters:
        return adapters.fitted[0].told


def main() -> None:
    """All of them, one watched child each."""
    torch.set_num_threads(1)  # its other threads would not outlive a fork
    model = backbone()
    _ = model.fingerprint
    layers = layers_of(model)
    hostile = [*spoilt(layers), *odd_headers(layers), *other_bases(), *hostile_safetensors()]
    hostile += list(hostile_pickles())[::4]
    hostile.append(("a LoRA as a pickle", torch_file(kohya(layers))))
    named = {"unet": file(kohya(layers)), "diffusers": file(diffusers(layers)), "ours": Lora(layers=layers).to_bytes()}
    named["half"] = file({key: value.half() for key, value in kohya(layers).items()})
    named["int64 alpha"] = file({k: v.long() if k.endswith("alpha") else v for k, v in kohya(layers).items()})
    base = watched(lambda: None).memory
    kinds: Counter[str] = Counter()
    slowest, largest, failures = 0.0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cat-lora.safetensors"
        for name, data in hostile:
            path.write_bytes(data)
            outcome = watched(lambda: whole_way(path, model), 60)
            kinds[outcome.kind] += 1
            slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.memory - base)
            if outcome.kind != "refused":
                failures.append(f"{name}: {outcome.kind} {outcome.message[-300:]}")
                print(failures[-1], file=sys.stderr)
        read = 0
        for name, data in named.items():
            path.write_bytes(data)
            outcome = watched(lambda: whole_way(path, model))
            read += outcome.kind == "ok"
            if outcome.kind != "ok":
                print(f"{name}: {outcome.message[-500:]}", file=sys.stderr)
    report(
        "loras",
        f"{kinds['refused']} of {len(hostile)} hostile LoRAs refused in one line, {kinds['traceback']} tracebacks, slowest "
        f"{slowest:.1f} s of CPU, {largest / 1e6:.0f} MB above the start; {read} of {len(named)} benign put on",
        outcomes=dict(kinds),
        failures=failures[:20],
    )
    sys.exit(bool(failures or read < len(named)))


if __name__ == "__main__":
    main()
