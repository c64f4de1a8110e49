"""Train the text encoder and the UNet together: predict the noise in latents from a caption.

Stable Diffusion 1.x in small: epsilon prediction, scaled-linear betas, classifier-free guidance by dropping a tenth
of the captions (Ho & Salimans 2022); the loss is weighted by min-SNR with gamma 5 (Hang et al. 2023) and timesteps
are stratified over the batch. The first pictures are easy ones, and a few of them stay in to the end.
"""

from __future__ import annotations

from dataclasses import replace

import click
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import vae, vocabulary
from .fit import RUNS, Plan, Weights, fit, load_checkpoint, use_fast_attention, workers
from .latents import load_pool, tokenise

FOLDER = RUNS / "diffusion" / "pipeline"
PLAN = Plan(
    steps=11300,
    batch=64,
    lr=1e-3,
    matrix_lr=2e-3,
    warmup=200,
    decay_from=0.55,
    betas=(0.9, 0.99),
    seed=31,
    gpu_batch=512,
)
DROP_CAPTION = 0.1
MIN_SNR_GAMMA = 5.0
EASY_UNTIL = 0.35
"""Share of the steps after which a twentieth of the pictures are easy ones; before, theirs falls from one linearly."""


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.x's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained text encoder of 3 layers × 256."""
    torch.manual_seed(0)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=768,
            projection_dim=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_unet() -> UNet2DConditionModel:
    """An untrained UNet on latents of 16 × 16, with attention to the words at 16 × 16 and 8 × 8.

    Heads of 32 numbers, which fill the tiles of processors with AMX.
    """
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=vae.CHANNELS,
        out_channels=vae.CHANNELS,
        block_out_channels=(96, 192),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        attention_head_dim=(3, 6),
        cross_attention_dim=256,
        norm_num_groups=16,
    )


def assemble(encoder: CLIPTextModel, unet: UNet2DConditionModel) -> StableDiffusionPipeline:
    """The pipeline of the trained parts."""
    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(vae.FOLDER, dtype=torch.float32),
        text_encoder=encoder,
        tokenizer=CLIPTokenizer.from_pretrained(vocabulary.GENERATOR_FOLDER),
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def make_fast(encoder: CLIPTextModel, unet: UNet2DConditionModel, device: str) -> None:
    """Compile on a GPU; on a CPU the backward pass of fused attention would take a third of a step."""
    if device.startswith("cuda"):
        unet.compile()
    else:
        unet.set_attn_processor(AttnProcessor())
        use_fast_attention(encoder, device)


@click.command()
@click.option("--steps", default=PLAN.steps, show_default=True, help="Steps in all; may change between runs.")
@click.option("--decay-from", default=PLAN.decay_from, show_default=True, help="Share of steps before the rate falls.")
@click.option("--export", is_flag=True, help="Don't train: save the average weights of the last checkpoint.")
def main(steps: int, decay_from: float, export: bool) -> None:
    """Train the text encoder and the UNet."""
    me = workers()
    plan = replace(PLAN, steps=steps, decay_from=decay_from).on(me.device)
    tokenizer = CLIPTokenizer.from_pretrained(vocabulary.GENERATOR_FOLDER)
    encoder, unet = new_text_encoder(tokenizer).to(me.device), new_unet().to(me.device)
    if export:
        weights = Weights({"text_encoder": encoder, "unet": unet}, plan, me)
        print(f"the average weights after step {load_checkpoint(RUNS / 'diffusion' / 'state.safetensors', weights)}")
        weights.use_average()
        assemble(encoder, unet).save_pretrained(FOLDER)
        return
    empty = tokenise(tokenizer, [""])[0]
    pool = load_pool()
    alphas = new_scheduler().alphas_cumprod
    count = plan.batch // me.count

    easy_until = EASY_UNTIL * plan.steps
    make_fast(encoder, unet, me.device)

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x, words = pool.draw(count, max(0.05, 1 - step / easy_until), generator)
        words[torch.rand(count, generator=generator) < DROP_CAPTION] = empty
        strata = torch.arange(me.rank, plan.batch, me.count) + torch.rand(count, generator=generator)
        t = (strata / plan.batch * len(alphas)).long()
        alpha = alphas[t].view(-1, 1, 1, 1)
        noise = torch.randn(x.shape, generator=generator)
        noisy = alpha.sqrt() * x + (1 - alpha).sqrt() * noise
        context = encoder(words.to(me.device)).last_hidden_state
        output = unet(noisy.to(me.device), t.to(me.device), context).sample.float()
        error = (output - noise.to(me.device)).pow(2).mean((1, 2, 3))
        snr = alphas[t] / (1 - alphas[t])
        weight = (MIN_SNR_GAMMA / snr).clamp(max=1).to(me.device)
        return (weight * error).mean(), {"eps": error.detach().mean()}

    fit("diffusion", {"text_encoder": encoder, "unet": unet}, loss, plan)
    if me.first:
        assemble(encoder, unet).save_pretrained(FOLDER)


if __name__ == "__main__":
    main()
