"""OneTrainer: its loader of LoRAs for both kinds of models, and the wrapper that it puts around a UNet's modules.

The model is its own class with a UNet whose values nobody has set and no text encoders. Rank and layers are told it as in the
file, which it asks of its users as well.
"""

import re
import sys

import kit
import lora_kit

sys.path.insert(0, sys.argv[2])
kit.stand_in(*kit.BESIDE_ONETRAINER)
from modules.model.StableDiffusionModel import StableDiffusionModel  # noqa: E402
from modules.model.StableDiffusionXLModel import StableDiffusionXLModel  # noqa: E402
from modules.modelLoader.stableDiffusion.StableDiffusionLoRALoader import StableDiffusionLoRALoader  # noqa: E402
from modules.modelLoader.stableDiffusionXL.StableDiffusionXLLoRALoader import StableDiffusionXLLoRALoader  # noqa: E402
from modules.module.LoRAModule import LoRAModuleWrapper  # noqa: E402
from modules.util.config.TrainConfig import TrainConfig  # noqa: E402
from modules.util.enum.ModelType import ModelType  # noqa: E402
from modules.util.ModelNames import ModelNames  # noqa: E402

KINDS = {
    "sd1": (StableDiffusionModel, StableDiffusionLoRALoader, ModelType.STABLE_DIFFUSION_15),
    "sd2": (StableDiffusionModel, StableDiffusionLoRALoader, ModelType.STABLE_DIFFUSION_21),
    "sdxl": (StableDiffusionXLModel, StableDiffusionXLLoRALoader, ModelType.STABLE_DIFFUSION_XL_10_BASE),
}


def read(case):
    family, loader, kind = KINDS[case.base]
    model = family(kind)
    model.unet = lora_kit.empty_unet(case.base)
    for name in ("text_encoder", "text_encoder_1", "text_encoder_2"):
        setattr(model, name, lora_kit.Tree({}))
    loader().load(model, ModelNames(lora=str(case.file)))
    config, ends = TrainConfig.default_values(), [key for key in case.wanted if key.endswith(".down")]
    config.lora_rank, config.layer_filter_regex = len(case.wanted[ends[0]]), True
    layers = [f"^{re.escape(key.removesuffix('.down'))}$" for key in ends]
    wrapper = LoRAModuleWrapper(model.unet, "unet", config, layers)
    wrapper.load_state_dict(model.lora_state_dict)
    wrapper.prune()
    for name, module in wrapper.lora_modules.items():
        yield name, module.make_weight(module.lora_down.weight, module.lora_up.weight) * (module.alpha / module.rank)


lora_kit.main(read)
