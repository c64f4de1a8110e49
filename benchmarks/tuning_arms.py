"""What tuning.py compares: the arms of a TOML file."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentinv.training.config import TrainConfig


@dataclass(frozen=True)
class Arm:
    """What is compared: see tuning.toml."""

    name: str
    word: dict[str, Any]
    tune: dict[str, Any] | None
    mask: bool
    scale: float


def read_arms(path: Path) -> tuple[dict[str, Any], dict[str, Arm]]:
    """A study file and its arms; what it says of `word` and `tune` in general holds where an arm says nothing else."""
    study = tomllib.loads(path.read_text(encoding="utf-8"))
    arms = {
        name: Arm(
            name,
            study.get("word", {}) | own.get("word", {}),
            study.get("tune", {}) | own["tune"] if "tune" in own else None,
            own.get("mask", False),
            own.get("scale", 1.0),
        )
        for name, own in study["arms"].items()
    }
    return study, arms


def word_config(arm: Arm, seed: int) -> TrainConfig:
    """How the word of an arm is learned; a limit of 0 is none."""
    word = {name: None if (name, value) == ("max_norm", 0) else value for name, value in arm.word.items()}
    return TrainConfig(**word, seed=seed)
