"""Measure the shipped toybox: does it draw what it is told? Tables with 95 % intervals, and uncurated pictures.

Everything is read from the package, as a user has it, in float32.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import click
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torchvision.utils import save_image
from transformers import BertTokenizer, BlipForConditionalGeneration, ViTForImageClassification

from . import captioner, classifier, world
from .fit import psnr
from .package import TARGET
from .styles import STYLES

RESULTS = Path(__file__).resolve().parent / "results"


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a rate (Wilson 1927)."""
    z, p = 1.959964, right / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return middle - half, middle + half


def rate(flags: torch.Tensor) -> dict[str, float | int]:
    """Share of true flags with its interval."""
    right, total = int(flags.sum()), len(flags)
    low, high = wilson(right, total)
    return {"rate": round(right / total, 4), "low": round(low, 4), "high": round(high, 4), "n": total}


def load_generator() -> StableDiffusionPipeline:
    """The shipped pipeline in float32, with its DDIM scheduler."""
    pipeline = StableDiffusionPipeline.from_pretrained(TARGET / "pipeline", dtype=torch.float32, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline: StableDiffusionPipeline, prompts: list[str], guidance: float, seed: int) -> torch.Tensor:
    """One picture for each prompt, 25 DDIM steps: `[N, 3, RESOLUTION, RESOLUTION]` in [0, 1]."""
    out = []
    for start in range(0, len(prompts), 32):
        part = prompts[start : start + 32]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        out.append(
            pipeline(
                part, num_inference_steps=25, guidance_scale=guidance, generator=generators, output_type="pt"
            ).images
        )
    return torch.cat(out)


def measured_prompts(count: int, seed: int) -> tuple[world.Specs, list[str]]:
    """Random single-object pictures and captions of them that name the scene."""
    specs = world.sample_specs(count, seed).replace(second=-1)
    specs.wording[:, 1] = 0.5  # no filler word
    specs.wording[:, 4] = 0.5  # the scene is named
    return specs, world.captions(specs)


def judge_pictures(specs: world.Specs, pictures: torch.Tensor) -> dict[str, dict[str, float | int]]:
    """Rates at which pictures show what they should; colour where one is named and the style has colour."""
    model = ViTForImageClassification.from_pretrained(TARGET / "attributes", dtype=torch.float32).eval()
    right = classifier.accuracy(model, specs, pictures)
    named = (specs.colour > 0) & (specs.style != STYLES.index("pencil sketch"))
    rates = {k: rate(right[k]) for k in ("object", "scene", "style", "pattern")}
    return {**rates, "colour": rate(right["colour"][named])}


def measure_captioner(specs: world.Specs, pictures: torch.Tensor) -> dict[str, dict[str, float | int]]:
    """Rates at which the captioner names what a picture shows."""
    model = BlipForConditionalGeneration.from_pretrained(TARGET / "captioner", dtype=torch.float32).eval()
    tokenizer = BertTokenizer.from_pretrained(TARGET / "captioner")
    said = captioner.describe(model, tokenizer, pictures)
    objects = [world.OBJECT_NAMES[i] in text.split() for i, text in zip(specs.object.tolist(), said, strict=True)]
    scenes = [text.endswith(world.SCENE_NAMES[i]) for i, text in zip(specs.scene.tolist(), said, strict=True)]
    coloured = ((specs.colour > 0) & (specs.style != STYLES.index("pencil sketch"))).nonzero()[:, 0].tolist()
    colours = [world.COLOUR_NAMES[int(specs.colour[i])] in said[i].split() for i in coloured]
    told = {"object": objects, "colour": colours, "scene": scenes}
    return {name: rate(torch.tensor(right)) for name, right in told.items() if right}


def through_vae(pipeline: StableDiffusionPipeline, pictures: torch.Tensor) -> torch.Tensor:
    """The pictures encoded and decoded again."""
    return torch.cat([classifier.round_trip(pipeline.vae, part) for part in pictures.split(128)])


def measure_vae(pipeline: StableDiffusionPipeline, pictures: torch.Tensor) -> float:
    """Mean PSNR in dB of pictures encoded and decoded again."""
    errors = (through_vae(pipeline, pictures) - pictures).pow(2).mean((1, 2, 3))
    return round(sum(psnr(e) for e in errors.tolist()) / len(errors), 2)


def nearest_renders(samples: torch.Tensor, chunks: int = 16) -> torch.Tensor:
    """For each sample, the closest (in squared pixel distance) of the first pictures of the training pool."""
    from .latents import CHUNK, FIRST_SEED

    best = torch.full((len(samples),), torch.inf)
    nearest = torch.zeros_like(samples)
    for index in range(chunks):
        pool = world.render(world.sample_specs(CHUNK, FIRST_SEED + index))
        distance, where = torch.cdist(samples.flatten(1), pool.flatten(1)).min(1)
        closer = distance < best
        best[closer], nearest[closer] = distance[closer], pool[where[closer]]
    return nearest


@click.command()
@click.option("--prompts", default=512, show_default=True, help="Pictures to generate and judge.")
@click.option("--guidance", default=4.0, show_default=True, help="Guidance scale.")
@click.option("--results", default=RESULTS, type=click.Path(path_type=Path), help="Where the results go.")
def main(prompts: int, guidance: float, results: Path) -> None:
    """Measure quality and write quality.json, samples.png and nearest.png."""
    results.mkdir(parents=True, exist_ok=True)
    pipeline = load_generator()
    renders_of = world.sample_specs(4096, world.HELD_OUT_SEEDS[20]).replace(second=-1)
    renders = world.render(renders_of)
    strange, looks = world.strange_looks(
        renders_of[:2048], 1.0, torch.Generator().manual_seed(world.HELD_OUT_SEEDS[22])
    )
    specs, texts = measured_prompts(prompts, world.HELD_OUT_SEEDS[21])
    pictures = generate(pipeline, texts, guidance, seed=0)
    plain = generate(pipeline, ["a photo of a cat on the beach"] * 16, 1.0, seed=0)
    report = {
        "command": f"python -m toybox.measure --prompts {prompts} --guidance {guidance}",
        "generated": judge_pictures(specs, pictures),
        "judge on held-out renders": judge_pictures(renders_of, renders),
        "judge on the same through the autoencoder": judge_pictures(
            renders_of[:2048], through_vae(pipeline, renders[:2048])
        ),
        "captioner on held-out renders": measure_captioner(renders_of[:2048], renders[:2048]),
        "captioner where no caption names the look": measure_captioner(strange, world.render(strange, looks)),
        "vae PSNR in dB": measure_vae(pipeline, renders[:1024]),
        "unguided, one prompt, 16 seeds: smallest RMS distance of two": round(
            (torch.pdist(plain.flatten(1)).min() / plain[0].numel() ** 0.5).item(), 4
        ),
    }
    text = json.dumps(report, indent=1)
    (results / "quality.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    save_image(pictures[:64], results / "samples.png", nrow=16)
    (results / "samples.txt").write_text("\n".join(texts[:64]) + "\n", encoding="utf-8")
    save_image(torch.cat([pictures[:16], nearest_renders(pictures[:16])]), results / "nearest.png", nrow=16)


if __name__ == "__main__":
    main()
