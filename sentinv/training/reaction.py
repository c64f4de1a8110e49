"""Where the thing in a picture is, found from the model itself: what a scene's words change is not the thing.

The model is asked what it sees in the noisy picture, told what the thing is, and asked again with a scene named. Where its
answer hardly changes, the thing is. A mask that is smaller than the thing does no harm; one that is larger brings the old scene
into all others. So it takes less of the picture than things usually do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d, pad

from sentinv.concepts.tokens import tokenize
from sentinv.diffusion.conversions import add_noise

if TYPE_CHECKING:
    from sentinv.concepts.placeholder import PlaceholderRows
    from sentinv.models.backbone import Backbone, Condition

AREA = 0.3
"""Share of the picture that is taken for the thing."""

_TIMES = (0.7, 0.85)  # of the schedule: where it is decided what is where
_SCENES = 10
_TOGETHER = 4


@torch.no_grad()
def thing_mask(
    backbone: Backbone,
    latents: Tensor,
    words: str,
    scenes: Sequence[str],
    rows: PlaceholderRows | None = None,
    *,
    together: int | None = None,
) -> Tensor:
    """Find the thing: `[1, 1, h, w]` float32 on the CPU, 1 where it is and 0 elsewhere; NaN where the model's answers are.

    Args:
        backbone: the model as it is, without adapters.
        latents: of the picture, clean and scaled, `[1, C, h, w]`.
        words: what the thing is, without where it is; a placeholder if its rows are installed.
        scenes: such as "on the moon", ≥ 1.
        rows: of placeholders.
        together: questions at a time; if None one on a CPU, and four elsewhere, where single ones wait for the host.
    """
    prompts = [f"a photo of {words}", *(f"a photo of {words} {scene}" for scene in scenes[:_SCENES])]
    condition = backbone.encode_ids(tokenize(backbone, prompts, rows))
    noise = torch.randn(latents.shape, generator=Generator().manual_seed(0)).to(latents.device)
    change = torch.zeros(latents.shape[-2:])
    together = together or (1 if latents.device.type == "cpu" else _TOGETHER)
    parts = torch.arange(len(prompts), device=latents.device).split(together)
    for share in _TIMES:
        timestep = torch.full((1,), int(share * backbone.schedule.train_timesteps), device=latents.device)
        noisy = add_noise(latents, noise, backbone.schedule.alphas_cumprod.to(latents.device)[timestep])
        answers = [_answers(backbone, noisy, timestep, condition, part) for part in parts]
        plain, *others = torch.cat(answers).cpu()
        for answer in others:
            change += (answer - plain).abs().mean(dim=0)
    smooth = _smooth(change[None, None])
    count = max(1, round(AREA * smooth.numel()))
    mask = torch.zeros(smooth.numel())
    mask[smooth.flatten().argsort(stable=True)[:count]] = 1
    return mask.reshape(smooth.shape) + 0 * smooth  # of no numbers there is no mask, but NaN


def _answers(backbone: Backbone, noisy: Tensor, timestep: Tensor, condition: Condition, which: Tensor) -> Tensor:
    """What the model answers to one picture under some conditions, `[B, C, h, w]`; fewer at a time where memory ends."""

    def some(rows: slice) -> Tensor:
        count = len(which[rows])
        return backbone.predict(noisy.expand(count, -1, -1, -1), timestep.expand(count), condition[which[rows]])

    return backbone.thrift.in_parts(len(which), some)


def _smooth(image: Tensor) -> Tensor:
    """Mean over a square of about a fifth of the side, twice; beyond the edges the picture goes on as it ends."""
    reach = max(1, round(min(image.shape[-2:]) / 12))
    for _ in range(2):
        image = avg_pool2d(pad(image, (reach, reach, reach, reach), mode="replicate"), 2 * reach + 1, stride=1)
    return image
