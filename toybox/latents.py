"""Draw and encode the pictures that the diffusion model is trained on, once: latents and tokenised captions.

Each chunk of 1024 pictures is drawn from a seed of its own, so the pool can be made by several processes, grown
later, or made again.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import click
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from . import vae, vocabulary, world
from .fit import RUNS, autocast, workers

FOLDER = RUNS / "latents"
CHUNK = 1024
CAPTIONS = 4
"""Phrasings kept for each picture."""
FIRST_SEED = 1_000_000


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids `[N, length]` int64, padded as Stable Diffusion pads."""
    encoded = tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    return encoded.input_ids


@torch.no_grad()
def make_chunk(path: Path, index: int, encoder: AutoencoderKL, tokenizer: CLIPTokenizer, device: str) -> None:
    """Draw, encode and save one chunk: scaled latents and `CAPTIONS` tokenised captions of each picture."""
    specs = world.sample_specs(CHUNK, FIRST_SEED + index)
    generator = torch.Generator().manual_seed(FIRST_SEED + index)
    latents = []
    for start in range(0, CHUNK, 128):
        x = world.render(specs[start : start + 128], device=device) * 2 - 1
        with autocast(device):
            moments = encoder.encode(x).latent_dist
        noise = torch.randn(moments.mean.shape, generator=generator).to(device)
        latents.append((moments.mean + moments.std * noise).float().cpu() * encoder.config.scaling_factor)
    tokens = []
    for _ in range(CAPTIONS):
        specs.wording = torch.rand(specs.wording.shape, generator=generator)
        tokens.append(tokenise(tokenizer, world.captions(specs)).to(torch.int16))
    save_file({"latents": torch.cat(latents).half(), "tokens": torch.stack(tokens, 1)}, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)


@cache
def load_pool() -> tuple[torch.Tensor, torch.Tensor]:
    """All chunks made so far: latents `[N, C, H, W]` float16 and tokens `[N, CAPTIONS, L]` int16."""
    chunks = [load_file(path) for path in sorted(FOLDER.glob("*.safetensors"))]
    if not chunks:
        raise SystemExit("toybox: no latents yet; run `python -m toybox.latents` first")
    return torch.cat([c["latents"] for c in chunks]), torch.cat([c["tokens"] for c in chunks])


@click.command()
@click.option("--pictures", default=98304, show_default=True, help="Pictures in the pool.")
def main(pictures: int) -> None:
    """Make the pool of latents; chunks that exist are kept."""
    me = workers()
    encoder = AutoencoderKL.from_pretrained(vae.FOLDER, dtype=torch.float32).to(me.device).eval()
    tokenizer = CLIPTokenizer.from_pretrained(vocabulary.GENERATOR_FOLDER)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for index in range(me.rank, pictures // CHUNK, me.count):
        path = FOLDER / f"{index:05d}.safetensors"
        if not path.is_file():
            make_chunk(path, index, encoder, tokenizer, me.device)
            print(f"{path.name} of {pictures // CHUNK}", flush=True)


if __name__ == "__main__":
    main()
