"""How a study is shared among processes, by what its trials cost."""

from __future__ import annotations

from collections.abc import Sequence

from sentinv.bench.starts import REFERENCES
from sentinv.bench.study import Study, Trial


def cost(trial: Trial, study: Study) -> int:
    """About how many UNet evaluations a trial takes; a backward pass counts as two."""
    configs = [config for config in (trial.config, trial.tuning) if config is not None]
    trained = 0 if trial.spec.name in REFERENCES else sum(3 * config.items * config.steps for config in configs)
    looks = len(trial.looks(study.images_at)) + len(configs) - 1 if trained else 1
    prompts = 1 + len(trial.concept.edits)
    return trained + 2 * looks * prompts * study.count * study.sampling_steps


def shares(costs: Sequence[int], count: int) -> list[int]:
    """Index of the share, in [0, count), of each item: the dearest first, each to the share that has least (Graham 1969)."""
    loads = [0] * count
    found = [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        found[index] = loads.index(min(loads))
        loads[found[index]] += costs[index]
    return found
