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
    study = tomllib.loads(path.read_text(encoding="utf-8"))
    arms = {
        name: Arm(name, own.get("word", {}), own.get("tune"), own.get("mask", False), own.get("scale", 1.0))
        for name, own in study["arms"].items()
    }
    return study, arms


def word_config(arm: Arm, seed: int) -> TrainConfig:
    """How the word of an arm is learned; a limit of 0 is none."""
    word = {name: None if (name, value) == ("max_norm", 0) else value for name, value in arm.word.items()}
    return TrainConfig(**word, seed=seed)
