"""Train the autoencoder: pictures of 64 × 64 pixels to latents of 8 × 16 × 16 and back.

Squared distance, a little L1 for crisp edges, and a small KL term that keeps the latents smooth. Afterwards the
latents' scale is measured and put into the config, as the noise schedule supposes.
"""

from __future__ import annotations

import click
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from . import world
from .fit import RUNS, Plan, fit, psnr, workers

FOLDER = RUNS / "vae" / "model"
PLAN = Plan(steps=1000, batch=32, lr=3e-3, matrix_lr=6e-3, warmup=50, decay_from=0.3, ema=0.99, seed=11)
KL_WEIGHT = 1e-4


def new_vae() -> AutoencoderKL:
    """An untrained autoencoder that reduces each side by 4.

    Residual branches start at zero and the kernels between them orthogonal: it learns several times faster so.
    """
    torch.manual_seed(0)
    vae = AutoencoderKL(
        sample_size=world.RESOLUTION,
        latent_channels=8,
        block_out_channels=(16, 48, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )
    for name, module in vae.named_modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
        elif isinstance(module, nn.Conv2d) and not name.endswith(("conv1", "conv2")):
            nn.init.orthogonal_(module.weight.flatten(1))
    return vae


@click.command()
def main() -> None:
    """Train the VAE."""
    me = workers()
    vae = new_vae().to(me.device)

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        seed = int(torch.randint(2**29, (), generator=generator))
        x = world.render(world.sample_specs(PLAN.batch // me.count, seed), device=me.device) * 2 - 1
        moments = vae.encode(x).latent_dist
        noise = torch.randn(moments.mean.shape, generator=generator).to(x)
        y = vae.decode(moments.mean + moments.std * noise).sample.float()
        mean, logvar = moments.mean.float(), moments.logvar.float()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        value = 4 * F.mse_loss(y, x) + 0.2 * F.l1_loss(y, x) + KL_WEIGHT * kl
        return value, {"mse": F.mse_loss(y.detach(), x) / 4, "kl": kl.detach()}

    fit("vae", {"vae": vae}, loss, PLAN)
    if me.first:
        finish(vae, me.device)


@torch.no_grad()
def finish(vae: AutoencoderKL, device: str) -> None:
    """Measure the latents' scale and the reconstruction on held-out pictures, and save."""
    x = world.render(world.sample_specs(1024, world.HELD_OUT_SEEDS[1]), device=device) * 2 - 1
    chunks = [vae.encode(part).latent_dist.mean for part in x.split(128)]
    latents = torch.cat(chunks)
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    y = torch.cat([vae.decode(part).sample for part in latents.split(128)]).clamp(-1, 1)
    errors = ((x - y) / 2).pow(2).mean((1, 2, 3))
    mean = sum(psnr(e) for e in errors.tolist()) / len(errors)
    print(f"scaling factor {vae.config.scaling_factor}, mean per channel {latents.mean((0, 2, 3)).tolist()}")
    print(f"held-out reconstruction: {mean:.2f} dB mean PSNR over {len(errors)} pictures")
    vae.save_pretrained(FOLDER)


if __name__ == "__main__":
    main()
