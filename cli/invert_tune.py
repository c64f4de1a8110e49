"""`sentinv invert --tune`: after the word its LoRA, as `sentinv tune` trains it, told the same."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.invert import InvertOptions, Job
from sentinv.cli.planning import TunePlan, tune_plan
from sentinv.cli.settings import defaults_of, read_environment
from sentinv.cli.tune import TuneJob, TuneOptions, tune_config, tune_word
from sentinv.cli.tune import tune as command
from sentinv.report.outputs import TuneOutputs

if TYPE_CHECKING:
    from sentinv.concepts.concept import Concept
    from sentinv.models.backbone import Backbone
    from sentinv.report.run_page import Report
    from sentinv.training.samples import Samples

_OF_BOTH = {
    *("model", "vae", "device", "dtype", "masks", "crop", "kind", "seed", "samples"),
    *("gradient_checkpointing", "force", "as_json", "quiet"),
}
"""Options that mean the same for the word and for its LoRA."""


@dataclass(frozen=True, kw_only=True)
class SecondHalf:
    """What is done when the word is learned.

    Attributes:
        args: of `sentinv tune`, which would do the same.
        options: what they come to.
        job: likewise.
    """

    args: list[str]
    options: TuneOptions
    job: TuneJob

    @classmethod
    def of(cls, job: Job, options: InvertOptions) -> SecondHalf:
        """What `sentinv tune` would be told, and what it would make of it.

        Raises:
            click.UsageError: If settings of `sentinv tune` are out of their range.
            PromptError: If its scenes cannot be used.
        """
        context = click.get_current_context()
        given = {**context.params, "vae": context.meta.get("sentinv.vae")}
        files = [_named(path) for path in (job.outputs.concept, *options.images)]
        unasked = _parsed(files, context)
        usual = {**unasked.params, "vae": unasked.meta.get("sentinv.vae")}
        args = files + _as_given({name: given[name] for name in _OF_BOTH if given[name] != usual[name]})
        parsed = _parsed(args, context)
        context.meta["sentinv.vae"] = given["vae"]
        own = TuneOptions(**parsed.params)
        with parsed.scope(cleanup=False):
            config = tune_config(own)
        outputs = TuneOutputs(own.concept, own.output, train_rows=own.train_rows)
        tuning = TuneJob(token=job.token, outputs=outputs, pictures=job.pictures, config=config, words=own.words)
        return cls(args=args, options=own, job=tuning)

    def plan(self, text: str, initializer: str) -> TunePlan:
        """Plan it for a word that starts from a text; `invert` has no say in its batch."""
        from sentinv.concepts.names import saying
        from sentinv.training.blend import named

        thing = named(self.options.words or saying(text, initializer), self.job.token)
        return tune_plan(self.job, self.options, thing, batch=False)

    def run(self, backbone: Backbone, concept: Concept, alone: Samples) -> Report:
        """Train the LoRA around the word that was learned, and write what came of it.

        Args:
            backbone: the model.
            concept: the word.
            alone: its images.

        Raises:
            SentinvError: If it was asked to stop, or could not go on; it says how to.
        """
        from sentinv.errors import Interrupted, SentinvError

        try:
            with self.job.outputs.held(resume=False):
                return tune_word(backbone, concept, self.job, self.options, alone)
        except Interrupted as error:
            raise Interrupted(f"{error}, by: {self.again}", error.signal_number) from error
        except SentinvError as error:
            raise SentinvError(f"{error}; {self.job.token} is learned, and its LoRA is by: {self.again}") from error

    @property
    def again(self) -> str:
        """A command that goes on with it, as a shell takes it."""
        outputs, args = self.job.outputs, self.args
        if outputs.checkpoints.is_dir():
            args = [*args, "--resume"]
        elif outputs.folder.exists() and "--force" not in args:
            args = [*args, "--force"]
        return shlex.join(["sentinv", "tune", *args])


def _named(path: Path) -> str:
    """A path as no command takes it for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def _parsed(args: list[str], context: click.Context) -> click.Context:
    """What `sentinv tune` makes of its arguments here, with its settings and environment."""
    read_environment("SENTINV_TUNE", command)
    return command.make_context("tune", list(args), parent=context.parent, default_map=defaults_of("tune", command))


def _as_given(values: dict[str, Any]) -> list[str]:
    """Options with their values, in the order in which help has them."""
    args = []
    for param in command.params:
        value = values.get(str(param.name))
        if isinstance(param, click.Option) and param.is_flag:
            args += [max(param.opts, key=len)] if value else []
        elif value is not None:
            for one in value if param.multiple else (value,):
                args += [max(param.opts, key=len), str(one)]
    return args
