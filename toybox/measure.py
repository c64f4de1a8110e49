"""Measure the shipped toybox: does it draw what it is told? Tables with 95 % intervals, and uncurated pictures.

Everything is read from the package, as a user has it, in float32.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import click
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torchvision.utils import save_image
from transformers import BertTokenizer, ResNetForImageClassification

from sentinv.models.residual import ResidualBlip, ResidualClip

from . import art, captioner, classifier, world
from .fit import psnr
from .package import TARGET
from .styles import STYLES
from .things import UNKNOWN_THINGS

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


def told(specs: world.Specs, texts: list[str]) -> list[dict[str, object]]:
    """What each prompt asks for: its words, the name of each attribute, and whether it names the hand (`signed`)."""
    names = {key: [labels[i] for i in getattr(specs, key).tolist()] for key, labels in classifier.ATTRIBUTES.items()}
    return [
        {"prompt": text, **{key: column[i] for key, column in names.items()}, "signed": bool(specs.signed[i])}
        for i, text in enumerate(texts[: len(specs)])
    ]


def asked(lines: list[dict[str, object]]) -> tuple[SimpleNamespace, list[str]]:
    """What `judge_pictures` wants to know of prompts, and the prompts, from what `told` wrote down."""
    columns = {
        key: torch.tensor([labels.index(line[key]) for line in lines]) for key, labels in classifier.ATTRIBUTES.items()
    }
    signed = torch.tensor([line["signed"] for line in lines])
    return SimpleNamespace(**columns, signed=signed), [str(line["prompt"]) for line in lines]


def two_things(count: int, seed: int) -> world.Specs:
    """Random pictures of two things each."""
    specs = world.sample_specs(11 * count, seed)
    specs = specs[specs.second >= 0][:count]
    specs.wording[:, 1] = 0.5  # no filler word
    return specs


def load_attributes() -> ResNetForImageClassification:
    """The shipped classifier of attributes."""
    return ResNetForImageClassification.from_pretrained(TARGET / "attributes", dtype=torch.float32).eval()


def judge_pictures(specs: world.Specs | SimpleNamespace, pictures: torch.Tensor) -> dict[str, dict[str, float | int]]:
    """Rates at which pictures show what they should.

    Colour where one is named and the style has colour; a hand where one is named.
    """
    right = classifier.accuracy(load_attributes(), specs, pictures)
    named = (specs.colour > 0) & (specs.style != STYLES.index("pencil sketch"))
    rates = {k: rate(right[k]) for k in ("object", "scene", "style", "pattern")}
    chosen = {"colour": named, "hand": specs.signed}
    return {**rates, **{k: rate(right[k][where]) for k, where in chosen.items() if where.any()}}


def judge_two(specs: world.Specs, pictures: torch.Tensor) -> dict[str, float | int]:
    """Rate at which both of two things are the two that the classifier holds likeliest."""
    model = load_attributes()
    with torch.no_grad():
        logits = torch.cat([model(part * 2 - 1).logits for part in pictures.split(128)])
    seen = classifier.split_logits(logits)["object"].topk(2).indices.sort(1).values
    asked = torch.stack([specs.object, specs.second], 1).sort(1).values
    return rate((seen == asked).all(1))


def held_out_views(count: int, seed: int, unknown: bool = False) -> tuple[world.Specs, torch.Tensor]:
    """Known (or unknown) things by the held-out hands, in their own colours, in any scene: specs and sprites.

    `object` of the specs counts in `OBJECT_NAMES`, or in `UNKNOWN_THINGS`.
    """
    sprites = art.held_out_sprites()
    names = list(UNKNOWN_THINGS) if unknown else list(world.OBJECT_NAMES)
    rows = [i for i, d in enumerate(sprites.drawings) if d.thing in names and d.hand in art.HELD_OUT_HANDS]
    chosen = torch.tensor(rows)[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))][:count]
    things = torch.tensor([names.index(sprites.drawings[i].thing) for i in chosen.tolist()])
    specs = world.sample_specs(len(chosen), seed).replace(colour=0, pattern=0, style=0, second=-1, second_drawing=0)
    first = world.repaint(sprites.pixels[chosen].float() / 255, torch.zeros(len(chosen), 3))
    return specs.replace(object=things), first


def likeness_follows_the_thing(count: int, seed: int) -> dict[str, float | int]:
    """Rate at which the judge holds a held-out drawing for more like its thing by another hand than like another thing.

    All three pictures of a trial are painted in one colour, and the two that differ in the thing share the scene.
    """
    specs, _ = held_out_views(count, seed)
    generator = torch.Generator().manual_seed(seed)
    colour = torch.randint(1, len(world.COLOUR_NAMES), (len(specs),), generator=generator)
    sprites = art.held_out_sprites()
    rows = {d.thing: i for i, d in enumerate(sprites.drawings) if d.hand in art.HELD_OUT_HANDS}
    chosen = torch.tensor([rows[world.OBJECT_NAMES[i]] for i in specs.object.tolist()])
    first = world.repaint(sprites.pixels[chosen].float() / 255, world.palette()[colour])
    other = (specs.object + torch.randint(1, len(world.OBJECT_NAMES), (len(specs),), generator=generator)) % len(
        world.OBJECT_NAMES
    )
    hands = torch.randint(len(world.HAND_NAMES), (2, len(specs)), generator=generator)
    chance = torch.rand(2, len(specs), generator=generator)
    elsewhere = world.sample_specs(len(specs), seed + 1).replace(colour=0, pattern=0, style=0, second=-1)
    same = world.drawn(world.choose(specs.object, hands[0], chance[0])[0], colour)
    different = world.drawn(world.choose(other, hands[1], chance[1])[0], colour)
    model = ResidualClip.from_pretrained(TARGET / "clip", dtype=torch.float32).eval()

    def features(specs: world.Specs, first: torch.Tensor) -> torch.Tensor:
        pictures = world.render(specs, first)
        with torch.no_grad():
            embeds = [model.get_image_features(part * 2 - 1).pooler_output for part in pictures.split(64)]
        return torch.nn.functional.normalize(torch.cat(embeds), dim=1)

    anchor = features(specs, first)
    alike = (anchor * features(elsewhere, same)).sum(1)
    unlike = (anchor * features(specs, different)).sum(1)
    return {**rate(alike > unlike), "same": round(alike.mean().item(), 4), "different": round(unlike.mean().item(), 4)}


def measure_captioner(specs: world.Specs, pictures: torch.Tensor) -> dict[str, dict[str, float | int]]:
    """Rates at which the captioner names what a picture shows."""
    model = ResidualBlip.from_pretrained(TARGET / "captioner", dtype=torch.float32).eval()
    tokenizer = BertTokenizer.from_pretrained(TARGET / "captioner")
    said = captioner.describe(model, tokenizer, pictures)
    objects = [f" {world.OBJECT_NAMES[i]} " in text for i, text in zip(specs.object.tolist(), said, strict=True)]
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
    """For each sample, the closest (in squared pixel distance) of the first pictures of the training pool that are not easy."""
    from .latents import chunk_specs

    best = torch.full((len(samples),), torch.inf)
    nearest = torch.zeros_like(samples)
    for index in range(chunks):
        pool = world.render(chunk_specs(index + 24))
        distance, where = torch.cdist(samples.flatten(1), pool.flatten(1)).min(1)
        closer = distance < best
        best[closer], nearest[closer] = distance[closer], pool[where[closer]]
    return nearest


def write_report(path: Path, report: dict[str, object]) -> None:
    """Write a report as JSON, and print it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    print(text)


def compare_guidance(scales: tuple[float, ...], prompts: int, results: Path) -> None:
    """Generate the same prompts (others than those of the table) at each scale, and write guidance.json."""
    specs, texts = measured_prompts(prompts, world.HELD_OUT_SEEDS[26])
    pipeline = load_generator()
    rates = {scale: judge_pictures(specs, generate(pipeline, texts, scale, seed=90_000)) for scale in scales}
    command = f"python -m toybox.measure --prompts {prompts} " + " ".join(f"--compare {scale:g}" for scale in scales)
    write_report(
        results / "guidance.json", {"command": command, "guidance": {f"{scale:g}": v for scale, v in rates.items()}}
    )


@click.command()
@click.option("--compare", multiple=True, type=float, help="Only compare such guidance scales; writes guidance.json.")
@click.option("--prompts", default=512, show_default=True, help="Pictures to generate and judge.")
@click.option("--guidance", default=4.0, show_default=True, help="Guidance scale.")
@click.option("--results", default=RESULTS, type=click.Path(path_type=Path), help="Where the results go.")
def main(compare: tuple[float, ...], prompts: int, guidance: float, results: Path) -> None:
    """Measure quality and write quality.json, samples.png and nearest.png."""
    if compare:
        return compare_guidance(compare, prompts, results)
    pipeline = load_generator()
    renders_of = world.sample_specs(4096, world.HELD_OUT_SEEDS[20]).replace(second=-1)
    renders = world.render(renders_of)
    strange, looks = world.strange_looks(
        renders_of[:2048], 1.0, torch.Generator().manual_seed(world.HELD_OUT_SEEDS[22])
    )
    specs, texts = measured_prompts(prompts, world.HELD_OUT_SEEDS[21])
    pictures = generate(pipeline, texts, guidance, seed=0)
    plain = generate(pipeline, ["a photo of a cat on the beach"] * 16, 1.0, seed=0)
    two = two_things(128, world.HELD_OUT_SEEDS[23])
    hands, drawings = held_out_views(1000, world.HELD_OUT_SEEDS[24])
    art_views = world.render(hands, drawings)
    report = {
        "command": f"python -m toybox.measure --prompts {prompts} --guidance {guidance}",
        "generated": judge_pictures(specs, pictures),
        "both of two things": judge_two(two, generate(pipeline, world.captions(two), guidance, seed=50_000)),
        "judge on held-out renders": judge_pictures(renders_of, renders),
        "judge on the same through the autoencoder": judge_pictures(
            renders_of[:2048], through_vae(pipeline, renders[:2048])
        ),
        "judge on held-out hands": judge_pictures(hands, art_views),
        "likeness follows the thing, held-out hands": likeness_follows_the_thing(800, world.HELD_OUT_SEEDS[25]),
        "captioner on held-out renders": measure_captioner(renders_of[:2048], renders[:2048]),
        "captioner on held-out hands": measure_captioner(hands, art_views),
        "captioner where no caption names the look": measure_captioner(strange, world.render(strange, looks)),
        "vae PSNR in dB": measure_vae(pipeline, renders[:1024]),
        "vae PSNR in dB on held-out hands": measure_vae(pipeline, art_views),
        "unguided, one prompt, 16 seeds: smallest RMS distance of two": round(
            (torch.pdist(plain.flatten(1)).min() / plain[0].numel() ** 0.5).item(), 4
        ),
    }
    write_report(results / "quality.json", report)
    save_image(pictures[:64], results / "samples.png", nrow=8)
    lines = [json.dumps(line) for line in told(specs[:64], texts)]
    (results / "samples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    save_image(torch.cat([pictures[:16], nearest_renders(pictures[:16])]), results / "nearest.png", nrow=8)


if __name__ == "__main__":
    main()
