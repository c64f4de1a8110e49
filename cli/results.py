"""What `invert` writes and prints when it is done."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.options import notice, print_json
from sentinv.cli.progress import progress

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.cli.invert import Job
    from sentinv.concepts.concept import Concept
    from sentinv.concepts.initialization import Start
    from sentinv.models.backbone import Backbone
    from sentinv.report.run_page import Report
    from sentinv.training.history import History

_PROMPTS = {"object": "a photo of {}", "style": "a painting in the style of {}"}
_SAMPLING_STEPS = 30


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


def sample_images(
    job: Job, backbone: Backbone, start: Start, concept: Concept
) -> tuple[str, list[Image.Image], list[Image.Image]]:
    """Make the same images (prompt, seeds) from the start and from what was learned.

    Returns:
        The prompt, images of the start, images of the concept; none where the model cannot make any.
    """
    from dataclasses import replace

    from sentinv.errors import ModelError
    from sentinv.generation.generate import GenerateConfig, generate

    prompt = _PROMPTS[job.config.kind].replace("{}", job.token)
    count = job.given["samples"]
    if not count:
        return prompt, [], []
    config = GenerateConfig(steps=_SAMPLING_STEPS)
    strips = []
    total = 2 * _SAMPLING_STEPS * -(-count // config.batch_size)
    with progress("sampling", total, quiet=job.given["quiet"]) as bar:
        for index, one in enumerate((replace(concept, rows=start.rows), concept)):
            done = index * total // 2
            on_step = lambda step, _, done=done: bar.at(done + step)  # noqa: E731
            try:
                strips.append(
                    generate(backbone, prompt, [one], count=count, seed=job.config.seed, config=config, on_step=on_step)
                )
            except ModelError as error:
                notice(f"no images in the report: {error}")
                return prompt, [], []
    return prompt, strips[0], strips[1]


def write_result(job: Job, report: Report) -> None:
    """Write metrics and report, and remove the checkpoints, which have served."""
    from sentinv.files.atomic import atomic_write
    from sentinv.report.run_page import render

    atomic_write(job.outputs.metrics, _metrics(report.history).encode(), overwrite=True)
    atomic_write(job.outputs.report, render(report).encode(), overwrite=True)
    job.outputs.drop_checkpoints()


def _metrics(history: History) -> str:
    """One line for the start and one for every step."""
    from dataclasses import asdict

    first = {"step": 0, "loss": None, "learning_rate": None, "evaluation": history.evaluations[0][1]}
    return "".join(json.dumps(line) + "\n" for line in [first, *map(asdict, history.records)])


def print_result(job: Job, report: Report) -> None:
    """Print what was learned, where it lies and what to do with it."""
    history, concept = report.history, report.concept
    if job.given["as_json"]:
        print_json(_as_json(job, report))
        return
    change = (history.best_loss / history.start_loss - 1) * 100
    vectors = "1 vector" if concept.count == 1 else f"{concept.count} vectors"
    click.echo(f"{click.style(concept.token, bold=True)}  {vectors} from {report.start.text!r}")
    click.echo(
        f"loss {history.start_loss:.4f} → {history.best_loss:.4f} ({change:+.1f} %), "
        f"best at step {history.best_step} of {history.evaluations[-1][0]}, {history.seconds:.0f} s"
    )
    click.echo(f"{job.outputs.concept}\n{job.outputs.report}")
    if not job.given["quiet"]:
        model = "" if job.given["model"] == "toybox" else f" --model {job.given['model']}"
        prompt = f'"{report.prompt} on the moon"' if job.config.kind == "object" else f'"{report.prompt}"'
        click.echo(f"sentinv: next: sentinv generate {prompt} --concept {job.outputs.concept}{model}", err=True)


def _as_json(job: Job, report: Report) -> dict[str, Any]:
    history, start = report.history, report.start
    return {
        "concept": str(job.outputs.concept),
        "report": str(job.outputs.report),
        "metrics": str(job.outputs.metrics),
        "token": job.token,
        "model": report.concept.base_model,
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
