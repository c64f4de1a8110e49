"""Where memory ends: what is free, how its end is told, and what a model then computes in smaller pieces.

Sampling, editing, measuring and encoding all ask a backbone's `Thrift`, so that the same measures are taken everywhere and
are kept for as long as the model is. Training has measures of its own (`sentinv.training.rescue`), for the same result.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from torch import Tensor

_SAID = (
    *("outofmemory", "outofdevicememory", "outofhostmemory", "notenoughmemory", "notenoughgpu", "insufficientmemory"),
    *("allocatememory", "allocatetensor", "memoryallocation", "allocfailed", "badalloc", "failedtoallocate"),
    *("invalidbuffersize", "exceedallowedmemory", "resourceexhausted", "pagingfileistoosmall", "oserror1455"),
    # what the libraries of a GPU say where they find no room for their own workspace, and no better word for it
    *("cublasstatusnotinitialized", "unabletofindavalidcudnnalgorithm", "unabletofindanengine", "nvmlsuccessr"),
)
"""In lower case, letters and digits alone."""
_SMALLEST_TILE = 16
"""Latents along a side of a tile: in smaller ones the autoencoder no longer sees what it draws."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error is one of the many ways in which torch, drivers and systems say that memory has ended.

    Libraries say "unable to load" of it, and it is the cause of that: so causes are looked at too.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        text = re.sub(r"[^a-z0-9]", "", str(error).lower())
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in text for words in _SAID):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def in_bytes(count: int | None) -> str:
    """A number of bytes, as people say it."""
    if count is None:
        return "an unknown amount"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"


def release() -> None:
    """Give back what failed work has left. Call it behind the except block, whose traceback keeps tensors alive."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache()


class Thrift:
    """What a model has to do without since memory ended.

    Args:
        rows: where it begins.

    Attributes:
        rows: the most rows of a batch that are computed at once; None for all.
        slices: whether the autoencoder works on one image at a time.
        tile: side in latents of the tiles that the autoencoder works in; None for the whole image. Tiles see no more than
            themselves: pixels differ a little.
    """

    def __init__(self, rows: int | None = None) -> None:
        self.rows = rows
        self.slices = False
        self.tile: int | None = None
        self._lock = RLock()

    def in_parts(self, count: int, work: Callable[[slice], Tensor]) -> Tensor:
        """Compute `count` rows, fewer at a time where memory ends, and put them together.

        Args:
            count: rows in all, ≥ 1.
            work: computes some of them.

        Raises:
            RuntimeError: What torch says, if there is no memory for a single row.
        """
        done: list[Tensor] = []
        first = 0
        while first < count:
            size = min(self.rows or count, count - first)
            try:
                done.append(work(slice(first, first + size)))
                first += size
                continue
            except (RuntimeError, MemoryError) as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
            release()
            self.rows = size // 2
            self._tell(f"{self.rows} of {count} at a time, slower and to the same result")
        return done[0] if len(done) == 1 else torch.cat(done)

    def frugally(self, vae: Any, images: Tensor, scale: int, work: Callable[[Tensor], Any]) -> Any:
        """Let an autoencoder work: on one image after another where memory ends, and in tiles where it ends again.

        Args:
            vae: the autoencoder; as it was afterwards.
            images: images or latents `[B, C, H, W]`.
            scale: of their sides, per latent.
            work: takes them.

        Raises:
            RuntimeError: What torch says, if there is no memory for small tiles, or the autoencoder knows none.
        """
        while True:
            try:
                with self._applied(vae):
                    return work(images)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not self._less(vae, len(images), max(images.shape[-2:]) // scale):
                    raise
            release()

    def _less(self, vae: Any, images: int, side: int) -> bool:
        """Ask the autoencoder for less memory. Returns whether that can be."""
        if images > 1 and not self.slices and hasattr(vae, "use_slicing"):
            self.slices = True
            self._tell("one image at a time in the autoencoder, to the same result")
            return True
        tile = min(self.tile or side, side) // 2
        if tile < _SMALLEST_TILE or not hasattr(vae, "tile_latent_min_size"):
            return False
        self.tile = tile
        self._tell("the autoencoder in tiles: pixels differ a little")
        return True

    @contextmanager
    def _applied(self, vae: Any) -> Iterator[None]:
        if not self.slices and self.tile is None:
            yield
            return
        wanted: dict[str, Any] = {"use_slicing": True} if self.slices else {}
        if self.tile is not None:
            scale = 2 ** (len(vae.config.block_out_channels) - 1)
            wanted |= {
                "use_tiling": True,
                "tile_latent_min_size": self.tile,
                "tile_sample_min_size": self.tile * scale,
            }
        with self._lock:
            before = {name: getattr(vae, name) for name in wanted}
            vars(vae).update(wanted)
            try:
                yield
            finally:
                vars(vae).update(before)

    @staticmethod
    def _tell(what: str) -> None:
        warnings.warn(f"out of memory: going on with {what}", stacklevel=2)
