"""LoRAs in the files that other programs read; for words see `sentinv.concepts.export`.

diffusers reads our own layout. The rest read that of kohya's scripts: modules with "_" for ".", a matrix of each kind, alpha
beside them; for SDXL by the names of the original, for Stable Diffusion 1 and 2 by those of diffusers. How that was found
out: docs/files.md.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sentinv.adapters.bases import NAMES, bare_unet, base_of_lora
from sentinv.adapters.fitting import find
from sentinv.adapters.layouts import ADAPTER_METADATA, AS_WORDS, LoraLayer, narrowed
from sentinv.adapters.lora import Lora
from sentinv.adapters.names import adaptable, flat, original_name
from sentinv.concepts.concept import Concept
from sentinv.concepts.export import ARCHITECTURES, PROGRAMS, Export, export_word, file_stem, write_exports
from sentinv.concepts.layouts import BUNDLED, to_tensors
from sentinv.errors import ConceptError
from sentinv.files.atomic import StrPath
from sentinv.files.tensors import DIGEST, content_digest, safetensors_bytes

BUNDLE_READERS = ("a1111", "comfyui")
"""Programs that find words inside a LoRA's file."""

_PLACES = {
    "diffusers": 'pipeline.load_lora_weights("{file}")',
    "a1111": "put {file} into the folder models/Lora",
    "comfyui": "put {file} into the folder models/loras, and load it with the node Load LoRA",
    "invokeai": "add {file} in its model manager, and choose it under LoRAs",
    "kohya": "give it --network_module networks.lora --network_weights {file}",
    "onetrainer": "choose {file} as the LoRA's base, and set its rank, {rank}, and as layers {layers}",
}
_BUNDLE_PLACES = {
    "a1111": _PLACES["a1111"],
    "comfyui": "put {file} into both folders models/loras and models/embeddings, and load it with the node Load LoRA",
}
_INSIDE_BLOCK = re.compile(r".*\.(resnets\.\d+|transformer_blocks\.\d+|attn\d)\.")
_KOHYA_BASES = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}


def export_lora(lora: Lora, program: str) -> Export:
    """Lay a LoRA out for a program.

    Args:
        lora: of ours or of another program.
        program: as in `sentinv.concepts.export.PROGRAMS`.

    Raises:
        ConceptError: If it is for no base that the program knows, or does not fit the one that it seems to be for.
        ValueError: If there is no such program.
    """
    base, layers = _placed(lora, program)
    return _laid_out(replace(lora, layers=layers), program, base)


def export_bundle(lora: Lora, concept: Concept, program: str) -> Export:
    """Lay a LoRA and its word out as one file, which AUTOMATIC1111's web UI and ComfyUI read and diffusers refuses.

    Raises:
        ConceptError: As `export_lora` and `export_word`; if they do not belong together, or the program reads no such file.
        ValueError: If there is no such program.
    """
    base, layers = _placed(lora, program)
    if program not in BUNDLE_READERS:
        readers = " and ".join(PROGRAMS[name].label for name in BUNDLE_READERS)
        raise ConceptError(f"{PROGRAMS[program].label} reads no words inside a LoRA ({readers} do): leave --bundle out")
    word = export_word(concept, program)
    if (lora.token or concept.token) != concept.token or word.base != base:
        raise ConceptError(
            f"expected a LoRA and the word that it belongs to, got {lora.title} for {lora.token or 'a word'} on "
            f"{base or 'an unknown base'} and {concept.token} on {word.base}: they are no pair"
        )
    if lora.is_around_another(concept):
        raise ConceptError(f"{lora.of_another}: they are no pair; name the word it came with")
    rows = (
        {"string_to_param.*": concept.rows["text_encoder"]} if len(concept.rows) == 1 else to_tensors("", concept.rows)
    )
    bundled = {f"{BUNDLED}{file_stem(concept.token, base)}.{key}": value for key, value in rows.items()}
    return _laid_out(replace(lora, layers=layers, token=concept.token), program, base, bundled)


def export(
    thing: Concept | Lora,
    program: str,
    folder: StrPath = ".",
    *,
    overwrite: bool = False,
    bundle: Concept | None = None,
) -> Export:
    """Write the file or files in which a program reads a word or a LoRA.

    Args:
        thing: the word or the LoRA.
        program: "diffusers", "a1111", "comfyui", "invokeai", "kohya" or "onetrainer".
        folder: where to; it is made if it is not there.
        overwrite: replace what is there.
        bundle: the word of a LoRA, if it is to be in its file; for a LoRA only.

    Returns:
        What was written, where it goes (`place`) and what stands for the word in that program's prompts (`prompt`).

    Raises:
        ConceptError: If the program has no files of that kind for this base.
        SentinvError: If a file is there already and `overwrite` is not set, or cannot be written.
        TypeError: If it is neither.
        ValueError: If there is no such program, or a word is given with another.
    """
    if not isinstance(thing, Concept | Lora):
        raise TypeError(
            f"expected a Concept or a Lora, got {type(thing).__name__}: sentinv.load_concepts and load_lora read files"
        )
    if isinstance(thing, Concept):
        if bundle is not None:
            raise ValueError(
                "expected a LoRA for the bundle, got a word: give the LoRA first, and the word as its bundle"
            )
        made = export_word(thing, program)
    else:
        made = export_lora(thing, program) if bundle is None else export_bundle(thing, bundle, program)
    write_exports([made], folder, overwrite=overwrite)
    return made


def kohya_tensors(layers: Mapping[str, LoraLayer], name_of: Callable[[str], str]) -> dict[str, Tensor]:
    """Lay layers out as kohya's scripts do.

    Args:
        layers: by the names of the model's modules.
        name_of: from such a name to what the module is called there, with ".".
    """
    tensors = {}
    for name, layer in layers.items():
        place = f"lora_unet_{flat(name_of(name))}"
        tensors[f"{place}.lora_down.weight"] = layer.down
        tensors[f"{place}.lora_up.weight"] = layer.up
        tensors[f"{place}.alpha"] = torch.tensor(layer.alpha)
    return tensors


def _placed(lora: Lora, program: str) -> tuple[str, dict[str, LoraLayer]]:
    """The base of a LoRA, "" for one of no other program's, and its layers by the names of its modules."""
    if program not in PROGRAMS:
        raise ValueError(f"expected a program of {', '.join(PROGRAMS)}, got {program!r}")
    base = base_of_lora(lora)
    if not base:
        if program == "diffusers" and lora.is_ours:
            return "", dict(lora.layers)
        raise ConceptError(
            f"{PROGRAMS[program].label}: no LoRAs there for the base of {lora.title}, "
            f"{lora.base_model or 'which is not named'}; expected one of {', '.join(NAMES.values())}"
        )
    found = find(lora, bare_unet(base), NAMES[base])
    layers = {name: layer for name, layer in found.lora.layers.items() if program != "kohya" or "_block" in name}
    if not layers:
        raise ConceptError(
            f"{lora.title} has layers outside the UNet's blocks only, for which kohya's scripts have no place"
        )
    if program == "invokeai":
        _check_base_shows(lora.title, layers, base)
    if program == "onetrainer" and len(ranks := {layer.rank for layer in layers.values()}) > 1:
        own = ", ".join(map(str, sorted(ranks)))
        raise ConceptError(f"OneTrainer has one rank for all layers of a LoRA, and {lora.title} has several: {own}")
    outside = len(found.lora.layers) - len(layers)
    left = {**lora.left_out, "that it has not": len(found.missing), "for which kohya's scripts have no place": outside}
    parts = ", ".join(f"{count} {what}" for what, count in left.items() if count and what != AS_WORDS)
    if parts:
        warnings.warn(f"{lora.title} is for {NAMES[base]}; layers that are not exported: {parts}", stacklevel=3)
    return base, layers


def _check_base_shows(title: str, layers: Mapping[str, LoraLayer], base: str) -> None:
    """InvokeAI tells the base by the width of the first layer that reads the prompt or, as SDXL's, the timestep; or by depth.

    Raises:
        ConceptError: If it would take the file for another base's, or for none.
    """
    telling = ("attn2.to_k", "attn2.to_v") if base == "sdxl" else ("attn2.to_k", "attn2.to_v", "time_emb_proj")
    first = min((name for name in layers if name.endswith(telling)), key=flat, default="")
    depths = [int(depth) for name in layers for depth in re.findall(r"transformer_blocks\.(\d+)\.", name)]
    if not first.endswith(("to_k", "to_v")) and (base != "sdxl" or max(depths, default=0) < 2):
        raise ConceptError(
            f"InvokeAI would not take {title} for a LoRA for {NAMES[base]}: it looks for a layer attn2.to_k or to_v first, "
            f"{f'and this one begins with {first}' if first else 'and this one has none'}"
        )


def _laid_out(lora: Lora, program: str, base: str, bundled: Mapping[str, Tensor] | None = None) -> Export:
    word = lora.metadata.get("modelspec.trigger_phrase", "")
    if lora.token:
        word = PROGRAMS[program].prompt.format(name=file_stem(lora.token, base), token=lora.token)
    stem = re.sub(r"[^a-z0-9_]+", "-", Path(lora.name).stem.lower()).strip("-") or "lora"
    name = file_stem(f"{lora.token}-lora", base) if lora.token else f"{stem.removesuffix(f'-{base}')}-{base}"
    if program == "comfyui" and bundled:
        word = f"embedding:{name}"
    prompt = f"{word} <lora:{name}:1>".strip() if program == "a1111" else word
    header = {**lora.header(), **({"modelspec.trigger_phrase": prompt} if lora.token else {})}
    if base:
        header["modelspec.architecture"] = f"{ARCHITECTURES[base]}/lora"
    if program == "diffusers":
        content = lora.to_bytes(header)
    else:
        content = _kohya_bytes(lora, base, {**header, "ss_output_name": name}, bundled or {})
    place = (_BUNDLE_PLACES if bundled else _PLACES)[program].format(
        file=f"{name}.safetensors", rank=lora.rank, layers=_onetrainer_layers(lora, base)
    )
    kind = "bundle" if bundled else "lora"
    return Export(program, kind, lora.token, base, {f"{name}.safetensors": content}, prompt, place)


def _onetrainer_layers(lora: Lora, base: str) -> str:
    """What its users choose, because OneTrainer takes a file only if it has all layers that are trained.

    Its own filter has texts, separated by commas, one of which a layer's name must contain (`modules/util/ModuleFilter.py`).
    """
    every = adaptable(bare_unet(base)) if base else {}
    if lora.layers.keys() == {name for name in every if "attn" in name}:
        return "attn-only"
    ends = sorted({_INSIDE_BLOCK.sub("", name) for name in lora.layers})
    found = {name for name in every if any(end in name for end in ends)}
    return f"the filter {','.join(ends)}" if lora.layers.keys() == found else "a filter for those of the file alone"


def _kohya_bytes(lora: Lora, base: str, header: Mapping[str, str], bundled: Mapping[str, Tensor]) -> bytes:
    """A file in the layout of kohya's scripts; in float16 if that loses nothing."""
    config = bare_unet(base).config if base == "sdxl" else None
    tensors = kohya_tensors(lora.layers, lambda name: (config and original_name(name, config)) or name) | dict(bundled)
    alpha = max(lora.layers.values(), key=lambda layer: layer.rank).alpha
    told = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(lora.rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_base_model_version": _KOHYA_BASES[base],
        "ss_v2": str(base == "sd2"),
    }
    header = {key: value for key, value in header.items() if key != ADAPTER_METADATA} | told
    tensors, dtype = narrowed(tensors)
    header[DIGEST] = content_digest(tensors, header)
    return safetensors_bytes(tensors, header, dtype=dtype)
