"""The built-in model: where its files are, and whether they are what was shipped."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path

from sentinv.errors import ModelError

TOYBOX = "toybox"
"""The name of the built-in model."""


def built_in(part: str) -> Path:
    """The folder of a part of the built-in model: "pipeline", "captioner", "classifier", "attributes", "clip" or "tower".

    "clip" judges; "tower" is the image side of the pipeline's text encoder, and doesn't.

    Raises:
        ModelError: If a file of it is missing, or is not what was shipped.
    """
    folder = Path(str(resources.files("sentinv"))) / "toybox"
    advice = "install sentinv again, or name another model"
    try:
        digests = json.loads((folder / "digests.json").read_text(encoding="utf-8"))
        wanted = {name: digest for name, digest in digests.items() if name.startswith(f"{part}/")}
        for name, digest in wanted.items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise ModelError(f"the built-in {part} is damaged: {name} is not what was shipped; {advice}")
    except (OSError, ValueError) as error:
        raise ModelError(f"this installation lacks the built-in {part}, or a file of it: {advice}") from error
    if not wanted:
        raise ModelError(f"this installation lacks the built-in {part}: {advice}")
    return folder / part
