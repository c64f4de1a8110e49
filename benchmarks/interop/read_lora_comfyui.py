"""ComfyUI: load_torch_file, model_lora_keys_unet, load_lora and the adapters' calculate_weight; load_embed for bundled words.

The model is a list of the original UNet's names with shapes, and its config.
"""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import kit
import lora_kit
import torch

PEER = Path(sys.argv[2])
sys.argv = sys.argv[:2]
sys.path.insert(0, str(PEER))
kit.stand_in("torchaudio", "av", "sentencepiece", "kornia", "spandrel", "comfy_api", "comfy_kitchen", "comfy_aimdo")
import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = True
import comfy.lora  # noqa: E402
import comfy.lora_convert  # noqa: E402
import comfy.utils  # noqa: E402
from comfy import sd1_clip  # noqa: E402

KEYS = {"sd1": {"text_encoder": "clip_l"}, "sd2": {"text_encoder": "clip_h"}, "sdxl": lora_kit.ENCODER_KEYS}


def read(case):
    file = comfy.utils.load_torch_file(str(case.file), safe_load=True)
    modules = lora_kit.original_modules(case.base)
    weights = {
        f"diffusion_model.{name}.weight": module.weight for name, module in modules.items() if module._parameters
    }
    config = SimpleNamespace(unet_config=lora_kit.unet_config(case.base))
    model = SimpleNamespace(state_dict=lambda: weights, model_config=config)
    found = comfy.lora.load_lora(comfy.lora_convert.convert_lora(file), comfy.lora.model_lora_keys_unet(model, {}))
    names = lora_kit.diffusers_names(case.base)
    for key, adapter in found.items():
        weight = torch.zeros(weights[key].shape)
        name = names[key.removeprefix("diffusion_model.").removesuffix(".weight")]
        yield name, adapter.calculate_weight(weight, key, 1.0, 1.0, None, lambda value: value)
    for encoder, key in KEYS[case.base].items() if case.word else ():
        width = case.wanted[f"{lora_kit.BUNDLED}{encoder}"].shape[1]
        yield f"{lora_kit.BUNDLED}{encoder}", sd1_clip.load_embed(case.file.stem, str(case.file.parent), width, key)


os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
lora_kit.main(read)
