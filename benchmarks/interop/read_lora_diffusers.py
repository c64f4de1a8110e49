"""diffusers, as installed: load_lora_weights on a UNet of the real shapes, whose values nobody has set."""

import lora_kit
from diffusers import DiffusionPipeline
from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin


def pipeline(base):
    mixin = StableDiffusionXLLoraLoaderMixin if base == "sdxl" else StableDiffusionLoraLoaderMixin

    class Pipeline(DiffusionPipeline, mixin):
        """A pipeline of a UNet alone."""

        _optional_components = ("text_encoder", "text_encoder_2")

        def __init__(self, unet, text_encoder=None, text_encoder_2=None):
            super().__init__()
            self.register_modules(unet=unet, text_encoder=text_encoder, text_encoder_2=text_encoder_2)

    return Pipeline(lora_kit.empty_unet(base))


def read(case):
    pipe = pipeline(case.base)
    pipe.load_lora_weights(str(case.file))
    for name, module in pipe.unet.named_modules():
        for adapter in getattr(module, "lora_A", {}):
            up, down = module.lora_B[adapter].weight.float(), module.lora_A[adapter].weight.float()
            yield name, module.scaling[adapter] * (up.flatten(1) @ down.flatten(1))


lora_kit.main(read)
