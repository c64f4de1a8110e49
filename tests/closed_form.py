"""A denoiser in closed form: the posterior mean under a mixture of Gaussians, as a backbone of float64."""

import torch
from diffusers import DDIMScheduler

from sentinv.diffusion.schedule import NoiseSchedule
from sentinv.models.backbone import Condition
from sentinv.models.memory import Thrift

DIM = 64


class ClosedForm:
    """Exact epsilon or v of a mixture of `components` Gaussians in 64 dimensions; latents are `[B, 1, 8, 8]`.

    A "prompt" is a row of log weights of the components, `Condition.hidden` `[B, 1, components]`.
    """

    name = "closed form"
    device = torch.device("cpu")
    dtype = torch.float64
    fingerprint = "0" * 64

    def __init__(self, prediction_type="epsilon", components=8, spread=0.35, seed=0, **config):
        generator = torch.Generator().manual_seed(seed)
        self.means = torch.randn(components, DIM, generator=generator, dtype=torch.float64)
        self.spread = spread
        self.thrift = Thrift()
        options = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
        scheduler = DDIMScheduler(
            **{**options, "clip_sample": False, "set_alpha_to_one": False, "prediction_type": prediction_type, **config}
        )
        self.schedule = NoiseSchedule.of(scheduler, self.name)

    def samples(self, count, seed=1):
        """Clean latents from the mixture."""
        generator = torch.Generator().manual_seed(seed)
        which = torch.randint(len(self.means), (count,), generator=generator)
        noise = torch.randn(count, DIM, generator=generator, dtype=torch.float64)
        return (self.means[which] + self.spread * noise).reshape(count, 1, 8, 8)

    def prompt(self, *chosen):
        """A condition under which the named components are likely; none named: all alike."""
        weights = torch.full((1, 1, len(self.means)), 0.0 if not chosen else -4.0, dtype=torch.float64)
        weights[..., list(chosen)] = 0.0
        return Condition(weights)

    def prompts(self):
        """Two conditions, as guidance takes them: nothing named, and the first two components."""
        return Condition(torch.cat([self.prompt().hidden, self.prompt(0, 1).hidden]))

    def predict(self, latents, timesteps, condition):
        x = latents.flatten(1).double()
        alpha = self.schedule.alphas_cumprod[timesteps].double()[:, None]
        variance = alpha * self.spread**2 + 1 - alpha
        away = x[:, None] - alpha.sqrt()[..., None] * self.means
        logits = condition.hidden[:, 0].double() - away.square().sum(-1) / (2 * variance)
        score = -(logits.softmax(-1)[..., None] * away).sum(1) / variance
        eps = -(1 - alpha).sqrt() * score
        x0 = (x - (1 - alpha).sqrt() * eps) / alpha.sqrt()
        answer = eps if self.schedule.prediction_type == "epsilon" else alpha.sqrt() * eps - (1 - alpha).sqrt() * x0
        return answer.reshape(latents.shape)
