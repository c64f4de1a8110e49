"""Options that several commands have, and what they mean."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from sentinv.cli.streams import can_show

if TYPE_CHECKING:
    from sentinv.concepts.concept import Concept
    from sentinv.models.backbone import Backbone
    from sentinv.models.names import Place

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

SHARED = ["model", "vae", "device", "dtype", "quiet"]
"""Options that a settings file may set for all commands at once."""

DTYPES = ("float32", "float16", "bfloat16")


SEED = click.IntRange(0, 2**62)
"""Of random generators; the images of one command have seeds that follow."""


class FiniteRange(click.FloatRange):
    """Numbers, without NaN and infinity, which `click.FloatRange` lets through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """--model, --device and --dtype.

    Attributes:
        model: as `sentinv.load` takes it.
        device: None for the best there is.
        dtype: None for its device's.
    """

    model: str
    device: str | None
    dtype: str | None

    @property
    def place(self) -> Place:
        """Which model, and where it would run."""
        from sentinv.models.names import Place

        context = click.get_current_context(silent=True)
        vae = context.meta.get("sentinv.vae") if context else None
        return Place(model=self.model, vae=vae, device=self.device, dtype=self.dtype)

    def load(self) -> Backbone:
        """Load the model.

        Raises:
            ModelError: If it cannot be loaded.
            click.BadParameter: If there is no such device.
        """
        return load_backbone(self.model, self.device, self.dtype)


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """--json and --quiet.

    Attributes:
        as_json: print one JSON object.
        quiet: no progress and no notices.
    """

    as_json: bool
    quiet: bool

    def notice(self, text: str) -> None:
        """Tell the user something, on stderr, unless nothing is to be told."""
        notice(text, quiet=self.quiet)


def model_options(command: Decorated) -> Decorated:
    """Add --model, --vae, --device and --dtype."""
    command = click.option(
        "--vae",
        expose_value=False,
        callback=_vae,
        help="Autoencoder in place of the model's: folder, .safetensors file or hub id.  [default: the model's]",
    )(command)
    command = click.option(
        "--dtype", type=click.Choice(DTYPES), help="Precision of the frozen model.  [default: its device's]"
    )(command)
    command = click.option("--device", help="cpu, cuda, mps …  [default: the best there is]")(command)
    return model_option(command)


def model_option(command: Decorated) -> Decorated:
    """Add --model."""
    return click.option(
        "--model",
        default="toybox",
        envvar="SENTINV_MODEL",
        show_default=True,
        help="Built-in toybox, a diffusers folder, a .safetensors file, a hub id, or sd15, sd21, sdxl …",
    )(command)


def output_options(command: Decorated) -> Decorated:
    """Add --json, --quiet and --debug."""
    command = click.option(
        "--debug", is_flag=True, expose_value=False, callback=_debug, help="Show where an error happened."
    )(command)
    command = click.option("-q", "--quiet", is_flag=True, help="No progress and no notices on stderr.")(command)
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


def force_option(command: Decorated) -> Decorated:
    """Add --force."""
    return click.option("--force", is_flag=True, help="Replace what is there.")(command)


def guidance_option(command: Decorated) -> Decorated:
    """Add --guidance."""
    text = "How strongly words lead; 1 turns it off.  [default: the model's own: toybox 4, Turbo and the like 1, others 7.5]"
    return click.option("--guidance", type=FiniteRange(0), help=text)(command)


def _vae(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    ctx.meta["sentinv.vae"] = value


class Weighed(click.ParamType):
    """``<name>=number``."""

    name = "<name>=number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """Read it."""
        if isinstance(value, tuple):
            return value
        token, sign, number = str(value).rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not sign or not token.startswith("<") or not 0 <= weight <= 3:
            self.fail(f"expected a word and a number from 0 to 3, such as '<cat>=1.2', got {value!r}", param, ctx)
        return token, weight


def weight_option(command: Decorated) -> Decorated:
    """Add --weight."""
    text = "How much a learned word counts, such as '<cat>=1.2'; 1 changes nothing. Repeatable."
    return click.option("--weight", "weights", type=Weighed(), multiple=True, help=text)(command)


def check_prompts(prompts: Sequence[str | None], concepts: Sequence[Concept], model: str) -> None:
    """Refuse prompts that name a word nobody has given, before a model is loaded.

    Raises:
        PromptError: If one does.
    """
    from sentinv.concepts.prompts import check_placeholders
    from sentinv.errors import PromptError
    from sentinv.models.loading import load_tokenizers
    from sentinv.models.parts import local_path

    given = {concept.token: range(concept.count) for concept in concepts}
    for prompt in (prompt for prompt in prompts if prompt):
        try:
            check_placeholders(prompt, given)
        except PromptError:
            quieten_transformers()
            if local_path(model).is_file():  # its words are known when it is loaded
                return
            vocabulary = load_tokenizers(model)[0].get_vocab()
            known = {name: range(1) for name in re.findall(r"<[\w.-]+>", prompt) if name in vocabulary}
            check_placeholders(prompt, given | known)


def tell_unused(concepts: Sequence[Concept], prompt: str, options: OutputOptions) -> None:
    """Say which concepts have no part in a prompt."""
    for concept in concepts:
        if concept.token not in prompt:
            options.notice(f"warning: {concept.token} does not occur in the prompt: write it there")


def crop_option(command: Decorated) -> Decorated:
    """Add --crop."""
    kinds = click.Choice(["auto", "center", "top", "bottom", "left", "right", "none"])
    text = "Which square of a picture: around the mask, else the middle; none pads to all of it."
    return click.option("--crop", type=kinds, default="auto", show_default=True, help=text)(command)


def _debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["sentinv.debug"] = True


def was_given(name: str) -> bool:
    """Whether an option is on the command line; what settings files say for every run is no mistake."""
    context = click.get_current_context(silent=True)
    return context is not None and context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def print_json(result: Mapping[str, Any]) -> None:
    """Print a result for machines. NaN and infinities, which JSON does not have, become null."""
    from sentinv.files.json_lines import finite

    text = json.dumps(finite(result), ensure_ascii=False, indent=2)
    click.echo(text if can_show(text) else json.dumps(finite(result), indent=2))


def notice(text: str, *, quiet: bool = False) -> None:
    """Tell the user something, on stderr, in one line."""
    if not quiet:
        click.echo(f"sentinv: {printable(text)}", err=True)


def printable(text: str) -> str:
    """A text with line breaks and what else cannot be printed, which a strange file may bring in, as escapes."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def tell_toybox(model: str, *, quiet: bool = False) -> None:
    """Say loudly, in one line, that the built-in model is a toy."""
    if model == "toybox" and not quiet:
        text = "sentinv: toybox is a small DEMONSTRATION model; for real pictures add --model sd15"
        click.echo(click.style(text, fg="yellow", bold=True), err=True)


def quieten_transformers() -> None:
    """Keep the bars and remarks of transformers off the terminal; downloads keep theirs."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_backbone(model: str, device: str | None = None, dtype: str | None = None) -> Backbone:
    """Load the model that --model, --device and --dtype name.

    Raises:
        ModelError: If it cannot be loaded.
        click.BadParameter: If there is no such device.
    """
    import torch
    from diffusers.utils import logging

    from sentinv.models.loading import load

    quieten_transformers()
    logging.set_verbosity(logging.CRITICAL)  # it calls errors what it tries one after another
    logging.disable_progress_bar()
    try:
        target = torch.device(device) if device else None
        if target is not None:
            torch.ones(1, device=target).item()  # "meta" has no numbers
    except Exception as error:  # which errors there are depends on the device
        raise click.BadParameter(f"{device!r} is not a device of this machine", param_hint="--device") from error
    context = click.get_current_context(silent=True)
    vae = context.meta.get("sentinv.vae") if context else None
    return load(model, device=target, dtype=getattr(torch, dtype) if dtype else None, vae=vae)
