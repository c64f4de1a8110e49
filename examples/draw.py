"""Prompt in, PNG out, with plain diffusers and nothing of sentinv.

python examples/draw.py "an oil painting of a blue cat on the moon" cat.png
"""

import sys
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

FOLDER = Path(__file__).resolve().parent.parent / "sentinv" / "toybox" / "pipeline"


def main() -> None:
    prompt, target = sys.argv[1:3]
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER, dtype=torch.float32, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    generator = torch.Generator().manual_seed(0)
    pipeline(prompt, num_inference_steps=25, guidance_scale=4.0, generator=generator).images[0].save(target)


if __name__ == "__main__":
    main()
