"""What `invert` and `tune` write and print when they are done."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.options import notice
from sentinv.cli.progress import progress

if TYPE_CHECKING:
    from sentinv.cli.invert import InvertOptions
    from sentinv.cli.training_options import RunOptions
    from sentinv.cli.tune import TuneOptions
    from sentinv.generation.generate import Progress
    from sentinv.models.backbone import Backbone
    from sentinv.report.outputs import Outputs, TuneOutputs
    from sentinv.report.run_page import Report
    from sentinv.training.history import History
    from sentinv.training.invert import Learned
    from sentinv.training.samples import Samples
    from sentinv.training.tune import Tuned


class Clock:
    """Seconds, part by part.

    Attributes:
        seconds: part → how long it took, in the order of the parts.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Note the time since the last lap."""
        now = time.perf_counter()
        self.seconds[part] = now - self._last
        self._last = now


def samples_of(learned: Learned, backbone: Backbone, options: InvertOptions) -> Samples:
    """Make the images of the report; none where the model cannot make any."""
    from sentinv.training.samples import sample_images, sampling_steps

    total = sampling_steps(options.samples)
    return _samples(learned, total, lambda bar: sample_images(backbone, learned, options.samples, bar), options.quiet)


def tuned_samples_of(
    tuned: Tuned, backbone: Backbone, count: int, *, quiet: bool, alone: Samples | None = None
) -> Samples:
    """Make the images of the report on a LoRA, but for those of the word that there are; none where the model can make none."""
    from sentinv.training.samples import tuned_samples, tuned_sampling_steps

    total = tuned_sampling_steps(count, alone=alone is None or not alone.after)
    return _samples(tuned, total, lambda bar: tuned_samples(backbone, tuned, count, bar, alone), quiet)


def _samples(learned: Learned | Tuned, total: int, make: Callable[[Progress], Samples], quiet: bool) -> Samples:
    """Make images; what was learned is saved by now, and that there are none is no failure."""
    from sentinv.errors import SentinvError
    from sentinv.models.memory import is_out_of_memory, release
    from sentinv.models.parts import one_line
    from sentinv.training.samples import Samples, prompt_of

    with progress("sampling", total, quiet=quiet) as bar:
        try:
            return make(lambda step, _: bar.at(step))
        except (SentinvError, RuntimeError, MemoryError) as error:
            why = "out of memory, even for one image in small pieces" if is_out_of_memory(error) else one_line(error)
    release()
    notice(f"no images in the report: {why}")
    return Samples(prompt=prompt_of(learned))


@contextmanager
def word_is_safe(path: Path) -> Iterator[None]:
    """Say where what was learned lies, if its report fails in here.

    Raises:
        SentinvError: If it does.
    """
    from sentinv.errors import SentinvError
    from sentinv.files.atomic import shown
    from sentinv.models.parts import one_line

    try:
        yield
    except SentinvError as error:
        raise SentinvError(f"{error}; what was learned is in {shown(path)}") from error
    except (MemoryError, RuntimeError, OSError, ValueError) as error:
        why = one_line(error) or type(error).__name__
        raise SentinvError(f"no report: {why}; what was learned is in {shown(path)}") from error


def print_result(outputs: Outputs, report: Report, options: InvertOptions, *, last: bool) -> None:
    """Print what was learned, where it lies and, if nothing follows, what to do with it."""
    from sentinv.training.invert import Learned

    learned = report.learned
    assert isinstance(learned, Learned)  # noqa: S101 - for the type checker
    concept = learned.concept
    vectors = "1 vector" if concept.count == 1 else f"{concept.count} vectors"
    click.echo(f"{click.style(concept.token, bold=True)}  {vectors} from {learned.start.text!r}")
    click.echo(_losses(learned.history))
    click.echo(f"{outputs.concept}\n{outputs.report}")
    if last:
        _tell_next(report, options, concept=outputs.concept)


def print_tuned(outputs: TuneOutputs, report: Report, options: TuneOptions) -> None:
    """Print what was tuned, where it lies and what to do with it."""
    from sentinv.training.tune import Tuned

    tuned = report.learned
    assert isinstance(tuned, Tuned)  # noqa: S101 - for the type checker
    rows = outputs.rows
    layers = f"LoRA of rank {tuned.lora.rank} on {len(tuned.lora.layers)} layers"
    click.echo(f"{click.style(tuned.lora.token, bold=True)}  {layers}")
    click.echo(_losses(tuned.history))
    click.echo("\n".join(str(path) for path in (outputs.concept, rows, outputs.report) if path is not None))
    _tell_next(report, options, concept=rows or outputs.word, lora=outputs.concept)


def _tell_next(report: Report, options: RunOptions, **files: Path) -> None:
    """Say which command shows what was learned, on the same model."""
    place = " on the moon" if report.learned.config.kind == "object" else ""
    context = click.get_current_context(silent=True)
    model = {
        "model": None if options.model == "toybox" else options.model,
        "vae": context and context.meta.get("sentinv.vae"),
    }
    more = [
        part for name, value in {**files, **model}.items() if value is not None for part in (f"--{name}", str(value))
    ]
    options.notice(f'next: sentinv generate "{report.samples.prompt}{place}" {shlex.join(more)}')


def check_end(outputs: Outputs, report: Report, what: str, rate: str) -> None:
    """Fail if a run had to end; what it had learned by then is written.

    Args:
        outputs: of the run.
        report: of the run.
        what: was learned.
        rate: the option that was too large.

    Raises:
        TrainingError: If so.
    """
    from sentinv.errors import TrainingError
    from sentinv.files.atomic import shown
    from sentinv.training.history import WRONG

    history = report.learned.history
    if history.stop in WRONG:
        raise TrainingError(
            f"{WRONG[history.stop]} in step {len(history.records) + 1} of {report.learned.config.steps}: the best {what} "
            f"until then are in {shown(outputs.concept)}; try a smaller {rate}"
        )


def _losses(history: History) -> str:
    change = (history.best_loss / history.start_loss - 1) * 100
    return (
        f"loss {history.start_loss:.4f} → {history.best_loss:.4f} ({change:+.1f} %), "
        f"best at step {history.best_step} of {history.evaluations[-1][0]}, {history.seconds:.0f} s"
    )


def facts_of(outputs: Outputs, report: Report) -> dict[str, Any]:
    """What `--json` says of a word."""
    from sentinv.training.invert import Learned

    learned = report.learned
    assert isinstance(learned, Learned)  # noqa: S101 - for the type checker
    start = learned.start
    return {
        "concept": str(outputs.concept),
        "report": str(outputs.report),
        "metrics": str(outputs.metrics),
        "token": learned.concept.token,
        "model": learned.concept.base_model,
        "initializer": start.initialization.source,
        "text": start.text,
        "score": start.initialization.score,
        "tokens": list(start.tokens),
        "vectors": start.count,
        **_course(report),
    }


def _course(report: Report) -> dict[str, Any]:
    """What `--json` says of how a training went."""
    history = report.learned.history
    return {
        "steps": history.evaluations[-1][0],
        "best_step": history.best_step,
        "stop": history.stop,
        "start_loss": history.start_loss,
        "best_loss": history.best_loss,
        "seconds": report.seconds,
    }


def tuned_facts_of(outputs: TuneOutputs, report: Report) -> dict[str, Any]:
    """What `--json` says of a LoRA."""
    from sentinv.training.tune import Tuned

    tuned = report.learned
    assert isinstance(tuned, Tuned)  # noqa: S101 - for the type checker
    rows = outputs.rows and str(outputs.rows)
    return {
        "lora": str(outputs.concept),
        "rows": rows,
        "report": str(outputs.report),
        "token": tuned.lora.token,
        "model": tuned.lora.base_model,
        "rank": tuned.lora.rank,
        "layers": len(tuned.lora.layers),
        **_course(report),
    }
