"""Draw and encode the pictures that the diffusion model is trained on, once: latents and tokenised captions.

Each chunk of 1024 pictures is drawn from a seed of its own and kept in two files that are read through memory maps, so
the pool can be made by several processes, grown later, or made again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from . import vae, vocabulary, world
from .fit import RUNS, autocast, workers

FOLDER = RUNS / "latents"
CHUNK = 1024
CAPTIONS = 4
"""Phrasings kept for each picture."""
FIRST_SEED = 1_000_000
PLAIN_CHUNKS = 24
"""The first chunks hold easy pictures, with which the training begins."""


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids `[N, length]` int64, padded as Stable Diffusion pads."""
    encoded = tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    return encoded.input_ids


def chunk_specs(index: int) -> world.Specs:
    """What a chunk shows."""
    return world.sample_specs(CHUNK, FIRST_SEED + index, plain=index < PLAIN_CHUNKS)


@torch.no_grad()
def make_chunk(path: Path, index: int, encoder: AutoencoderKL, tokenizer: CLIPTokenizer, device: str) -> None:
    """Draw, encode and save one chunk: scaled latents and `CAPTIONS` tokenised captions of each picture."""
    specs = chunk_specs(index)
    generator = torch.Generator().manual_seed(FIRST_SEED + index)
    latents = []
    at_once = world.AT_ONCE if device == "cpu" else 64
    for start in range(0, CHUNK, at_once):
        x = world.render(specs[start : start + at_once], device=device) * 2 - 1
        with autocast(device):
            moments = encoder.encode(x.to(memory_format=torch.channels_last)).latent_dist
        noise = torch.randn(moments.mean.shape, generator=generator).to(device)
        latents.append((moments.mean + moments.std * noise).float().cpu() * encoder.config.scaling_factor)
    tokens = []
    for _ in range(CAPTIONS):
        specs.wording = torch.rand(specs.wording.shape, generator=generator)
        tokens.append(tokenise(tokenizer, world.captions(specs)).to(torch.int16))
    np.save(path.with_suffix(".tokens.npy"), torch.stack(tokens, 1).numpy())
    np.save(path.with_suffix(".partial.npy"), torch.cat(latents).half().contiguous().numpy())
    path.with_suffix(".partial.npy").rename(path)


@dataclass(frozen=True)
class Pool:
    """All chunks made so far, through memory maps."""

    latents: tuple[np.ndarray, ...]
    """Each `[CHUNK, C, H, W]` float16."""
    tokens: tuple[np.ndarray, ...]
    """Each `[CHUNK, CAPTIONS, L]` int16."""
    plain: int
    """Chunks of easy pictures, which come first."""

    def draw(self, count: int, easy: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Random pictures, each with a random caption, a share `easy` of them from the easy ones.

        Returns:
            Latents `[count, C, H, W]` float32 and token ids `[count, L]` int64.
        """
        chance = torch.rand(count, 3, generator=generator, dtype=torch.float64)
        first = torch.rand(count, generator=generator) < easy
        chunks = torch.where(first, self.plain, len(self.latents)) * chance[:, 0]
        chunk, row, phrasing = chunks.long().tolist(), (chance[:, 1] * CHUNK).long(), (chance[:, 2] * CAPTIONS).long()
        where = list(zip(chunk, row.tolist(), phrasing.tolist(), strict=True))
        x = np.stack([self.latents[c][r] for c, r, _ in where])
        words = np.stack([self.tokens[c][r, p] for c, r, p in where])
        return torch.from_numpy(x).float(), torch.from_numpy(words).long()


@cache
def load_pool() -> Pool:
    """The chunks made so far; call it anew in a new process to see those made since."""
    paths = sorted(FOLDER.glob("[0-9][0-9][0-9][0-9][0-9].npy"))
    if not paths:
        raise SystemExit("toybox: no latents yet; run `python -m toybox.latents` first")
    latents = tuple(np.load(path, mmap_mode="r") for path in paths)
    tokens = tuple(np.load(path.with_suffix(".tokens.npy"), mmap_mode="r") for path in paths)
    return Pool(latents, tokens, sum(int(path.stem) < PLAIN_CHUNKS for path in paths))


@click.command()
@click.option("--pictures", default=196608, show_default=True, help="Pictures in the pool.")
def main(pictures: int) -> None:
    """Make the pool of latents; chunks that exist are kept."""
    me = workers()
    encoder = AutoencoderKL.from_pretrained(vae.FOLDER, dtype=torch.float32).to(me.device).eval()
    encoder = encoder.to(memory_format=torch.channels_last)
    tokenizer = CLIPTokenizer.from_pretrained(vocabulary.GENERATOR_FOLDER)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for index in range(me.rank, pictures // CHUNK, me.count):
        path = FOLDER / f"{index:05d}.npy"
        if not path.is_file():
            make_chunk(path, index, encoder, tokenizer, me.device)
            print(f"{path.name} of {pictures // CHUNK}", flush=True)


if __name__ == "__main__":
    main()
