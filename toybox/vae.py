"""Train the autoencoder: pictures of 128 × 128 pixels to latents of 16 × 16 and back.

Squared distance, L1 of pixels and of their differences for crisp edges, and a small KL term that keeps the latents
smooth. Latents of half the size must decode to the picture at half the size (Skorokhodov et al. 2025, "Improving the
Diffusability of Autoencoders"): their coarse part then holds the coarse part of the picture, which diffuses better.
Afterwards the latents' scale is measured and put into the config, as the noise schedule supposes.
"""

from __future__ import annotations

from dataclasses import replace

import click
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from . import world
from .fit import RUNS, Plan, fit, psnr, workers

FOLDER = RUNS / "vae" / "model"
PLAN = Plan(
    steps=1800,
    batch=16,
    lr=3e-3,
    matrix_lr=5e-3,
    warmup=50,
    decay_from=0.4,
    ema=0.99,
    seed=11,
    gpu_batch=128,
    save_every=100,
)
KL_WEIGHT = 1e-4
CROP = 64
"""Side of the squares of the pictures with which the training begins: it is convolutions, and they cost a quarter."""
WHOLE_FROM = 0.75
"""Share of the steps after which pictures are whole."""
CHANNELS = 12


def new_vae(channels: int = CHANNELS) -> AutoencoderKL:
    """An untrained autoencoder that reduces each side by 8.

    Residual branches start at zero and the kernels between them orthogonal: it learns several times faster so.
    """
    torch.manual_seed(0)
    vae = AutoencoderKL(
        sample_size=world.RESOLUTION,
        latent_channels=channels,
        block_out_channels=(16, 32, 64, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
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


def distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """What a reconstruction `y` of pictures `x` in [-1, 1] costs."""
    difference = y - x
    edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return 4 * difference.pow(2).mean() + 0.2 * difference.abs().mean() + 0.2 * edges


def crop(x: torch.Tensor, side: int, generator: torch.Generator) -> torch.Tensor:
    """A square at a random place of each picture `[N, C, H, W]`."""
    room = torch.tensor(x.shape[-2:]) - side + 1
    corners = (torch.rand(len(x), 2, generator=generator) * room).long().tolist()
    return torch.stack([picture[:, i : i + side, j : j + side] for picture, (i, j) in zip(x, corners, strict=True)])


@click.command()
@click.option("--channels", default=CHANNELS, show_default=True, help="Channels of the latents.")
@click.option("--steps", default=PLAN.steps, show_default=True, help="Steps in all.")
@click.option("--run", default="vae", show_default=True, help="Folder of the run, to try things beside it.")
def main(channels: int, steps: int, run: str) -> None:
    """Train the VAE."""
    me = workers()
    plan = replace(PLAN, steps=steps).on(me.device)
    vae = new_vae(channels).to(me.device)

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        seed = int(torch.randint(2**29, (), generator=generator))
        x = world.render(world.sample_specs(plan.batch // me.count, seed), device=me.device) * 2 - 1
        if step < WHOLE_FROM * plan.steps:
            x = crop(x, CROP, generator)
        moments = vae.encode(x).latent_dist
        noise = torch.randn(moments.mean.shape, generator=generator).to(x)
        z = moments.mean + moments.std * noise
        y = vae.decode(z).sample.float()
        half = vae.decode(F.avg_pool2d(z, 2)).sample.float()
        mean, logvar = moments.mean.float(), moments.logvar.float()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        value = distance(x, y) + 0.25 * distance(F.avg_pool2d(x, 2), half) + KL_WEIGHT * kl
        return value, {"mse": F.mse_loss(y.detach(), x) / 4, "kl": kl.detach()}

    fit(run, {"vae": vae}, loss, plan)
    if me.first:
        finish(vae, me.device, run)


@torch.no_grad()
def finish(vae: AutoencoderKL, device: str, run: str) -> None:
    """Measure the latents' scale and the reconstruction on held-out pictures, and save, in half precision as it is shipped."""
    x = world.render(world.sample_specs(512, world.HELD_OUT_SEEDS[1]), device=device) * 2 - 1
    chunks = [vae.encode(part).latent_dist.mean for part in x.split(64)]
    latents = torch.cat(chunks)
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    y = torch.cat([vae.decode(part).sample for part in latents.split(64)]).clamp(-1, 1)
    errors = ((x - y) / 2).pow(2).mean((1, 2, 3))
    mean = sum(psnr(e) for e in errors.tolist()) / len(errors)
    print(f"scaling factor {vae.config.scaling_factor}, mean per channel {latents.mean((0, 2, 3)).tolist()}")
    print(f"held-out reconstruction: {mean:.2f} dB mean PSNR over {len(errors)} pictures")
    vae.half().save_pretrained(RUNS / run / "model")


if __name__ == "__main__":
    main()
