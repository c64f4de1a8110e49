"""Which of many things a picture shows: identification, where a likeness alone says only how near a picture comes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import normalize

from sentinv.errors import SentinvError
from sentinv.files.atomic import atomic_write, shown

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.evaluation.judges import ClipJudge


def prototype(judge: ClipJudge, images: Sequence[Image.Image]) -> Tensor:
    """Mean embedding `[D]` of pictures of one thing, as a unit vector (Snell et al. 2017, arXiv:1703.05175, equation 1)."""
    return normalize(judge.images(images).mean(0), dim=0)


@dataclass(frozen=True, eq=False)
class Gallery:
    """Things for which a picture could be taken, each by its prototype.

    Attributes:
        names: of the things.
        prototypes: `[things, D]`, float32, unit vectors, rounded to half precision in one that was read.
        judge: digest of the `ClipJudge` whose embeddings they are.
    """

    names: tuple[str, ...]
    prototypes: Tensor
    judge: str

    def save(self, path: Path) -> None:
        """Write it, over what is there.

        Raises:
            SentinvError: If it cannot be written.
        """
        metadata = {"names": json.dumps(self.names), "judge": self.judge}
        atomic_write(path, save({"prototypes": self.prototypes.half().contiguous()}, metadata), overwrite=True)

    @classmethod
    def read(cls, path: Path) -> Gallery:
        """Read it back.

        Raises:
            SentinvError: If it can't be read.
        """
        try:
            with safe_open(path, "pt") as file:
                said, prototypes = file.metadata() or {}, file.get_tensor("prototypes").float()
            return cls(tuple(json.loads(said["names"])), prototypes, said["judge"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise SentinvError(f"{shown(path)} is no gallery of things: {error}; remove it or make it anew") from error


class Recogniser:
    """Reads pictures as the concept, or other thing, whose prototype is nearest.

    Args:
        concepts: name of each concept that could be meant → its prototype `[D]`.
        gallery: what else a picture could show.
        pictures: digest of what the concepts' prototypes are of.
    """

    def __init__(self, concepts: Mapping[str, Tensor], gallery: Gallery, pictures: str) -> None:
        self.concepts, self.gallery, self.pictures = dict(concepts), gallery, pictures
        self._all = torch.stack([*self.concepts.values(), *normalize(gallery.prototypes, dim=1)])

    @classmethod
    def of(cls, judge: ClipJudge, pictures: Mapping[str, Sequence[Image.Image]], gallery: Gallery) -> Recogniser:
        """From pictures of each concept that could be meant, as the gallery's judge sees them."""
        pixels = hashlib.sha256()
        for name, images in pictures.items():
            pixels.update(json.dumps([name, len(images)]).encode())
            for image in images:
                pixels.update(f"{image.mode}{image.size}".encode() + image.tobytes())
        concepts = {name: prototype(judge, images) for name, images in pictures.items()}
        return cls(concepts, gallery, pixels.hexdigest())

    @cached_property
    def digest(self) -> str:
        """What it can tell apart, in 16 hex digits: of what it was made from, as embeddings differ by the machine."""
        gallery = self.gallery
        digest = hashlib.sha256(json.dumps([*self.concepts, *gallery.names, gallery.judge, self.pictures]).encode())
        digest.update(gallery.prototypes.half().numpy().tobytes())
        return digest.hexdigest()[:16]

    def reads_as(self, embeddings: Tensor, name: str, same_as: Sequence[str] = ()) -> Tensor:
        """Whether each picture is nearer to a concept than to every other concept and thing.

        Args:
            embeddings: `[N, D]`, unit vectors, of the gallery's judge.
            name: of the concept.
            same_as: things of the gallery that are no mistake, as a fox is none for one's own fox.

        Returns:
            `[N]` bool.
        """
        likeness = embeddings @ self._all.T
        others = [concept != name for concept in self.concepts] + [thing not in same_as for thing in self.gallery.names]
        return embeddings @ self.concepts[name] > likeness[:, others].amax(dim=1)
