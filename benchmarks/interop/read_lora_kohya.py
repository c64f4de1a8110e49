"""kohya's sd-scripts: create_network_from_weights of networks/lora.py, as gen_img.py calls it, on its own UNets."""

import sys
from pathlib import Path

import kit
import lora_kit
import torch

PEER = Path(sys.argv[2])
sys.path.insert(0, str(PEER))
kit.stand_in("cv2", "imagesize", "toml", "voluptuous", "easygui", "bitsandbytes", "einops")
from library.original_unet import UNet2DConditionModel  # noqa: E402
from library.sdxl_original_unet import SdxlUNet2DConditionModel  # noqa: E402
from networks import lora  # noqa: E402

SIZES = {"sd1": (8, 768, False), "sd2": ([5, 10, 20, 20], 1024, True)}


def unet(base):
    with torch.device("meta"):
        if base == "sdxl":
            return SdxlUNet2DConditionModel()
        heads, width, linear = SIZES[base]
        return UNet2DConditionModel(64, heads, width, linear)


def read(case):
    own = unet(case.base)
    network, weights = lora.create_network_from_weights(1.0, str(case.file), None, [], own, for_inference=True)
    network.apply_to([], own)
    info = network.load_state_dict(weights, strict=False)
    left = [*info.unexpected_keys, *info.missing_keys]
    if left:
        raise AssertionError(f"keys that do not match: {len(left)}, such as {left[0]}")
    names = lora_kit.original_names(case.base).items()
    flat = {(theirs if case.base == "sdxl" else name).replace(".", "_"): name for name, theirs in names}
    for layer in network.unet_loras:
        yield flat[layer.lora_name.removeprefix("lora_unet_")], layer.get_weight()


lora_kit.main(read)
