"""Weights that are all there, or one line that says which are not.

The libraries give random numbers to weights that a file lacks, with a warning at most: another picture, label or caption at
every call. So they are asked what was missing, everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sentinv.errors import ModelError
from sentinv.files.kinds import POINTER
from sentinv.models.headers import read_header, refuse_quantised
from sentinv.models.parts import load_part

_TEXT_LAYER = re.compile(r"(text_model\.)?encoder\.layers\.\d+\.")
"""Weights of which a text encoder has too many only by a config that is not its own."""

_PRECISIONS = {"bfloat16", "float16", "float32", "float64"}


def load_whole(
    name: str,
    part: str,
    read: Callable[[], tuple[Any, Mapping[str, Any]]],
    *,
    surplus: bool = True,
    otherwise: str = "",
) -> Any:
    """Load a part that has weights.

    Args:
        name: of the model.
        part: what it is called in messages.
        read: loads it with `output_loading_info`, of diffusers or transformers.
        surplus: whether a file may have weights that the part has no place for, but for whole layers of text.
        otherwise: as for `load_part`.

    Raises:
        ModelError: As `load_part`; and if weights are missing, of another shape, or too many.
    """
    model, info = load_part(name, part, read, otherwise=otherwise)
    refuse_missing(name, part, [*info["missing_keys"], *meta_weights(model)])
    mismatched = sorted(
        str(one[0] if isinstance(one, tuple | list) else one) for one in info.get("mismatched_keys", ())
    )
    if mismatched:
        raise ModelError(
            f"cannot load {part} of {name}: {some(mismatched)} of another shape than its config says; the two do not belong "
            "together"
        )
    more = sorted(key for key in info.get("unexpected_keys", ()) if not surplus or _TEXT_LAYER.match(key))
    if more:
        raise ModelError(
            f"cannot load {part} of {name}: {some(more)} without a place in it; the weights and the config do not belong "
            "together"
        )
    return model


def refuse_missing(name: str, part: str, missing: Iterable[str], otherwise: str = "") -> None:
    """Say which weights are missing.

    Args:
        name: of the model.
        part: of it.
        missing: names of weights.
        otherwise: what else there may be to it than that it is incomplete.

    Raises:
        ModelError: If any are.
    """
    found = sorted(set(missing))
    if found:
        raise ModelError(
            f"cannot load {part} of {name}: {some(found)} missing; the model is incomplete: get it again, or another "
            f"one{otherwise}"
        )


def refuse_wordless(name: str, part: str, tokenizer: Any) -> None:
    """Refuse what transformers builds, silently, where it finds no vocabulary.

    Raises:
        ModelError: If a tokenizer is that.
    """
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ModelError(f"cannot load {part} of {name}: its vocabulary is missing; the model is incomplete")


def meta_weights(module: nn.Module) -> list[str]:
    """Names of the weights of a module that nobody loaded: they have a shape and no values."""
    return [key for key, value in module.state_dict(keep_vars=True).items() if value.is_meta]


def check_weights(name: str, module: nn.Module) -> None:
    """Refuse a module of a pipeline that was handed over with weights that cannot be used.

    Raises:
        ModelError: If weights are missing, or quantised.
    """
    kind = type(module).__name__
    refuse_missing(name, kind, meta_weights(module))
    odd = {str(weight.dtype).removeprefix("torch.") for weight in module.parameters()} - _PRECISIONS
    if odd:
        raise ModelError(
            f"{name}: expected weights in {', '.join(sorted(_PRECISIONS))}, got {', '.join(sorted(odd))} in {kind}: quantised "
            "models are not supported; load it in 16 bits"
        )


@torch.no_grad()
def spoiled(module: nn.Module) -> list[str]:
    """Names of the weights of a module that hold NaN or infinities: of all of them in one go, so that a GPU waits once."""
    named = [(name, weight) for name, weight in module.named_parameters() if weight.numel() and not weight.is_meta]
    if not named:
        return []
    extremes = torch.stack([torch.stack(weight.detach().aminmax()).float() for _, weight in named])
    wrong = ~torch.isfinite(extremes).all(dim=1)
    return [name for (name, _), is_wrong in zip(named, wrong.tolist(), strict=True) if is_wrong]


def refuse_spoiled(name: str, parts: Mapping[str, nn.Module]) -> None:
    """Refuse weights with which every picture is black.

    Args:
        name: of the model.
        parts: what each is called → the module, where it will run.

    Raises:
        ModelError: If some hold NaN or infinities.
    """
    for part, module in parts.items():
        if found := spoiled(module):
            half = any(weight.dtype == torch.float16 for weight in module.parameters())
            more = "; if they are too large for float16, load it in bfloat16 or float32 (--dtype)" if half else ""
            raise ModelError(
                f"cannot use {part} of {name}: {some(found)} NaN or infinite, and every picture would be black; the file is "
                f"damaged or a merge that went wrong: get it again, or another one{more}"
            )


def variants(source: str, part: str, dtype: torch.dtype | None) -> Sequence[dict[str, Any]]:
    """How to ask for the weights of a part, the best first: half precision half as large, where that is wanted.

    Args:
        source: a folder or a hub id.
        part: the sub-folder; "" for the folder itself.
        dtype: that the weights will have.
    """
    half: dict[str, Any] = {"variant": "fp16", "use_safetensors": True}
    whole: dict[str, Any] = {"use_safetensors": True}
    any_format: dict[str, Any] = {}
    if dtype is not None and dtype.itemsize == 2:
        return (half, whole, any_format)
    return (whole, half, any_format)


def read_weights(family: Any, source: str, part: str, *, dtype: torch.dtype) -> tuple[Any, Mapping[str, Any]]:
    """Read the weights of a part of a folder or a hub's repository, with what the library says of them.

    Raises:
        OSError: If there are none.
    """
    refuse_pointers(source, part)
    key = "torch_dtype" if family.__module__.startswith("diffusers.models") else "dtype"
    options = {"output_loading_info": True, key: dtype} | ({"subfolder": part} if part else {})
    first: OSError | None = None
    for variant in _present(source, part, variants(source, part, dtype)):
        try:
            return family.from_pretrained(source, **options, **variant)
        except OSError as error:
            first = error if first is None or "variant" not in variant else first
    raise first or OSError("no weights")


def _present(source: str, part: str, asked: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Of the ways to ask, the one that a folder has files for: a damaged file is not passed over for another.

    Raises:
        OSError: If its files cannot be read, or there are none.
        ModelError: If they are quantised.
    """
    folder = Path(source, part)
    if not folder.is_dir():
        return asked
    there: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir(), key=lambda one: ("non_ema" in one.name, one.name)):
        if found := _WEIGHTS.fullmatch(path.name):
            there.setdefault(found["variant"] or found["behind"] or "", []).append(path)
    wanted = [one.get("variant", "") for one in asked if "use_safetensors" in one]
    variant = next((one for one in [*wanted, *there] if one in there), None)
    if variant is None:
        _refuse_others(folder, part)
        return [{}]
    for path in there[variant]:
        name = str(Path(part, path.name))
        try:
            header = read_header(name, path)
        except ModelError as error:
            raise OSError(str(error)) from error
        refuse_quantised(name, header)
    return [{"use_safetensors": True} | ({"variant": variant} if variant else {})]


_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>[\w]+))?(?:-\d+-of-\d+)?(?:\.(?P<behind>[\w]+))?\.safetensors"
)
"""Files of weights, and what stands in their names for a variant: "fp16"."""


def _refuse_others(folder: Path, part: str) -> None:
    """Say what a folder holds that has no weights which can be read.

    Raises:
        OSError: If there are not even those of torch.
    """
    names = [path.name for path in sorted(folder.iterdir()) if path.suffix not in (".json", ".txt", ".md")]
    if not any(".bin" in name for name in names):
        raise OSError(
            f"{part or folder.name} holds {', '.join(names[:3]) or 'none'}: expected weights in "
            "(diffusion_pytorch_)model.safetensors; get the model with those, or give the file its right name"
        )


def refuse_pointers(source: str, part: str) -> None:
    """Refuse a folder that was cloned without its large files.

    Raises:
        ModelError: If a file of it stands for one in Git LFS.
    """
    folder = Path(source, part)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(POINTER):
            raise ModelError(
                f"{Path(part, path.name)} is a pointer of Git LFS and not the file itself: run `git lfs pull` in that folder"
            )


def some(keys: Sequence[str]) -> str:
    """Count keys and name the first: "3 weights (a, b, …) are"."""
    shown = ", ".join(keys[:2]) + (", …" if len(keys) > 2 else "")
    return f"the weight {shown} is" if len(keys) == 1 else f"{len(keys)} weights ({shown}) are"
