"""Recipes that were tried to get there sooner: what a step draws, how its rows move, and averaged rows.

python benchmarks/recipes.py outputs/recipes.jsonl outputs/recipes.md

Each recipe trains a hundred steps from the caption, with the same number of items a step. The evaluation loss is that of the
rows of a step; "averaged" is the mean of the rows of the last quarter of steps up to it. Differences are to the default,
paired by concept and seed. Runs that the first file holds already are not run again.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

import sentinv
from sentinv.bench.concepts import StudyConcept, read_concepts
from sentinv.bench.records import machine
from sentinv.bench.study import key_of
from sentinv.concepts.initialization import Start, starting_rows
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.evaluation.statistics import bootstrap
from sentinv.files.images import read_image
from sentinv.files.json_lines import JsonLines
from sentinv.initializers import make
from sentinv.models.backbone import Backbone
from sentinv.report.tables import Table
from sentinv.training.config import TrainConfig
from sentinv.training.data import Batch, TrainingSet
from sentinv.training.lean_convolutions import lean_convolutions
from sentinv.training.loop import Loop
from sentinv.training.objective import DenoisingObjective
from sentinv.training.train import rows_groups

CONCEPTS = Path(__file__).resolve().parent / "concepts" / "concepts.json"
SEEDS = (0,)
LOOK_AT = (25, 50, 100)
FUNCTION_WORDS = ("a", "an", "the", "of", "with", "that", "is", "and", "on", "in", "at", "above", "below")
CONFIG = TrainConfig(evaluation_timesteps=16, evaluation_noises=2)


class Independent(TrainingSet):
    """Timesteps that know nothing of each other."""

    def draw(self, generator: Generator) -> Batch:
        batch = super().draw(generator)
        return self.at(batch, torch.randint(self.backbone.schedule.train_timesteps, (len(batch),), generator=generator))

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
        share = (batch.timesteps + 0.5) / self.backbone.schedule.train_timesteps
        reached = torch.searchsorted(self.density().cumsum(0), share)
        return self.at(batch, reached.clamp(max=self.backbone.schedule.train_timesteps - 1))

    def density(self) -> Tensor:
        return density(DenoisingObjective(self.backbone, self.config.min_snr), self.power)


class OverDensity(DenoisingObjective):
    """The loss divided by how often its timestep is drawn."""

    power = 1.0

    def __call__(self, batch: Batch) -> Tensor:
        return super().__call__(batch) / (density(self, self.power)[batch.timesteps] * len(density(self, self.power)))


def density(objective: DenoisingObjective, power: float) -> Tensor:
    """Probability of each timestep `[T]` that is drawn by a power of its weight."""
    weights = objective.timestep_weights
    assert weights is not None
    return weights**power / (weights**power).sum()


class OverRoot(OverDensity):
    """... drawn by the root of the weight."""

    power = 0.5


class ByRoot(ByWeight):
    """Half way between even draws and draws by weight."""

    power = 0.5


class OwnRates(torch.optim.AdamW):
    """AdamW with a learning rate for each row: the default's, times a factor. Plain AdamW moves all rows alike."""

    tokens: tuple[str, ...] = ()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take AdamW's step, and of each row's move the share that it is due."""
        (rows,) = self.param_groups[0]["params"]
        before = rows.clone()
        super().step()
        rows.copy_(torch.lerp(before, rows, self.factors(rows.grad)))

    def factors(self, gradients: Tensor) -> Tensor:
        """From the gradients `[n, dim]` of the step to a factor `[n, 1]` for each row."""
        raise NotImplementedError


class FunctionWordsSlowly(OwnRates):
    """What starts from "a" or "with" moves a fifth as far."""

    def factors(self, gradients: Tensor) -> Tensor:
        return torch.tensor([[0.2 if token in FUNCTION_WORDS else 1.0] for token in self.tokens])


class ByGradient(OwnRates):
    """In proportion to the size of the row's gradients, one on the average."""

    squares = torch.zeros(1, 1)

    def factors(self, gradients: Tensor) -> Tensor:
        decay = self.param_groups[0]["betas"][1]
        self.squares = decay * self.squares + (1 - decay) * gradients.square().mean(dim=1, keepdim=True)
        return self.squares.sqrt() / self.squares.sqrt().mean()


class SharedSecondMoment(torch.optim.AdamW):
    """AdamW whose second moment is one number for each row, as in Adam-mini (Zhang et al. 2024, arXiv:2406.16793)."""

    over: tuple[int, ...] = (1,)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Kingma & Ba 2014, algorithm 1, with decoupled weight decay."""
        (group,) = self.param_groups
        (rows,) = group["params"]
        (first, second), rate = group["betas"], group["lr"]
        state = self.state[rows] or {"step": torch.zeros(()), "exp_avg": 0 * rows, "exp_avg_sq": 0 * rows[:, :1]}
        self.state[rows] = state
        state["step"] += 1
        state["exp_avg"] = torch.lerp(rows.grad, state["exp_avg"], first)
        state["exp_avg_sq"] = torch.lerp(rows.grad.square().mean(self.over, keepdim=True), state["exp_avg_sq"], second)
        mean = state["exp_avg"] / (1 - first ** state["step"])
        size = (state["exp_avg_sq"] / (1 - second ** state["step"])).sqrt() + group["eps"]
        rows.copy_(rows * (1 - rate * group["weight_decay"]) - rate * mean / size)


class OneSecondMoment(SharedSecondMoment):
    """... and here one number for all rows."""

    over = (0, 1)


@dataclass(frozen=True)
class Recipe:
    """What differs from the default: what a step draws, its batch size for four items, optimiser and objective."""

    data: type[TrainingSet] = TrainingSet
    batch_size: int = 4
    optimizer: type[torch.optim.AdamW] = torch.optim.AdamW
    objective: type[DenoisingObjective] = DenoisingObjective


RECIPES = {
    "one timestep from each quarter (default)": Recipe(),
    "independent timesteps": Recipe(Independent),
    "antithetic noise": Recipe(Antithetic, 2),
    "timesteps by their weight": Recipe(ByWeight, objective=OverDensity),
    "timesteps by the root of their weight": Recipe(ByRoot, objective=OverRoot),
    "rows of function words at a fifth of the rate": Recipe(optimizer=FunctionWordsSlowly),
    "each row's rate by the size of its gradients": Recipe(optimizer=ByGradient),
    "one second moment for each row": Recipe(optimizer=SharedSecondMoment),
    "one second moment for all rows": Recipe(optimizer=OneSecondMoment),
}


def losses(
    backbone: Backbone, concept: StudyConcept, start: Start, recipe: Recipe, seed: int
) -> dict[str, list[float]]:
    """Evaluation loss at `LOOK_AT`, of the rows of that step and of averaged ones."""
    rows = PlaceholderRows({"<concept>": start.rows})
    config = replace(CONFIG, seed=seed, batch_size=recipe.batch_size)
    found: dict[str, list[float]] = {"rows": [], "averaged": []}
    past: list[Tensor] = []
    with rows.installed(backbone), lean_convolutions(backbone.unet):
        data = recipe.data(backbone, [read_image(concept.image).image], rows, config)
        objective, plain = recipe.objective(backbone, config.min_snr), DenoisingObjective(backbone, config.min_snr)
        loop = Loop(data, objective, rows_groups(rows, backbone, config), config)
        grid = data.evaluation_batches()
        (group,) = loop.optimizer.param_groups
        loop.optimizer = recipe.optimizer(**{key: group[key] for key in ("params", "lr", "betas", "weight_decay")})
        if isinstance(loop.optimizer, OwnRates):
            loop.optimizer.tokens = start.tokens
        (parameter,) = rows.rows.values()
        for step in loop.steps():
            past.append(parameter.detach().clone())
            if step in LOOK_AT:
                for name, value in (("rows", past[-1]), ("averaged", torch.stack(past[-(step // 4) :]).mean(0))):
                    parameter.data.copy_(value)
                    found[name].append(plain.evaluate(grid)[0])
                parameter.data.copy_(past[-1])
    return found


def records(path: Path, backbone: Backbone) -> Iterator[dict[str, Any]]:
    """All runs: those that the file holds, and the others, which are added to it."""
    lines = JsonLines(path)
    done = {one["key"]: one for one in map(json.loads, path.read_text().splitlines())}
    concepts = read_concepts(CONCEPTS)
    captioner = make("caption", "toybox")
    starts = [starting_rows(captioner(read_image(concept.image).image), backbone) for concept in concepts]
    for seed in SEEDS:
        for concept, start in zip(concepts, starts, strict=True):
            for name, recipe in RECIPES.items():
                one: dict[str, Any] = {"concept": concept.name, "recipe": name, "seed": seed}
                context = {
                    "config": asdict(CONFIG),
                    "looks": LOOK_AT,
                    "words": start.text,
                    "model": backbone.fingerprint,
                }
                key = key_of({**one, **context})
                if key not in done:
                    done[key] = {"key": key, **one, **losses(backbone, concept, start, recipe, seed)}
                    lines.write(done[key])
                    print(concept.name, seed, name, done[key]["rows"], flush=True)
                yield done[key]


def table(runs: list[dict[str, Any]]) -> Table:
    """Every recipe, and its averaged rows, against the default."""
    kept: dict[tuple[str, str], dict[str, list[list[float]]]] = {}
    for run in runs:
        for name in ("rows", "averaged"):
            kept.setdefault((run["recipe"], name), {}).setdefault(run["concept"], []).append(run[name])
    means = {key: torch.tensor([*own.values()]).mean(dim=1) for key, own in kept.items()}  # [concepts, looks]
    rows = []
    for (recipe, name), own in means.items():
        less = own - means[next(iter(RECIPES)), "rows"]
        cells = [
            (f"{own[:, look].mean():.4f}", bootstrap(less[:, look].tolist()).text(4)) for look in range(len(LOOK_AT))
        ]
        rows.append([recipe if name == "rows" else "… averaged", *(cell for pair in cells for cell in pair)])
    header = ["recipe", *(cell for step in LOOK_AT for cell in (f"at {step}", "less the default"))]
    count = len(next(iter(kept.values())))
    seeds = ", ".join(map(str, SEEDS))
    note = f"{count} concepts, seed {seeds}; mean evaluation loss; paired differences [95 % interval over concepts]."
    return Table("Recipes", header, rows, note)


def main(log: Path, target: Path) -> None:
    backbone = sentinv.load("toybox")
    made = table(list(records(log, backbone)))
    facts = machine(backbone)
    notes = f"{facts['model']}; {facts['machine']}; {facts['date']}: `python benchmarks/recipes.py {log} {target}`"
    target.write_text(f"{made.markdown()}\n{notes}\n", encoding="utf-8")
    print(made.markdown())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
