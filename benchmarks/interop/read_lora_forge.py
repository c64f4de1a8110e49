"""Forge: its collections' model_lora_keys_unet and load_lora, and merge_lora_to_weight.

The model is a list of the original UNet's names with shapes, and its config; memory management is a stand-in.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import kit
import lora_kit
import torch
from safetensors.torch import load_file

PEER = Path(sys.argv[2])
sys.path.insert(0, str(PEER))
kit.stub("backend", __path__=[str(PEER / "backend")])
kit.stub("backend.memory_management", cast_to_device=lambda value, device, dtype: value.to(device, dtype))
kit.stub("backend.utils")
kit.stub("backend.args", dynamic_args={})
kit.stub("backend.operations", ForgeOperationsGGUF=None)
from backend.patcher.lora import load_lora, merge_lora_to_weight, model_lora_keys_unet  # noqa: E402

MISMATCH = 12
"""More unmatched keys than these, and Forge leaves a file alone."""


def read(case):
    modules = lora_kit.original_modules(case.base)
    weights = {
        f"diffusion_model.{name}.weight": module.weight for name, module in modules.items() if module._parameters
    }
    unet = SimpleNamespace(config=lora_kit.unet_config(case.base))
    whole = SimpleNamespace(huggingface_repo="")
    model = SimpleNamespace(state_dict=lambda: weights, diffusion_model=unet, config=whole)
    found, left = load_lora(load_file(case.file), model_lora_keys_unet(model, {}))
    if len(left) > MISMATCH:
        raise AssertionError(f"unmatched keys: {len(left)}, such as {min(left)}")
    names = lora_kit.diffusers_names(case.base)
    for key, patch in found.items():
        weight = torch.zeros(weights[key].shape)
        name = names[key.removeprefix("diffusion_model.").removesuffix(".weight")]
        yield name, merge_lora_to_weight([(1.0, patch, 1.0, None, None)], weight, key)


lora_kit.main(read)
