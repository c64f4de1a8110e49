"""What should a step draw, and do averaged rows do better? Ways to lower the noise of the gradient that were tried.

python benchmarks/draws.py outputs/draws.jsonl benchmarks/results/draws.md

Each way trains a hundred steps from the caption; all have the same number of items a step. The evaluation loss is that of the
rows of a step, and "averaged" is the mean of the rows of the last quarter of steps up to it. Differences are to the default,
paired by concept and seed. Runs that the first file holds already are not run again.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

import sentinv
from sentinv.backbone import Backbone
from sentinv.batches import Batch, TrainingSet
from sentinv.config import TrainConfig
from sentinv.files import JsonLines
from sentinv.frozen import lean_convolutions
from sentinv.images import read_image
from sentinv.initialization import Start, starting_rows
from sentinv.initializers import make
from sentinv.placeholder import PlaceholderRows
from sentinv.run import Run
from sentinv.starts import StudyConcept
from sentinv.statistics import bootstrap
from sentinv.studies import read_concepts
from sentinv.tables import Table

CONCEPTS = Path(__file__).resolve().parent / "concepts" / "concepts.json"
SEEDS = (0, 1)
LOOK_AT = (25, 50, 100)
CONFIG = TrainConfig(evaluation_timesteps=16, evaluation_noises=2)


class Independent(TrainingSet):
    """Timesteps that know nothing of each other."""

    def draw(self, generator: Generator) -> Batch:
        batch = super().draw(generator)
        return self.at(batch, torch.randint(self.backbone.train_timesteps, (len(batch),), generator=generator))

    def at(self, batch: Batch, timesteps: Tensor) -> Batch:
        return replace(batch, timesteps=timesteps, alphas_cumprod=self.alphas_cumprod[timesteps])


class Antithetic(TrainingSet):
    """Pairs that differ only in the sign of their noise (Hammersley & Morton 1956): made of batches half as large."""

    def draw(self, generator: Generator) -> Batch:
        half = super().draw(generator)
        return Batch(
            latents=half.latents.repeat(2, 1, 1, 1),
            noise=torch.cat([half.noise, -half.noise]),
            timesteps=half.timesteps.repeat(2),
            alphas_cumprod=half.alphas_cumprod.repeat(2),
            ids={name: ids.repeat(2, 1) for name, ids in half.ids.items()},
            mask=None,
        )


class ByWeight(Independent):
    """Timesteps drawn in proportion to a power of their weight, with the loss divided by that: the same mean."""

    power = 1.0

    def draw(self, generator: Generator) -> Batch:
        batch = TrainingSet.draw(self, generator)
        share = (batch.timesteps + 0.5) / self.backbone.train_timesteps
        reached = torch.searchsorted(self.density().cumsum(0), share)
        return self.at(batch, reached.clamp(max=self.backbone.train_timesteps - 1))

    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) / (self.density()[batch.timesteps] * self.backbone.train_timesteps)

    def density(self) -> Tensor:
        assert self._weights is not None
        return self._weights**self.power / (self._weights**self.power).sum()


class ByRoot(ByWeight):
    """Half way between even draws and draws by weight."""

    power = 0.5


WAYS: dict[str, tuple[type[TrainingSet], int]] = {
    "one timestep from each quarter (default)": (TrainingSet, 4),
    "independent timesteps": (Independent, 4),
    "antithetic noise": (Antithetic, 2),
    "timesteps by their weight": (ByWeight, 4),
    "timesteps by the root of their weight": (ByRoot, 4),
}
"""Way → its class, and the batch size that gives four items."""


def losses(backbone: Backbone, concept: StudyConcept, start: Start, way: str, seed: int) -> dict[str, list[float]]:
    """Evaluation loss at `LOOK_AT`, of the rows of that step and of averaged ones."""
    kind, size = WAYS[way]
    rows = PlaceholderRows({"<concept>": start.rows})
    config = replace(CONFIG, seed=seed, batch_size=size)
    found: dict[str, list[float]] = {"rows": [], "averaged": []}
    past: list[Tensor] = []
    with rows.installed(backbone), lean_convolutions(backbone.unet):
        run = Run(kind(backbone, [read_image(concept.image).image], rows, config), rows, start, config)
        (parameter,) = rows.rows.values()
        while run.step < max(LOOK_AT):
            run.train_step()
            run.settle()
            past.append(parameter.detach().clone())
            if run.step in LOOK_AT:
                for name, value in (("rows", past[-1]), ("averaged", torch.stack(past[-(run.step // 4) :]).mean(0))):
                    parameter.data.copy_(value)
                    found[name].append(run.data.evaluate(run.grid)[0])
                parameter.data.copy_(past[-1])
    return found


def records(path: Path) -> Iterator[dict[str, Any]]:
    """All runs: those that the file holds, and the others, which are added to it."""
    lines = JsonLines(path)
    done = {(one["concept"], one["way"], one["seed"]): one for one in map(json.loads, path.read_text().splitlines())}
    backbone, captioner = sentinv.load("toybox"), make("caption", "toybox")
    for concept in read_concepts(CONCEPTS):
        start = starting_rows(captioner(read_image(concept.image).image), backbone)
        for seed in SEEDS:
            for way in WAYS:
                if (concept.name, way, seed) not in done:
                    one = {"concept": concept.name, "way": way, "seed": seed}
                    one |= losses(backbone, concept, start, way, seed)
                    lines.write(one)
                    done[concept.name, way, seed] = one
                    print(concept.name, seed, way, one["rows"], flush=True)
                yield done[concept.name, way, seed]


def table(runs: list[dict[str, Any]]) -> Table:
    """Every way, and its averaged rows, against the default."""
    kept: dict[tuple[str, str], dict[str, list[list[float]]]] = {}
    for run in runs:
        for name in ("rows", "averaged"):
            kept.setdefault((run["way"], name), {}).setdefault(run["concept"], []).append(run[name])
    means = {key: torch.tensor([*own.values()]).mean(dim=1) for key, own in kept.items()}  # [concepts, looks]
    rows = []
    for (way, name), own in means.items():
        less = own - means[next(iter(WAYS)), "rows"]
        cells = [
            (f"{own[:, look].mean():.4f}", bootstrap(less[:, look].tolist()).text(4)) for look in range(len(LOOK_AT))
        ]
        rows.append([way if name == "rows" else "… averaged", *(cell for pair in cells for cell in pair)])
    header = ["a step draws", *(cell for step in LOOK_AT for cell in (f"at {step}", "less the default"))]
    count = len(next(iter(kept.values())))
    note = f"{count} concepts, seeds {SEEDS}; mean evaluation loss; paired differences [95 % interval over concepts]."
    return Table("Ways to draw", header, rows, note)


def main(log: Path, target: Path) -> None:
    made = table(list(records(log)))
    target.write_text(f"{made.markdown()}\n`python benchmarks/draws.py {log} {target}`\n", encoding="utf-8")
    print(made.markdown())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
