"""Put the trained parts into the package: fp16 safetensors in the standard layouts.

Configs say float32 all the same: a plain `from_pretrained(folder)` then computes in float32 in every part. Left to the
files, transformers would take half precision for the text encoder, and diffusers float32 for the UNet.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import click
import torch
from diffusers import StableDiffusionPipeline
from transformers import PreTrainedModel, ResNetForImageClassification

from sentinv.models.residual import ResidualBlip, ResidualClip

from . import captioner, classifier, diffusion, judge, tower
from .fit import RUNS

TARGET = Path(__file__).resolve().parent.parent / "sentinv" / "toybox"
LIMIT = 48_000_000
"""Bytes that all parts together may take."""


def _copy_model(kind: type[PreTrainedModel], source: Path, target: Path) -> None:
    """Save a transformers model in fp16, with its processor's files."""
    shutil.rmtree(target, ignore_errors=True)
    kind.from_pretrained(source, dtype=torch.float16).save_pretrained(target)
    for path in source.iterdir():
        if path.suffix in {".json", ".txt"} and not (target / path.name).exists():
            shutil.copy(path, target)


def _copy_pipeline(target: Path) -> None:
    """Save the diffusion pipeline in fp16, the tokenizer also in the older two-file layout."""
    shutil.rmtree(target, ignore_errors=True)
    pipeline = StableDiffusionPipeline.from_pretrained(diffusion.FOLDER, dtype=torch.float16, safety_checker=None)
    pipeline.save_pretrained(target)
    folder = target / "tokenizer"
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = ["#version: 0.2", *(pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")


def _correct_configs(folder: Path) -> None:
    """Drop the names of the folders that the parts were copied from, and say float32 (see the top of this file)."""
    for path in folder.rglob("*.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(config, dict) and {"_name_or_path", "dtype"} & config.keys():
            config.pop("_name_or_path", None)
            for part in (config, *(v for v in config.values() if isinstance(v, dict))):
                if "dtype" in part:
                    part["dtype"] = "float32"
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_digests(folder: Path) -> None:
    """Write down the SHA-256 of every file of the parts: an installation is checked against it."""
    files = sorted(path for path in folder.rglob("*/**/*") if path.is_file() and "__pycache__" not in path.parts)
    digests = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / "digests.json").write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


@click.command()
def main() -> None:
    """Copy every part that has been trained into sentinv/toybox."""
    if diffusion.FOLDER.is_dir():
        _copy_pipeline(TARGET / "pipeline")
    parts = (
        (ResidualBlip, captioner.FOLDER, "captioner"),
        (ResNetForImageClassification, classifier.CLASSIFIER_FOLDER, "classifier"),
        (ResNetForImageClassification, classifier.ATTRIBUTES_FOLDER, "attributes"),
        (ResidualClip, judge.FOLDER, "clip"),
        (ResNetForImageClassification, tower.FOLDER, "tower"),
    )
    for kind, source, name in parts:
        if source.is_dir():
            _copy_model(kind, source, TARGET / name)
    _correct_configs(TARGET)
    write_digests(TARGET)
    total = 0
    for folder in sorted(p for p in TARGET.iterdir() if p.is_dir() and p.name != "__pycache__"):
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        total += size
        print(f"{folder.name:12s} {size / 1e6:6.2f} MB")
    print(f"{'all':12s} {total / 1e6:6.2f} MB of {LIMIT / 1e6:.0f} MB   (runs: {RUNS.name})")
    if total > LIMIT:
        raise SystemExit("toybox: the parts are larger than the limit")


if __name__ == "__main__":
    main()
