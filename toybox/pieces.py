"""Train on a GPU that is lent for minutes and has no network: what it needs goes there in small files, and comes back.

    python -m toybox.pieces pack FOLDER              sprites, autoencoder, and how far the generator is: some 45 MB
    python -m toybox.pieces run FOLDER --out OUT     there: draw the pool, train, and leave the state in OUT
    python -m toybox.pieces take OUT                 here: go on from that state

`pack --no-sprites` keeps how far the trainings are. `take sentinv/toybox` takes the generator that is shipped, its
autoencoder and all tokenizers, so that what looks at pictures can be trained anew around them. Where there is no autoencoder
yet, `run` trains it first. What travels of a training is the average of its weights in half precision; momentum is built
anew in a few steps. No file that `pack` writes is larger than `LARGEST`. The machine needs torch, diffusers, transformers
and this repository.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from . import art, vae, vocabulary
from .fit import RUNS

LARGEST = 15_000_000
"""Bytes of a file that travels."""
SMALL = "small.zip"
PARTS = ("vae", "diffusion", "classifier", "judge", "captioner", "tower")
LEARN_FROM_LESSONS = set(PARTS) - {"vae", "diffusion"}
FOLDERS = (vocabulary.GENERATOR_FOLDER, vocabulary.JUDGE_FOLDER, vocabulary.CAPTIONER_FOLDER)


def pack_sprites(source: Path, target: Path) -> None:
    """Drawings as WebP pictures in one archive, without the levels, which are computed again."""
    sprites = art._load(source)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("index.json", json.dumps([vars(drawing) for drawing in sprites.drawings]))
        for i, pixels in enumerate(sprites.pixels):
            buffer = io.BytesIO()
            Image.fromarray(pixels[:4].permute(1, 2, 0).numpy()).save(buffer, "WEBP", quality=92)
            archive.writestr(f"{i}.webp", buffer.getvalue())


def unpack_sprites(source: Path, target: Path) -> None:
    """Put the drawings of an archive where `art` looks for them."""
    with zipfile.ZipFile(source) as archive:
        index = archive.read("index.json").decode()
        names = [f"{i}.webp" for i in range(len(json.loads(index)))]
        pictures = [Image.open(io.BytesIO(archive.read(name))).convert("RGBA") for name in names]
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
    levels = torch.stack([(art.levels(sprite / 255) * 255).round().byte() for sprite in pixels])
    target.mkdir(parents=True, exist_ok=True)
    np.save(target / "pixels.npy", torch.cat([pixels, levels[:, None]], 1).numpy())
    (target / "index.json").write_text(index, encoding="utf-8")


def pack_folders(folders: Sequence[Path], target: Path) -> None:
    """What is in folders of `RUNS`, in one archive."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (path for source in folders for path in sorted(source.rglob("*")) if path.is_file()):
            archive.write(path, path.relative_to(RUNS))


def unpack_folders(source: Path) -> bool:
    """Put them back; whether there was such an archive."""
    if source.is_file():
        with zipfile.ZipFile(source) as archive:
            archive.extractall(RUNS)
    return source.is_file()


def pack_state(part: str, folder: Path) -> None:
    """The average weights of a training, in half precision, in files of at most `LARGEST`; nothing if it has not begun."""
    path = RUNS / part / "state.safetensors"
    if not path.is_file():
        return
    with safe_open(path, "pt") as f:
        metadata = f.metadata()
    average = load_file(path)["average"].half()
    for i, piece in enumerate(average.split(LARGEST // 2)):
        save_file({"average": piece.clone()}, folder / f"{part}-{i}.safetensors", metadata=metadata)


def take_state(part: str, folder: Path) -> bool:
    """Make a checkpoint of a part's files in a folder; whether there were any."""
    paths = sorted(folder.glob(f"{part}-[0-9].safetensors"))
    if not paths:
        return False
    with safe_open(paths[0], "pt") as f:
        metadata = f.metadata()
    average = torch.cat([load_file(path)["average"] for path in paths]).float()
    path = RUNS / part / "state.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"value": average.clone(), "average": average}, path.with_suffix(".tmp"), metadata=metadata)
    path.with_suffix(".tmp").replace(path)
    return True


def take_shipped(folder: Path) -> None:
    """Copy the generator of the package, its autoencoder and all tokenizers to where the programs look for them."""
    weights = shutil.ignore_patterns("*.safetensors")
    for source, target, ignored in (
        ("pipeline", RUNS / "diffusion" / "pipeline", None),
        ("pipeline/vae", vae.FOLDER, None),
        ("pipeline/tokenizer", vocabulary.GENERATOR_FOLDER, None),
        ("clip", vocabulary.JUDGE_FOLDER, weights),
        ("captioner", vocabulary.CAPTIONER_FOLDER, weights),
    ):
        if (folder / source).is_dir():
            shutil.copytree(folder / source, target, ignore=ignored, dirs_exist_ok=True)


@click.group()
def main() -> None:
    """Train on a lent GPU, in pieces."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--sprites/--no-sprites", default=True, show_default=True, help="Drawings, which `toybox.art` makes anew."
)
def pack(folder: Path, sprites: bool) -> None:
    """Write what the other machine needs into FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in (art.TRAINING, art.WIDER) if sprites else ():
        pack_sprites(source, folder / f"{source.name}.zip")
    pack_folders((*FOLDERS, vae.FOLDER), folder / SMALL)
    for part in PARTS:
        if part != "vae" or not (vae.FOLDER / "config.json").is_file():
            pack_state(part, folder)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    print("\n".join(f"{size / 1e6:6.1f} MB  {name}" for name, size in sizes.items()))
    print(f"{sum(sizes.values()) / 1e6:6.1f} MB  in all")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where the states are left.")
@click.option("--minutes", default=8.0, show_default=True, help="Minutes of training in all.")
@click.option("--part", "parts", multiple=True, default=("diffusion",), help="What to train, in this order.")
@click.option(
    "--vae-steps", default=6400, show_default=True, help="Steps of 16 pictures of the autoencoder, if it is trained."
)
@click.option("--pictures", default=393216, show_default=True, help="Pictures in the pool.")
def run(folder: Path, out: Path, minutes: float, parts: tuple[str, ...], vae_steps: int, pictures: int) -> None:
    """Draw the pool and train, on the machine that is lent."""
    end = time.monotonic() + 60 * minutes
    out.mkdir(parents=True, exist_ok=True)
    if not (art.TRAINING / "index.json").is_file():
        for target in (art.TRAINING, art.WIDER):
            unpack_sprites(folder / f"{target.name}.zip", target)
        unpack_folders(folder / SMALL)
        for part in PARTS:
            take_state(part, folder)
    if not (vae.FOLDER / "config.json").is_file():
        _program("vae", "--steps", str(vae_steps), minutes=(end - time.monotonic()) / 60)
        pack_state("vae", out)
        pack_folders([vae.FOLDER], out / "autoencoder.zip")
    if "diffusion" in parts:
        _program("latents", "--pictures", str(pictures), minutes=(end - time.monotonic()) / 60)
    if LEARN_FROM_LESSONS & set(parts):
        _program("lessons", minutes=(end - time.monotonic()) / 60)
    for i, part in enumerate(parts):
        _program(part, minutes=(end - time.monotonic()) / 60 / (len(parts) - i))
        pack_state(part, out)


def _program(name: str, *options: str, minutes: float) -> None:
    """Run one of the programs of this folder for so many minutes at most; the pools' are not stopped."""
    environment = {**os.environ, "TOYBOX_MINUTES": f"{minutes:.3f}"}
    subprocess.run([sys.executable, "-m", f"toybox.{name}", *options], check=True, env=environment)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
def take(folder: Path) -> None:
    """Go on from the states in FOLDER."""
    for archive, what in ((SMALL, "tokenizers and autoencoder"), ("autoencoder.zip", "autoencoder")):
        if unpack_folders(folder / archive):
            print(f"{what}: taken")
    for part in PARTS:
        if take_state(part, folder):
            print(f"{part}: taken")
    if (folder / "pipeline").is_dir():
        take_shipped(folder)
        print("the finished generator: taken")


if __name__ == "__main__":
    main()
