"""`sentinv selftest`: is this installation, this model, this scheduler right?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import click

from sentinv.cli.options import ModelOptions, OutputOptions, model_options, output_options, print_json, tell_toybox


@dataclass(frozen=True, kw_only=True)
class SelftestOptions(ModelOptions, OutputOptions):
    """What `selftest` is told."""

    steps: int


@click.command()
@click.option("--steps", type=click.IntRange(2, 1000), default=10, show_default=True, help="Of the sampling grid.")
@model_options
@output_options
def selftest(**given: Any) -> None:
    """Check this installation, a model and its scheduler.

    Takes seconds on the built-in model. A line for each check, and a last one: right, wrong (exit code 1) or cannot tell.

    \b
      sentinv selftest
      sentinv selftest --model sd15
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    from sentinv.errors import ModelError
    from sentinv.models.verdict import judged
    from sentinv.selftest import selftest as checks

    options = SelftestOptions(**given)
    tell_toybox(options.model, quiet=options.quiet)
    backbone = options.load()
    done = []
    for check in checks(backbone, options.steps):
        done.append(check)
        if not options.as_json:
            click.echo(str(check))
    verdict = judged(backbone, done)
    if options.as_json:
        found = {"model": options.model, "passed": verdict.says != "wrong", "verdict": verdict.says, "why": verdict.why}
        print_json(found | {"checks": [asdict(check) for check in done]})
    if verdict.says == "wrong":
        raise ModelError(str(verdict))
    if not options.as_json:
        click.echo(str(verdict))
