"""How well edits of real images work: every method and four controls, on concepts whose edits have true targets.

A record is one edited image with its measures. Each concept is learned once; each image is inverted once per method.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from sentinv.bench.editing_arms import ARMS, ROUND_TRIPS, THRESHOLDS, EditingArm, EditingStudy
from sentinv.bench.leditspp import LeditsConfig, leditspp
from sentinv.bench.records import Record
from sentinv.diffusion.ddim import ddim_steps
from sentinv.editing.archive import Archive
from sentinv.editing.edit import (
    EditConfig,
    Held,
    ddim_invert,
    edit,
    first_step,
    needs_offsets,
    sweep,
    take_offsets,
    walk,
)
from sentinv.editing.flow_edit import FlowEditConfig, flow_edit
from sentinv.editing.inversion import InversionConfig, noised_trajectory, relative_rms
from sentinv.evaluation.metrics import pixel_psnr
from sentinv.files.images import crop_resize, read_image, read_mask, to_pil
from sentinv.generation.denoiser import Denoiser

if TYPE_CHECKING:
    from sentinv.bench.concepts import StudyConcept
    from sentinv.concepts.concept import Concept
    from sentinv.evaluation.judges import AttributeJudge
    from sentinv.models.backbone import Backbone


@dataclass
class Case:
    """One concept: its image, its word, and what its edits should give.

    Attributes:
        source: what was declared.
        concept: the learned word.
        image: at the model's resolution.
        mask: `[H, W]` bool, where the thing is; None if unknown.
        targets: at the model's resolution, one for each edit.
    """

    source: StudyConcept
    concept: Concept
    image: Image.Image
    mask: np.ndarray | None
    targets: list[Image.Image] = field(default_factory=list)

    @classmethod
    def read(cls, backbone: Backbone, source: StudyConcept, concept: Concept) -> Case:
        """Read the pictures of a concept.

        Raises:
            SentinvError: If one cannot be read.
        """
        side = (backbone.resolution, backbone.resolution)

        def at_size(image: Image.Image) -> Image.Image:
            return crop_resize(image, side, Image.Resampling.LANCZOS)

        mask = np.asarray(at_size(read_mask(source.mask))) > 127 if source.mask else None
        targets = [at_size(read_image(path).image) for path in source.targets]
        return cls(source, concept, at_size(read_image(source.image).image), mask, targets)


def run_case(
    backbone: Backbone, case: Case, study: EditingStudy, judge: AttributeJudge | None = None
) -> Iterator[tuple[Record, Image.Image | None]]:
    """Run everything for one concept.

    Yields:
        Records, with the image that each is about: first the round trips, which have none, then the edits.
    """
    archives: dict[str, Archive] = {}
    for method in ROUND_TRIPS:
        begun = time.perf_counter()
        config = InversionConfig(method=method, steps=study.steps, seed=study.seed)
        archives[method] = ddim_invert(backbone, case.image, _source(case), [case.concept], config)
        seconds = time.perf_counter() - begun
        for scale in (1.0, 7.5):
            yield _round_trip(backbone, case, archives[method], scale, seconds), None
    for index, template in enumerate(case.source.edits):
        prompt = template.replace("{}", case.concept.token)
        for arm, make in _makers(backbone, case, study, archives, prompt).items():
            for image, skip, evaluations, seconds in make():
                measures = measure_edit(case, index, image, judge)
                record = {"kind": "edit", "concept": case.source.name, "prompt": template, "arm": arm, "skip": skip}
                timing = {"seconds": round(seconds, 4)}
                yield record | measures | {"evaluations": evaluations, "timing": timing}, image


def measure_edit(case: Case, index: int, image: Image.Image, judge: AttributeJudge | None) -> Record:
    """Measure one edited image against its source and its true target. PSNR in dB, over the named pixels only.

    `target_ratio` is the root mean square distance to the true target over that of the unedited image: 1 is no better
    than doing nothing, 0 is perfect.
    """
    result: Record = {"source_psnr": pixel_psnr(image, case.image)}
    parts = {"inside": case.mask, "outside": ~case.mask} if case.mask is not None else {}
    regions = {name: region for name, region in parts.items() if region.any()}
    for name, region in regions.items():
        result[f"source_psnr_{name}"] = pixel_psnr(image, case.image, region)
    if case.targets:
        target = case.targets[index]
        result["target_psnr"] = pixel_psnr(image, target)
        result["target_ratio"] = 10 ** ((pixel_psnr(case.image, target) - result["target_psnr"]) / 20)
        for name, region in regions.items():
            result[f"target_psnr_{name}"] = pixel_psnr(image, target, region)
    if judge is not None:
        shares = judge.probabilities(image, judge.wanted(case.source.edits[index], case.source.word))
        result |= {f"judge_{attribute}": share for attribute, share in shares.items()}
        asked = [share for attribute, share in shares.items() if attribute != "object"]
        if asked:
            result["success"] = sum(asked) / len(asked)
    return result


Made = tuple[Image.Image, float, int, float]
"""Image, skip, UNet evaluations, seconds."""


def _makers(
    backbone: Backbone, case: Case, study: EditingStudy, archives: dict[str, Archive], prompt: str
) -> dict[str, Callable[[], Iterator[Made]]]:
    """EditingArm → what makes its images."""
    any_archive = archives["pec"]
    makers: dict[str, Callable[[], Iterator[Made]]] = {
        "copy": lambda: iter([(case.image, 1.0, 0, 0.0)]),
        "autoencoder": lambda: iter([(any_archive.reconstruction, 1.0, 0, 0.0)]),
        "regenerate": lambda: _sdedit(backbone, case, study, prompt, None),
        "sdedit": lambda: _sdedit(backbone, case, study, prompt, any_archive),
    }
    for arm in study.arms:
        makers[arm] = lambda own=ARMS[arm]: _edits(backbone, case, study, archives, prompt, own)  # type: ignore[misc]
    return makers


def _edits(
    backbone: Backbone,
    case: Case,
    study: EditingStudy,
    archives: dict[str, Archive],
    prompt: str,
    arm: EditingArm,
) -> Iterator[Made]:
    """Edit at every skip. Offsets, which do not depend on the prompt, are taken once and counted with every edit."""
    method = arm.method
    if method not in archives:
        yield from _edits_alone(backbone, case, study, prompt, arm)
        return
    config = EditConfig(guidance_scale=arm.guidance(study, backbone), source=arm.source)
    cost = archives[method].evaluations
    if needs_offsets(archives[method], config):
        archives[method], _ = take_offsets(backbone, archives[method], [case.concept], config)
        cost += study.steps * (1 if config.offset_guidance(backbone) == 1 else 2)
    for skip in study.skips:
        begun = time.perf_counter()
        (one,) = sweep(backbone, archives[method], prompt, [case.concept], config, [skip])
        yield one.image, skip, one.evaluations + cost, time.perf_counter() - begun


def _edits_alone(backbone: Backbone, case: Case, study: EditingStudy, prompt: str, arm: EditingArm) -> Iterator[Made]:
    """Edit at every skip, each time from the picture itself."""
    scale = arm.guidance(study, backbone)
    for skip in study.skips:
        begun = time.perf_counter()
        shared: dict[str, Any] = {"steps": study.steps, "guidance_scale": scale, "skip": skip, "seed": study.seed}
        if arm.method in THRESHOLDS:
            ledits = LeditsConfig(**shared, threshold=THRESHOLDS[arm.method])
            one = leditspp(backbone, case.image, prompt, [case.concept], ledits)
        else:
            one = flow_edit(backbone, case.image, _source(case), prompt, [case.concept], FlowEditConfig(**shared))
        yield one.image, skip, one.evaluations, time.perf_counter() - begun


def _sdedit(
    backbone: Backbone, case: Case, study: EditingStudy, prompt: str, archive: Archive | None
) -> Iterator[Made]:
    """Noise the image to a level and sample from there (Meng et al. 2022, arXiv:2108.01073); without one, from noise."""
    steps = ddim_steps(backbone.schedule, study.steps)
    denoise = Denoiser.of(backbone, prompt, [case.concept], study.guidance_scale)
    side = backbone.latent_side
    shape = (1, backbone.unet.config.in_channels, side, side)
    clean = archive.trajectory.states[-1] if archive is not None else torch.zeros(shape)
    states = noised_trajectory(clean, steps, study.seed, independent=False).states
    if archive is None:
        states = torch.randn(shape, generator=torch.Generator().manual_seed(study.seed))[None]
    for skip in study.skips if archive is not None else (0.0,):
        begun, denoise.evaluations = time.perf_counter(), 0
        first = first_step(skip, study.steps)
        latents = walk(denoise, states[first].to(backbone.device), steps, first)
        yield to_pil(backbone.decode(latents))[0], skip, denoise.evaluations, time.perf_counter() - begun


def _round_trip(backbone: Backbone, case: Case, archive: Archive, scale: float, seconds: float) -> Record:
    """The way back with the source prompt: as inverted at guidance 1, with offsets at any other."""
    held: Held = "none" if scale == 1 and archive.config.eta == 0 else "delta"
    config = EditConfig(guidance_scale=scale, source=held)
    back = edit(backbone, archive, _source(case), [case.concept], config)
    ceiling = pixel_psnr(archive.reconstruction, archive.image)
    return {
        "kind": "round trip",
        "concept": case.source.name,
        "method": archive.config.method
        if held == "none" or archive.config.eta
        else f"{archive.config.method} + offsets",
        "guidance": scale,
        "latent_error": relative_rms(back.latents.cpu(), archive.trajectory.states[-1]).item(),
        "vae_psnr": ceiling,
        "gap_to_ceiling": ceiling - pixel_psnr(back.image, archive.image),
        "evaluations": archive.evaluations,
        "timing": {"seconds": round(seconds, 4)},
    }


def _source(case: Case) -> str:
    return f"a photo of {case.concept.token}"


def spread(records: Sequence[Record], key: str) -> tuple[float, float]:
    """Median and 95th percentile of a measure."""
    values = [record[key] for record in records]
    return float(np.median(values)), float(np.quantile(values, 0.95, method="inverted_cdf"))
