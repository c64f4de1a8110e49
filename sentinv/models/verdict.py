"""What checks of a model come to: right, wrong, or that it cannot be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sentinv.models.published import is_published

if TYPE_CHECKING:
    from sentinv.models.backbone import Backbone


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: what ought to be so.
        passed: whether it is; None if this model cannot tell.
        measured: a number or a short text.
        limit: what the number may be at most; NaN where there is none.
        seconds: it took.
        advice: what to do if it failed.
        of_weights: whether it is the weights that answer, which have to be trained for it.
    """

    name: str
    passed: bool | None
    measured: float | str
    limit: float
    seconds: float
    advice: str
    of_weights: bool = False

    def __str__(self) -> str:
        mark = {True: "ok  ", False: "FAIL", None: "—   "}[self.passed]
        shown = self.measured if isinstance(self.measured, str) else f"{self.measured:.1e} (at most {self.limit:.0e})"
        return f"{mark} {self.name}: {shown}" + (f" → {self.advice}" if self.passed is False else "")


@dataclass(frozen=True)
class Verdict:
    """What all checks together say.

    Attributes:
        says: of the model.
        why: which checks it rests on, and what follows.
    """

    says: Literal["right", "wrong", "cannot tell"]
    why: str

    def __str__(self) -> str:
        return f"{self.says}: {self.why}"


def judged(backbone: Backbone, checks: Sequence[Check]) -> Verdict:
    """Judge a model by its checks.

    Weights that do not answer as trained ones do are wrong in a model that is as its family was published; of others, such as
    those of few steps, nobody can say.
    """
    failed = [check.name for check in checks if check.passed is False]
    if failed:
        return Verdict("wrong", f"{len(failed)} of {len(checks)} checks failed: {'; '.join(failed)}")
    silent = [check.name for check in checks if check.of_weights and check.passed is None]
    if not silent:
        return Verdict("right", f"none of {len(checks)} checks failed")
    if is_published(backbone):
        family = backbone.architecture
        return Verdict(
            "wrong", f"its weights are not those of a trained {family} ({'; '.join(silent)}: no); get the model again"
        )
    return Verdict(
        "cannot tell",
        f"no check failed, and the weights do not say ({'; '.join(silent)}): look at what `generate` draws",
    )
