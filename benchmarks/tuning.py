"""A word, and a LoRA around it: how near they come to the thing, how well they obey, and what they do to other prompts.

python benchmarks/tuning.py run benchmarks/tuning.toml OUT --arms word tuned --concepts snail robot --seeds 0
python benchmarks/tuning.py tables OUT        # made anew of the records, in seconds
python benchmarks/tuning.py sheets OUT

Every run (arm, concept, seed, guidance) is a line of OUT/records.jsonl and a strip of pictures in OUT/images; words and LoRAs
are in OUT/learned. What is there is not made again. Differences are to the reference arm, paired by concept and seed, with
95 % bootstrap intervals over concepts.
"""

import argparse
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tuning_arms import Arm, read_arms, word_config
from tuning_tables import MEASURES, records_of, sheets, tables

import sentinv
from sentinv.adapters.install import adapted
from sentinv.adapters.lora import Lora, load_lora
from sentinv.bench.concepts import StudyConcept, read_concepts
from sentinv.bench.measuring import ConceptPictures, Measuring, recogniser_of
from sentinv.bench.study import key_of
from sentinv.bench.trials import training_pictures
from sentinv.concepts.concept import Concept
from sentinv.diffusion.conversions import add_noise
from sentinv.evaluation.judges import AttributeJudge, ClipJudge
from sentinv.evaluation.recognition import Gallery
from sentinv.files.decoding import Picture
from sentinv.files.images import save_png
from sentinv.files.json_lines import JsonLines
from sentinv.generation.denoiser import encode_prompts
from sentinv.generation.generate import GenerateConfig, generate, generate_latents, seeded
from sentinv.initializers import make
from sentinv.models.backbone import Backbone
from sentinv.models.built_in import built_in
from sentinv.report.contact_sheet import contact_sheet
from sentinv.training.config import TrainConfig, TuneConfig
from sentinv.training.invert import invert
from sentinv.training.tune import tune

CONCEPTS = Path(__file__).resolve().parent / "concepts" / "concepts.json"
FORMAT = 1
OTHERS = {  # prompt → the object that is to be seen
    "a photo of a cat on the moon": "cat",
    "a photo of a frog in the snow": "frog",
    "a photo of a car on the beach": "car",
    "a watercolor of a dog": "dog",
    "a photo of an elephant": "elephant",
    "a photo of a castle in the desert": "castle",
}
TIMES = (100, 300, 500, 700, 900)


class Bench:
    """A model, its judges, and a folder."""

    def __init__(self, folder: Path, initializer: str, given: argparse.Namespace) -> None:
        self.folder, self.initializer, self.count = folder, initializer, given.count
        self.backbone: Backbone = sentinv.load("toybox")
        self.sampling = GenerateConfig(steps=given.sampling_steps)
        self.bfloat16 = given.bfloat16
        self.clip = ClipJudge.load(base_model="toybox")
        self._others: dict[float, float] = {}
        self.attributes = AttributeJudge.load(built_in("attributes"))
        gallery = Gallery.read(given.pictures.with_name("things.safetensors"))
        self.recogniser = recogniser_of(self.clip, read_concepts(given.pictures), gallery)

    @cached_property
    def captioner(self) -> Any:
        return make(self.initializer, "toybox")

    def run(
        self, arm: Arm, source: StudyConcept, seed: int, guidance: float
    ) -> tuple[dict[str, Any], list[Image.Image]]:
        """Measure one run; its first pictures are for the sheets."""
        concept, lora = self.learned(arm, source, seed)
        backbone, sampling = self.backbone, replace(self.sampling, guidance_scale=guidance)
        pictures = ConceptPictures(
            source,
            Measuring(
                judge=self.clip,
                lpips=None,
                count=self.count,
                sampling=sampling,
                recogniser=self.recogniser,
                attributes=self.attributes,
                bfloat16=self.bfloat16,
            ),
            (backbone.resolution,) * 2,
        )
        with adapted(backbone, [(lora, arm.scale)]) if lora is not None else nullcontext():
            made, *edited = pictures.draw(backbone, concept)
            others = self.others_right(sampling) if lora is not None else self.others_of_model(guidance)
        scores = pictures.measure(made, edited)
        scores |= {"others_right": others, "drift": self.drift(lora, arm.scale)}
        return scores, [made[0], *(images[0] for images in edited)]

    def others_right(self, sampling: GenerateConfig) -> float:
        """Share of pictures of other things that show them, with the model as it is now."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            made = [generate(self.backbone, prompt, count=self.count, config=sampling) for prompt in OTHERS]
        shown = [
            self.attributes.probabilities(one, {"object": thing})["object"] > 0.5
            for group, thing in zip(made, OTHERS.values(), strict=True)
            for one in group
        ]
        return sum(shown) / len(shown)

    def others_of_model(self, guidance: float) -> float:
        """... with the model without adapters, which is the same for every run."""
        if guidance not in self._others:
            self._others[guidance] = self.others_right(replace(self.sampling, guidance_scale=guidance))
        return self._others[guidance]

    def picture(self, arm: Arm, source: StudyConcept) -> Picture:
        """The picture of a word."""
        [picture] = training_pictures(source, 1, masked=arm.mask and arm.tune is None)
        return picture

    def word_path(self, arm: Arm, source: StudyConcept, seed: int) -> Path:
        """Where the word of a run is."""
        settings = {"word": asdict(word_config(arm, seed)), "concept": source.name}
        settings |= {"start": self.initializer, "mask": arm.mask and arm.tune is None}
        return self.folder / "learned" / f"{source.name}-{key_of(settings)}.safetensors"

    def learned(self, arm: Arm, source: StudyConcept, seed: int) -> tuple[Concept, Lora | None]:
        """The word, and the LoRA if the arm has one: from the folder, or trained."""
        path = self.word_path(arm, source, seed)
        if not path.is_file():
            picture = self.picture(arm, source)
            words = self.captioner(picture.image)
            invert(self.backbone, picture, words, word_config(arm, seed), token=f"<{source.name}>").save(path)
        concept = Concept.load(path)
        if arm.tune is None:
            return concept, None
        tuning = TuneConfig(**arm.tune, seed=seed)
        key = path.stem.removeprefix(f"{source.name}-")
        own = path.with_name(f"{source.name}-{key_of({'word': key, 'tune': asdict(tuning), 'mask': arm.mask})}")
        lora_path, rows_path = own.with_suffix(".lora.safetensors"), own.with_suffix(".rows.safetensors")
        if not lora_path.is_file():
            [picture] = training_pictures(source, 1, masked=arm.mask)
            tuned = tune(self.backbone, concept, picture, tuning)
            tuned.concept.save(rows_path, overwrite=True)
            tuned.lora.save(lora_path)
        return Concept.load(rows_path), load_lora(lora_path)

    @torch.no_grad()
    def drift(self, lora: Lora | None, scale: float) -> float:
        """How far the answers to other prompts move, as a share of the guidance direction; on pictures of the model's own."""
        if lora is None:
            return 0.0
        backbone = self.backbone
        noisy, timesteps, condition, empty = self.own_pictures
        before = backbone.predict(noisy, timesteps, condition)
        with adapted(backbone, [(lora, scale)]):
            after = backbone.predict(noisy, timesteps, condition)
        direction = (before - backbone.predict(noisy, timesteps, empty)).flatten(1)
        shares = (after - before).flatten(1).norm(dim=1) / direction.norm(dim=1)
        return shares.mean().item()

    @cached_property
    def own_pictures(self) -> Any:
        backbone, config = self.backbone, replace(self.sampling, steps=20)
        clean = torch.cat([generate_latents(backbone, p, generators=seeded(0, 1), config=config) for p in OTHERS])
        timesteps = torch.tensor(TIMES).repeat_interleave(len(clean))
        latents = clean.repeat(len(TIMES), 1, 1, 1)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        noisy = add_noise(latents, noise, backbone.schedule.alphas_cumprod[timesteps])
        condition, empty = encode_prompts(backbone, list(OTHERS)), encode_prompts(backbone, [None])
        rows = torch.arange(len(clean)).repeat(len(TIMES))
        return noisy, timesteps, condition[rows], empty[torch.zeros_like(rows)]


def run(given: argparse.Namespace) -> None:
    study, arms = read_arms(given.study)
    (given.folder / "learned").mkdir(parents=True, exist_ok=True)
    (given.folder / "images").mkdir(exist_ok=True)
    bench = Bench(given.folder, study["initializer"], given)
    done = {record["key"] for record in records_of(given.folder)}
    sources = {source.name: source for source in read_concepts(given.pictures)}
    wanted = [
        (arms[name], sources[concept], seed, guidance)
        for seed in given.seeds
        for concept in given.concepts or sources
        for name in given.arms or arms
        for guidance in given.guidance
    ]
    with JsonLines(given.folder / "records.jsonl") as lines:
        for arm, source, seed, guidance in wanted:
            settings = {
                "format": FORMAT,
                "arm": asdict(arm) | {"name": ""},
                "defaults": [asdict(TrainConfig()), asdict(TuneConfig())],
                "initializer": study["initializer"],
                "sampling": [given.count, given.sampling_steps, guidance, *["bfloat16"] * given.bfloat16],
                "model": bench.backbone.fingerprint,
                "concept": source.name,
                "seed": seed,
            }
            if (key := key_of(settings)) in done:
                continue
            scores, images = bench.run(arm, source, seed, guidance)
            strip = contact_sheet(images, columns=len(images), gap=0)
            save_png(given.folder / "images" / f"{key}.png", strip, overwrite=True)
            names = {"arm": arm.name, "concept": source.name, "seed": seed, "guidance": guidance}
            lines.write({"key": key, **names, "reference": study["reference"], "scores": scores})
            print(*names.values(), *(f"{name} {scores[name]:.3f}" for name in MEASURES if name in scores), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("study", type=Path)
    tabling = commands.add_parser("tables", help="writes tables.md; of some concepts only, prints")
    for command in (running, tabling):
        command.add_argument("--concepts", nargs="*")
    for command in (running, tabling, commands.add_parser("sheets")):
        command.add_argument("folder", type=Path)
        command.add_argument("--pictures", type=Path, default=CONCEPTS, help="the concepts file")
    running.add_argument("--arms", nargs="*")
    running.add_argument("--seeds", nargs="*", type=int, default=[0])
    running.add_argument("--guidance", nargs="*", type=float, default=[4.0, 7.5])
    running.add_argument("--count", type=int, default=4, help="images a prompt")
    running.add_argument("--sampling-steps", type=int, default=25)
    running.add_argument("--bfloat16", action="store_true", help="draw in bfloat16; training is as it was")
    given = parser.parse_args()
    if given.command == "run":
        run(given)
    elif given.command == "tables":
        print(text := tables(given.folder, given.concepts))
        if not given.concepts:
            (given.folder / "tables.md").write_text(text, encoding="utf-8")
    else:
        sheets(given.folder, given.pictures)


if __name__ == "__main__":
    main()
