"""Does an image come back? Every inversion method on 16 held-out pictures: error, order, cost, and the identities.

python benchmarks/round_trips.py outputs/round-trips.md

The error is the relative root mean square of the clean latents, inverted and sampled again with the same prompt; the median
and 95th percentile are over pictures. The order is the slope of the median's logarithm over 50, 100 and 200 steps; what it
tends to is the slope from 250 to 500 steps, on four of the pictures.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import sentinv
from sentinv.bench.concepts import read_concepts
from sentinv.diffusion.ddim import ddim_steps
from sentinv.editing.edit import EditConfig, ddim_invert, edit, encode_image, prepared, walk
from sentinv.editing.inversion import InversionConfig, find_trajectory, relative_rms
from sentinv.evaluation.metrics import pixel_psnr
from sentinv.generation.denoiser import Denoiser, encode_prompts
from sentinv.models.backbone import Backbone
from sentinv.report.tables import Table

CONCEPTS = Path(__file__).resolve().parent / "concepts" / "concepts.json"
GRIDS = (50, 100, 200)
FINE = (250, 500)
PROMPT = "a photo of a thing"


@dataclass(frozen=True)
class Trip:
    """One method on one grid: errors of the pictures `[B]`, and UNet evaluations a picture."""

    name: str
    steps: int
    errors: Tensor
    evaluations: float

    @property
    def median(self) -> float:
        return self.errors.median().item()


def trip(backbone: Backbone, clean: Tensor, name: str, config: InversionConfig) -> Trip:
    """Invert and sample again, at guidance 1."""
    denoise = Denoiser(backbone, encode_prompts(backbone, [PROMPT]))
    grid = ddim_steps(backbone.schedule, config.steps)
    path = find_trajectory(denoise, clean, grid, config)
    cost = denoise.evaluations / len(clean)
    return Trip(name, config.steps, relative_rms(walk(denoise, path.states[0], grid), clean), cost)


def methods() -> Iterator[tuple[str, dict[str, object]]]:
    """Name → what `InversionConfig` is told."""
    yield "ddim", {"method": "ddim"}
    for count in (1, 2, 3):
        yield f"fixed-point, {count} more", {"method": "fixed-point", "max_iterations": count, "tolerance": 0.0}
    yield "fixed-point, to 1e-5", {"method": "fixed-point"}
    yield "pec", {"method": "pec"}


def order(trips: Sequence[Trip]) -> float:
    """Slope of the error over the number of steps, in logarithms, with its sign turned."""
    first, last = trips[0], trips[-1]
    return -math.log(last.median / first.median) / math.log(last.steps / first.steps)


def orders(backbone: Backbone, clean: Tensor) -> Table:
    """Error and order of every method."""
    rows = []
    for name, options in methods():
        own = [trip(backbone, clean, name, InversionConfig(steps=steps, **options)) for steps in GRIDS]  # type: ignore[arg-type]
        errors = [f"{one.median:.1e} ({one.errors.quantile(0.95).item():.0e})" for one in own]
        rows.append([name, *errors, f"{order(own):.2f}", f"{own[0].evaluations:.0f}"])
        print(" | ".join(rows[-1]), flush=True)
    return Table(
        "Round trips", ["method", *(f"N = {steps}" for steps in GRIDS), "order", "evaluations at N = 50"], rows
    )


def limits(backbone: Backbone, clean: Tensor) -> Table:
    """Order on fine grids, where it should have reached its limit: 1 for "ddim", K + 1 for K more passes."""
    rows = []
    for name, options in list(methods())[:4]:
        own = [trip(backbone, clean, name, InversionConfig(steps=steps, **options)) for steps in FINE]  # type: ignore[arg-type]
        rows.append([name, *(f"{one.median:.1e}" for one in own), f"{order(own):.2f}"])
        print(" | ".join(rows[-1]), flush=True)
    return Table("Order on fine grids", ["method", *(f"N = {steps}" for steps in FINE), "order"], rows)


def identities(backbone: Backbone, pictures: Sequence[object]) -> Table:
    """What must hold exactly, picture by picture, at 50 steps: the largest error of all, and pixels below the ceiling."""
    worst: dict[str, tuple[float, float]] = {}
    for picture in pictures:
        for method, source in (("pec", "delta"), ("ddpm", "none")):
            archive = ddim_invert(backbone, picture, PROMPT, config=InversionConfig(method=method))  # type: ignore[arg-type]
            ceiling = pixel_psnr(archive.reconstruction, archive.image)
            for scale in (1.0, 7.5):
                config = EditConfig(guidance_scale=scale, source=source)  # type: ignore[arg-type]
                back = edit(backbone, archive, PROMPT, config=config)
                note(
                    worst,
                    f"{method}, {'stored offsets' if source == 'delta' else 'noise maps'}, guidance {scale:g}",
                    relative_rms(back.latents.cpu(), archive.trajectory.states[-1]),
                    ceiling - pixel_psnr(back.image, archive.image),
                )
            if method == "pec":
                plain = edit(backbone, archive, PROMPT, config=EditConfig(guidance_scale=1, source="none"))
                guided = edit(backbone, archive, PROMPT, config=EditConfig(guidance_scale=7.5, source="npi"))
                note(
                    worst,
                    "npi at guidance 7.5 against plain reconstruction",
                    relative_rms(guided.latents, plain.latents),
                    0.0,
                )
    rows = [[name, f"{error:.1e}", f"{gap:.3f}"] for name, (error, gap) in worst.items()]
    return Table("Identities", ["what", "largest error", "dB below the autoencoder's ceiling, largest"], rows)


def note(worst: dict[str, tuple[float, float]], name: str, error: Tensor, gap: float) -> None:
    """Keep the larger of what is known and what is new."""
    before = worst.get(name, (0.0, 0.0))
    worst[name] = max(before[0], error.max().item()), max(before[1], gap)


def alone_and_together(backbone: Backbone, clean: Tensor) -> float:
    """The largest difference of a picture inverted alone and in a batch of four."""
    denoise = Denoiser(backbone, encode_prompts(backbone, [PROMPT]))
    grid = ddim_steps(backbone.schedule, 50)
    four = find_trajectory(denoise, clean[:4], grid, InversionConfig()).states[0]
    each = [find_trajectory(denoise, one[None], grid, InversionConfig()).states[0] for one in clean[:4]]
    return relative_rms(four, torch.cat(each)).max().item()


def main(target: Path) -> None:
    backbone = sentinv.load("toybox")
    concepts = read_concepts(CONCEPTS)
    paths = [*(one.image for one in concepts), *(one.views[0] for one in concepts[::3])]
    pictures = [sentinv.read_image(path).image for path in paths]
    clean = torch.cat([encode_image(backbone, prepared(backbone, picture)) for picture in pictures])
    tables = [orders(backbone, clean), limits(backbone, clean[::4]), identities(backbone, pictures)]
    together = alone_and_together(backbone, clean)
    text = "\n".join(table.markdown() for table in tables)
    notes = f'\n{len(clean)} pictures, prompt "{PROMPT}", float32; batch 1 against 4: {together:.1e}.'
    target.write_text(f"{text}{notes}\n`python benchmarks/round_trips.py {target}`\n", encoding="utf-8")
    print(text, notes)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
