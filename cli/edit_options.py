"""The options of `sentinv edit`, and which of them go together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.adapting import LoraOptions, lora_option
from sentinv.cli.options import SEED, Decorated, FiniteRange, ModelOptions, was_given, weight_option

if TYPE_CHECKING:
    from sentinv.editing.edit import EditConfig, Held
    from sentinv.editing.inversion import InversionConfig, Method
    from sentinv.editing.masked import Keep, MaskConfig

_PATH = click.Path(path_type=Path)


@dataclass(frozen=True, kw_only=True)
class EditOptions(LoraOptions, ModelOptions):
    """What `edit` is told."""

    image: Path
    files: tuple[Path, ...]
    weights: tuple[tuple[str, float], ...]
    prompt: str | None
    ddim_invert: bool
    source_prompt: str | None
    method: Method
    given_steps: int | None
    guidance: float | None
    source: Held
    source_guidance: float | None
    skip: float | None
    sweep: list[float] | None
    archive_file: Path | None
    save_archive: Path | None
    mask_file: Path | None
    dilate: int
    feather: int
    keep: Keep
    reconstruct: bool
    fail_above: float | None
    seed: int
    output: Path | None
    allow_pickle: bool
    force: bool

    @property
    def inverts(self) -> bool:
        """Whether there is an inversion, made or taken."""
        return self.ddim_invert or self.archive_file is not None

    @property
    def steps(self) -> int:
        """Of sampling: inversions need more of them, since what they lose falls with the square."""
        return self.given_steps or (50 if self.inverts else 25)

    @property
    def target(self) -> Path | None:
        """The PNG to write; None if only numbers were asked for."""
        if self.output or self.reconstruct:
            return self.output
        return Path(f"{self.image.stem}-{'sweep' if self.sweep else 'edit'}.png")

    @property
    def inversion_config(self) -> InversionConfig:
        """How to invert."""
        from sentinv.editing.inversion import InversionConfig

        return InversionConfig(method=self.method, steps=self.steps, seed=self.seed)

    @property
    def edit_config(self) -> EditConfig:
        """How to edit the whole image."""
        from sentinv.editing.edit import EditConfig

        return EditConfig(
            guidance_scale=self.guidance,
            source=self.source,
            skip=self.skip or 0.0,
            source_guidance=self.source_guidance,
            weights=dict(self.weights),
        )

    @property
    def mask_config(self) -> MaskConfig:
        """How to edit inside a mask."""
        from sentinv.editing.masked import MaskConfig

        return MaskConfig(
            steps=self.steps,
            guidance_scale=self.guidance,
            skip=self.skip or 0.0,
            dilate=self.dilate,
            feather=self.feather,
            keep=self.keep,
            seed=self.seed,
            weights=dict(self.weights),
        )


class Sweep(click.ParamType):
    """``skip=FIRST:LAST:STEP``, both ends included."""

    name = "skip=first:last:step"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        """Read it."""
        if isinstance(value, list):
            return value
        name, _, numbers = str(value).partition("=")
        try:
            first, last, step = (float(part) for part in numbers.split(":"))
            valid = name == "skip" and 0 <= first <= last < 1 and 0 < step < math.inf
        except ValueError:
            valid = False
        if not valid:
            self.fail(f"expected skip=first:last:step within [0, 1), such as skip=0:.6:.1, got {value!r}", param, ctx)
        return [round(first + index * step, 6) for index in range(min(100, int((last - first) / step + 1e-6) + 1))]


def edit_guidance_option(command: Decorated) -> Decorated:
    """Add --guidance of edits, whose default is up to `EditConfig.guidance`."""
    text = "How strongly words lead; 1 turns it off.  [default: the model's own (toybox 4, others 7.5); half with npi]"
    return click.option("--guidance", type=FiniteRange(0), help=text)(command)


_OPTIONS = [
    click.option("-c", "--concept", "files", multiple=True, type=_PATH, help="A learned word; repeatable."),
    lora_option,
    click.option("--prompt", help="What to show instead."),
    weight_option,
    click.option("--ddim-invert", is_flag=True, help="Find the image's own noise and start from it."),
    click.option("--source-prompt", help='What it shows now.  [default: "a photo of <c>", else a caption]'),
    click.option(
        "--method",
        type=click.Choice(["pec", "ddim", "fixed-point", "ddpm"]),
        default="pec",
        show_default=True,
        help="Of the inversion.",
    ),
    click.option(
        "--steps", "given_steps", type=click.IntRange(1, 1000), help="DDIM steps.  [default: 50; 25 with --mask alone]"
    ),
    edit_guidance_option,
    click.option(
        "--source",
        type=click.Choice(["npi", "none", "delta"]),
        default="npi",
        show_default=True,
        help="What holds the image in place.",
    ),
    click.option("--source-guidance", type=FiniteRange(0), help="At which offsets are taken.  [default: --guidance]"),
    click.option(
        "--skip",
        type=FiniteRange(0, 1, max_open=True),
        help="Share of noisy steps left out: more keeps more.  [default: 0]",
    ),
    click.option("--sweep", type=Sweep(), help="Several skips on one sheet, such as skip=0:.6:.1."),
    click.option("--archive", "archive_file", type=_PATH, help="Take an inversion that was saved."),
    click.option("--save-archive", type=_PATH, help="Save the inversion for further edits."),
    click.option("--mask", "mask_file", type=_PATH, help="Edit only where this image is white."),
    click.option("--dilate", type=click.IntRange(0), default=0, show_default=True, help="Pixels the mask grows by."),
    click.option("--feather", type=click.IntRange(0), default=2, show_default=True, help="Pixels it fades out over."),
    click.option(
        "--keep",
        type=click.Choice(["pixels", "latents"]),
        default="pixels",
        show_default=True,
        help="What comes back exactly outside the mask.",
    ),
    click.option("--reconstruct", is_flag=True, help="Try the way back only, and say which stage loses what."),
    click.option("--fail-above", type=FiniteRange(0), help="With --reconstruct: exit 1 above this latent error."),
    click.option("--seed", type=SEED, default=0, show_default=True, help="Of the noise of --mask and ddpm."),
    click.option("-o", "--output", type=_PATH, help="The PNG to write.  [default: <image>-edit.png here]"),
    click.option("--allow-pickle", is_flag=True, help="Read .pt and .bin concepts too."),
]
"""In the order of the help."""


def edit_options(command: Decorated) -> Decorated:
    """Add what an edit can be told."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check_usage(options: EditOptions) -> None:
    """Refuse options that contradict each other.

    Raises:
        click.UsageError: If they do.
    """
    if not options.inverts and not options.mask_file:
        raise click.UsageError("say how to edit: --ddim-invert, --archive FILE or --mask FILE")
    if options.reconstruct and (options.mask_file or not options.inverts):
        raise click.UsageError("--reconstruct needs --ddim-invert or --archive, and no --mask")
    if not options.reconstruct and not options.prompt:
        raise click.UsageError("--prompt is needed: what to show instead")
    if options.fail_above is not None and not options.reconstruct:
        raise click.UsageError("--fail-above needs --reconstruct")
    if options.sweep and (options.mask_file or options.reconstruct):
        raise click.UsageError("--sweep goes with neither --mask nor --reconstruct")
    if options.save_archive and not options.ddim_invert:
        raise click.UsageError("--save-archive needs --ddim-invert")
    if options.ddim_invert and options.archive_file:
        raise click.UsageError("--ddim-invert makes an inversion and --archive takes one: give one of them")
    if options.lora_files and (options.archive_file or options.save_archive):
        raise click.UsageError("--lora goes with neither --archive nor --save-archive, which do not tell what was on")
    for name, why in _without_effect(options):
        if was_given(name):
            spelled = {"weights": "weight", "given_steps": "steps"}
            option = spelled.get(name, name.replace("_", "-"))
            raise click.UsageError(f"--{option} has no effect {why}: leave it out")


def _without_effect(options: EditOptions) -> Iterator[tuple[str, str]]:
    """Options that would be ignored, and with what."""
    if options.mask_file:
        yield from ((name, "with --mask") for name in ("source", "source_guidance"))
        if not options.inverts:
            yield from ((name, "without --ddim-invert") for name in ("method", "source_prompt"))
    else:
        yield from ((name, "without --mask") for name in ("dilate", "feather", "keep"))
    if options.archive_file:
        yield from ((name, "with --archive, which has its own") for name in ("method", "given_steps"))
    elif options.source == "none" and options.method != "ddpm":
        yield "source_guidance", "with --source none, but for --method ddpm"
    if options.source == "npi":
        yield "source_guidance", "with --source npi"
        if options.guidance == 1 and not options.mask_file:
            yield "source", "at --guidance 1, where nothing is led away from"
    if options.sweep:
        yield "skip", "with --sweep"
    if options.reconstruct:
        yield from ((name, "with --reconstruct") for name in ("prompt", "weights", "skip", "source_guidance"))
    if not options.mask_file and options.archive_file:
        yield "seed", "with --archive, which has its own"
    elif not options.mask_file and options.method != "ddpm":
        yield "seed", "without --mask, but for --method ddpm"
