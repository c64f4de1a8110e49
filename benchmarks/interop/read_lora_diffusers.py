"""diffusers, as installed: load_lora_weights on a UNet of the real shapes, whose values nobody has set."""

import lora_kit
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin

from sentinv.adapters.bases import bare_unet


def pipeline(base):
    mixin = StableDiffusionXLLoraLoaderMixin if base == "sdxl" else StableDiffusionLoraLoaderMixin

    class Pipeline(DiffusionPipeline, mixin):
        """A pipeline of a UNet alone."""

        _optional_components = ("text_encoder", "text_encoder_2")

        def __init__(self, unet, text_encoder=None, text_encoder_2=None):
            super().__init__()
            self.register_modules(unet=unet, text_encoder=text_encoder, text_encoder_2=text_encoder_2)

    with torch.device("meta"):
        unet = type(bare_unet(base)).from_config(bare_unet(base).config)
    return Pipeline(unet.to(torch.float16).to_empty(device="cpu"))


def read(case):
    pipe = pipeline(case.base)
    pipe.load_lora_weights(str(case.file))
    for name, module in pipe.unet.named_modules():
        for adapter in getattr(module, "lora_A", {}):
            up, down = module.lora_B[adapter].weight.float(), module.lora_A[adapter].weight.float()
            yield name, module.scaling[adapter] * (up.flatten(1) @ down.flatten(1))


lora_kit.main(read)
