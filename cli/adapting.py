"""--lora: which LoRAs are on while a command works, and how strongly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.options import Decorated, OutputOptions

if TYPE_CHECKING:
    from sentinv.adapters.fitting import Fitted
    from sentinv.adapters.lora import Lora
    from sentinv.concepts.concept import Concept
    from sentinv.models.backbone import Backbone

MAX_SCALE = 100
"""A LoRA that counts for more than this draws nothing but numbers that are not finite."""


class LoraFile(click.ParamType):
    """A file, and behind a colon the scale that it counts with: `cat-lora.safetensors:0.8`."""

    name = "lora"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Path, float]:
        """Read it; a file whose own name ends like that is meant as it is."""
        if isinstance(value, tuple):
            return value
        file, colon, scale = value.rpartition(":")
        if not colon or Path(value).exists():
            return Path(value), 1.0
        try:
            number = float(scale)
        except ValueError:
            if not scale or Path(file).exists():
                self.fail(f"expected a number behind the colon, such as {file}:0.8, got {scale!r}.", param, ctx)
            return Path(value), 1.0
        if not abs(number) <= MAX_SCALE:
            self.fail(f"expected a scale from -{MAX_SCALE} to {MAX_SCALE}, got {scale}.", param, ctx)
        if not file:
            self.fail(f"expected a file, and behind a colon its scale, got {value!r}.", param, ctx)
        return Path(file), number


@dataclass(frozen=True, kw_only=True)
class LoraOptions(OutputOptions):
    """--lora.

    Attributes:
        lora_files: files with their scales.
    """

    lora_files: tuple[tuple[Path, float], ...]

    def loras(self) -> list[tuple[Lora, float]]:
        """Read them.

        Raises:
            ConceptError: If one cannot be read, or is no LoRA.
        """
        from sentinv.adapters.lora import load_lora

        return [(load_lora(path), scale) for path, scale in self.lora_files]

    def meant(self, loras: Sequence[tuple[Lora, float]], text: str) -> list[tuple[Lora, float]]:
        """Leave out LoRAs that belong to a word which is not in a prompt, so that this shows what it did without them."""
        for lora, _ in loras:
            if lora.token not in text:
                self.notice(f"{lora.title} is left out: {lora.token}, to which it belongs, is not in the prompt")
        return [(lora, scale) for lora, scale in loras if lora.token in text]

    @contextmanager
    def worn(
        self, backbone: Backbone, loras: Sequence[tuple[Lora, float]], concepts: Sequence[Concept]
    ) -> Iterator[None]:
        """Have LoRAs on inside a ``with`` block, and say how many of their layers the model has.

        Raises:
            ConceptError: If one does not fit the model.
        """
        from sentinv.adapters.install import adapted, check_words

        if not loras:
            yield
            return
        check_words([lora for lora, _ in loras], concepts)
        with adapted(backbone, loras) as adapters:
            self.tell(adapters.fitted)
            yield

    def tell(self, found: Iterable[Fitted]) -> None:
        """Say how many layers a model has of each LoRA."""
        for fitted in found:
            self.notice(f"{fitted.lora.title}: {fitted.told}")


def lora_option(command: Decorated) -> Decorated:
    """Add --lora."""
    text = "A LoRA, and how strongly it counts, 1 if not said; repeatable. Left out where a prompt has not its word."
    return click.option("--lora", "lora_files", multiple=True, type=LoraFile(), metavar="FILE[:SCALE]", help=text)(
        command
    )
