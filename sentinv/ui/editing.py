"""Other words for a picture, for the page: one inversion, many edits."""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sentinv.concepts.concept import Concept
from sentinv.editing.archive import Archive
from sentinv.editing.edit import EditConfig, ddim_invert, edit
from sentinv.editing.inversion import InversionConfig
from sentinv.editing.masked import MaskConfig, edit_masked
from sentinv.editing.reconstruction import Budget, reconstruct
from sentinv.errors import EditError, SentinvError
from sentinv.files.atomic import make_folder
from sentinv.files.decoding import Picture
from sentinv.generation.generate import Progress
from sentinv.ui.drawing import Drawing, slug, words_of

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.ui.engine import Engine
    from sentinv.ui.folder import Folder

_STEPS = 30
_ARCHIVES, _KEPT, _MOST_KEPT = "archives", 3, 20


@dataclass(frozen=True, kw_only=True)
class Editing:
    """What is to be changed.

    Attributes:
        picture: to be changed; its mask is white where it may change, None for everywhere.
        source: what it shows, in words.
        prompt: what it is to show.
        model: to edit with.
        keep: share of the steps that are left out, in [0, 0.95]: more keeps more.

    Raises:
        SentinvError: If a value cannot be used.
    """

    picture: Picture
    source: str
    prompt: str
    model: str
    keep: float

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise EditError("Say first what the picture is to show.")
        for text in (self.source, self.prompt):
            Drawing(prompt=text or "a photo", model=self.model)
        if not (math.isfinite(self.keep) and 0 <= self.keep <= 0.95):
            raise SentinvError("How much to keep must be between 0 and 95 %.")


@dataclass(frozen=True, eq=False)
class Changed:
    """A changed picture.

    Attributes:
        before: as the model got it.
        after: as it is now.
        name: of its file among the folder's pictures.
        verdict: how well the model can draw the picture as it was, in words.
    """

    before: Image.Image
    after: Image.Image
    name: str
    verdict: str


class Editor:
    """Edits pictures; what an inversion found is kept in memory, and in the folder.

    Args:
        engine: the models.
        folder: where archives and results go.
    """

    def __init__(self, engine: Engine, folder: Folder) -> None:
        self.engine, self.folder = engine, folder
        self._archives: OrderedDict[str, tuple[Archive, str]] = OrderedDict()

    def known(self, wish: Editing) -> bool:
        """Whether the picture was inverted before, so that the answer is quick."""
        return self._key(wish, self._concepts(wish)) in self._archives

    def change(self, wish: Editing, on_step: Progress | None = None) -> Changed:
        """Edit a picture; whoever asks has the turn.

        Raises:
            SentinvError: If prompt, words, mask or model cannot be used.
        """
        concepts = self._concepts(wish)
        archive, verdict = self._inverted(wish, concepts, on_step)
        backbone = self.engine.backbone(wish.model)
        if wish.picture.mask is None:
            config = EditConfig(skip=wish.keep)
            after = edit(backbone, archive, wish.prompt, concepts, config, on_step).image
        else:
            masked = MaskConfig(skip=wish.keep)
            image, mask = wish.picture.image, wish.picture.mask
            after = edit_masked(backbone, image, mask, wish.prompt, concepts, masked, archive, on_step).image
        facts = {
            "prompt": wish.prompt,
            "source_prompt": archive.source_prompt,
            "skip": wish.keep,
            "model": backbone.name,
        }
        name = self.folder.new_picture(f"{slug(wish.prompt)}-edit", after, {"sentinv": json.dumps(facts)})
        return Changed(archive.image, after, name, verdict)

    def _concepts(self, wish: Editing) -> list[Concept]:
        return words_of(f"{wish.source} {wish.prompt}", self.folder)

    def _inverted(self, wish: Editing, concepts: list[Concept], on_step: Progress | None) -> tuple[Archive, str]:
        """What the inversion found: from memory, from the folder, or now; and what it is good for, in words."""
        key = self._key(wish, concepts)
        if key not in self._archives:
            backbone = self.engine.backbone(wish.model)
            path = make_folder(self.folder.inside(_ARCHIVES)) / f"{key}.safetensors"
            try:
                archive = Archive.load(path)
                archive.check(backbone, concepts)
            except EditError:
                config = InversionConfig(steps=_STEPS)
                archive = ddim_invert(backbone, wish.picture.image, wish.source, concepts, config, on_step)
                archive.save(path, overwrite=True)
                self._tidy()
            self._archives[key] = (archive, verdict(reconstruct(backbone, archive, concepts)))
        self._archives.move_to_end(key)
        while len(self._archives) > _KEPT:
            self._archives.popitem(last=False)
        return self._archives[key]

    def _key(self, wish: Editing, concepts: list[Concept]) -> str:
        used = [concept.digest for concept in concepts if concept.token in wish.source]
        told = json.dumps([wish.source, wish.model, wish.picture.image.size, used])
        return hashlib.sha256(told.encode() + wish.picture.image.tobytes()).hexdigest()[:24]

    def _tidy(self) -> None:
        """Keep the newest archives only."""
        folder = self.folder.inside(_ARCHIVES)
        found = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in found[_MOST_KEPT:]:
            path.unlink(missing_ok=True)


def verdict(budget: Budget) -> str:
    """Say what an error budget means."""
    if budget.fault == "none" and budget.vae_psnr < 20:
        return "The picture comes back as well as this model can draw it, which is only roughly."
    if budget.fault == "none":
        return "The picture comes back well: what changes is what the words change."
    if budget.guidance_psnr > budget.vae_psnr - 4:
        return "The picture comes back fairly well: small things may change that were not asked for."
    return (
        "The picture does not come back well: more will change than the words say. "
        "Say more exactly what it shows, or keep more of it."
    )
