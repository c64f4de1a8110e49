"""OneTrainer: its loader of LoRAs for both kinds of models, and the wrapper that it puts around a UNet's modules.

The model is its own class with a UNet without values and no text encoders.
"""

import sys

import kit
import lora_kit

OTHERS = (
    *(
        "torch.utils.tensorboard",
        "mgds",
        "cv2",
        "bitsandbytes",
        "parse",
        "onnxruntime",
        "prodigyopt",
        "schedulefree",
        "gguf",
    ),
    *("dadaptation", "lion_pytorch", "adv_optm", "muon", "oft", "peft_oft", "omegaconf", "safetensors_rust"),
)

sys.path.insert(0, sys.argv[2])
kit.stand_in(*OTHERS)
from modules.model.StableDiffusionModel import StableDiffusionModel  # noqa: E402
from modules.model.StableDiffusionXLModel import StableDiffusionXLModel  # noqa: E402
from modules.modelLoader.stableDiffusion.StableDiffusionLoRALoader import StableDiffusionLoRALoader  # noqa: E402
from modules.modelLoader.stableDiffusionXL.StableDiffusionXLLoRALoader import StableDiffusionXLLoRALoader  # noqa: E402
from modules.util.enum.ModelType import ModelType  # noqa: E402
from modules.util.ModelNames import ModelNames  # noqa: E402

from sentinv.adapters.bases import bare_unet  # noqa: E402

KINDS = {
    "sd1": (StableDiffusionModel, StableDiffusionLoRALoader, ModelType.STABLE_DIFFUSION_15),
    "sd2": (StableDiffusionModel, StableDiffusionLoRALoader, ModelType.STABLE_DIFFUSION_21),
    "sdxl": (StableDiffusionXLModel, StableDiffusionXLLoRALoader, ModelType.STABLE_DIFFUSION_XL_10_BASE),
}


def read(case):
    family, loader, kind = KINDS[case.base]
    model = family(kind)
    model.unet = bare_unet(case.base)
    for name in ("text_encoder", "text_encoder_1", "text_encoder_2"):
        setattr(model, name, lora_kit.Tree({}))
    loader().load(model, ModelNames(lora=str(case.file)))
    state = model.lora_state_dict
    for key, up in state.items():
        if key.endswith(".lora_up.weight"):
            place = key.removesuffix(".lora_up.weight")
            down, alpha = state[f"{place}.lora_down.weight"].float(), state[f"{place}.alpha"].item()
            product = up.float().flatten(1) @ down.flatten(1)
            yield place.removeprefix("unet."), alpha / len(down) * product


lora_kit.main(read)
