"""Learned words of the hub: `owner/name` becomes a file here."""

from __future__ import annotations

from pathlib import Path

from sentinv.errors import ConceptError, ModelError
from sentinv.models.names import is_hub_id
from sentinv.models.parts import load_part

_KNOWN = "learned_embeds.safetensors"
"""What diffusers calls the file of a concept."""


def local_file(path: str | Path) -> Path:
    """The file that a path or a hub id stands for; that of a hub id is downloaded, unless it is in the cache.

    Only `.safetensors` files are taken from the hub. A name that exists here, or ends as files of concepts do, is a path.

    Raises:
        ConceptError: If the hub has no such repository, it is out of reach, or which file is meant cannot be told.
    """
    text, path = str(path), Path(path)
    if path.exists() or path.suffix in (".safetensors", ".pt", ".bin") or not is_hub_id(text):
        return path
    try:
        return Path(load_part(text, "the learned word", lambda: _downloaded(text)))
    except ModelError as error:
        raise ConceptError(str(error).replace("no model named", "no file here and no concept")) from error


def _downloaded(repository: str) -> str:
    from huggingface_hub import HfApi, constants, hf_hub_download

    if constants.HF_HUB_OFFLINE:
        return hf_hub_download(repository, _KNOWN)  # from the cache
    files = [name for name in HfApi().list_repo_files(repository) if name.endswith(".safetensors")]
    if _KNOWN not in files and len(files) != 1:
        found = ", ".join(files[:4]) or "none"
        raise ConceptError(
            f"{repository} on the hub: expected one .safetensors file, got {found}; download the right one and name it"
        )
    return hf_hub_download(repository, _KNOWN if _KNOWN in files else files[0])
