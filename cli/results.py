"""What `invert` writes and prints when it is done."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.options import notice, print_json
from sentinv.cli.progress import progress

if TYPE_CHECKING:
    from sentinv.cli.invert import InvertOptions
    from sentinv.models.backbone import Backbone
    from sentinv.report.outputs import Outputs
    from sentinv.report.run_page import Report
    from sentinv.training.invert import Learned
    from sentinv.training.samples import Samples


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
    from sentinv.errors import ModelError
    from sentinv.training.samples import Samples, prompt_of, sample_images, sampling_steps

    with progress("sampling", sampling_steps(options.samples), quiet=options.quiet) as bar:
        try:
            return sample_images(backbone, learned, options.samples, lambda step, _: bar.at(step))
        except ModelError as error:
            notice(f"no images in the report: {error}")
            return Samples(prompt=prompt_of(learned))


def print_result(outputs: Outputs, report: Report, options: InvertOptions) -> None:
    """Print what was learned, where it lies and what to do with it."""
    learned, history = report.learned, report.learned.history
    if options.as_json:
        print_json(_as_json(outputs, report))
        return
    concept = learned.concept
    change = (history.best_loss / history.start_loss - 1) * 100
    vectors = "1 vector" if concept.count == 1 else f"{concept.count} vectors"
    click.echo(f"{click.style(concept.token, bold=True)}  {vectors} from {learned.start.text!r}")
    click.echo(
        f"loss {history.start_loss:.4f} → {history.best_loss:.4f} ({change:+.1f} %), "
        f"best at step {history.best_step} of {history.evaluations[-1][0]}, {history.seconds:.0f} s"
    )
    click.echo(f"{outputs.concept}\n{outputs.report}")
    model = "" if options.model == "toybox" else f" --model {options.model}"
    shown = report.samples.prompt
    prompt = f'"{shown} on the moon"' if learned.config.kind == "object" else f'"{shown}"'
    options.notice(f"next: sentinv generate {prompt} --concept {outputs.concept}{model}")


def _as_json(outputs: Outputs, report: Report) -> dict[str, Any]:
    history, start = report.learned.history, report.learned.start
    return {
        "concept": str(outputs.concept),
        "report": str(outputs.report),
        "metrics": str(outputs.metrics),
        "token": report.learned.concept.token,
        "model": report.learned.concept.base_model,
        "initializer": start.initialization.source,
        "text": start.text,
        "score": start.initialization.score,
        "tokens": list(start.tokens),
        "vectors": start.count,
        "steps": history.evaluations[-1][0],
        "best_step": history.best_step,
        "stop": history.stop,
        "start_loss": history.start_loss,
        "best_loss": history.best_loss,
        "seconds": report.seconds,
    }
