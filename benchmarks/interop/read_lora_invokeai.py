"""InvokeAI: the probing of a file by all its kinds of models, its loader of LoRAs, and the names and products of its patcher.

Stand-ins: packages for other kinds of models; the loader is made without the application around it.
"""

import sys
from pathlib import Path

import kit
import lora_kit
import torch

OTHERS = ("onnxruntime", "gguf", "picklescan", "semver", "blake3", "cv2", "onnx", "sdnq", "deprecated", "spandrel")

PEER = Path(sys.argv[2])
sys.path.insert(0, str(PEER))
kit.stand_in(*OTHERS)
from invokeai.backend.model_manager.configs.factory import ModelConfigFactory  # noqa: E402
from invokeai.backend.model_manager.load.model_loaders.lora import LoRALoader  # noqa: E402
from invokeai.backend.patches.layer_patcher import LayerPatcher  # noqa: E402

from sentinv.adapters.bases import bare_unet  # noqa: E402

BASES = {"sd1": "sd-1", "sd2": "sd-2", "sdxl": "sdxl"}


def read(case):
    config = ModelConfigFactory.from_model_on_disk(case.file, hash_algo="sha256").config
    if config is None or config.type.value != "lora" or config.base.value != BASES[case.base]:
        found = f"{config.type.value} of {config.base.value}" if config else "nothing"
        raise ValueError(f"the model manager takes it for: {found}")
    loader = LoRALoader.__new__(LoRALoader)
    loader._model_base, loader._torch_dtype = config.base, torch.float32
    config.path = str(case.file)
    patch = loader._load_model(config)
    unet = bare_unet(case.base)
    names = {id(module): name for name, module in unet.named_modules()}
    for key, layer in patch.layers.items():
        if not key.startswith("lora_unet_"):
            raise AssertionError(f"a layer that the patcher leaves out: {key}")
        _, module = LayerPatcher._get_submodule(unet, key.removeprefix("lora_unet_"), layer_key_is_flattened=True)
        shape = module.weight.shape
        yield names[id(module)], layer.get_parameters({"weight": torch.empty(shape)}, 1.0)["weight"]


lora_kit.main(read)
