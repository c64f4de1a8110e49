"""AUTOMATIC1111's web UI: its extension Lora from the folder on: load_network, its modules' calc_updown, the words inside.

The model is a tree of the original UNet's names with modules of the right shapes. Options, devices, caches and the page are
stubs; the functions that look through the folder are taken out of files that import the whole program.
"""

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import kit
import lora_kit
import torch
from safetensors.torch import load_file

PEER = Path(sys.argv[2])
sys.path[:0] = [str(PEER), str(PEER / "extensions-builtin" / "Lora")]
CPU = torch.device("cpu")
kit.stand_in("gradio")
import modules  # noqa: E402, F401 - of the web UI

FOLDERS = SimpleNamespace(lora_dir=str(PEER / "models" / "Lora"), lyco_dir_backcompat="")
shared = kit.stub("modules.shared", opts=SimpleNamespace(list_hidden_files=True), cmd_opts=FOLDERS, sd_model=None)
kit.stub("modules.devices", device=CPU, cpu=CPU, dtype=torch.float32)
kit.stub("modules.hashes", sha256=lambda path, title: "0" * 64, sha256_from_cache=lambda *_, **__: "0" * 64)
kit.stub("modules.errors", report=print, display=print)
kit.stub("modules.cache", cached_data_for_file=lambda kind, title, file, read: read())
parts = {"os": os, "re": re, "shared": shared}
for file, name in (
    ("util", "natural_sort_key"),
    ("util", "walk_files"),
    ("sd_models", "read_metadata_from_safetensors"),
):
    kit.run_part(kit.part(PEER / "modules" / f"{file}.py", name), parts)
shared.walk_files = parts["walk_files"]
kit.stub(
    "modules.sd_models",
    read_state_dict=load_file,
    read_metadata_from_safetensors=parts["read_metadata_from_safetensors"],
)
for name in ("images", "sd_samplers", "sd_hijack_checkpoint", "scripts", "patches"):
    kit.stub(f"modules.{name}")
kit.stub("modules.sd_hijack", StableDiffusionModelHijack=object, model_hijack=None)
kit.stub("modules.textual_inversion.dataset")
kit.stub("modules.textual_inversion.learn_schedule", LearnRateScheduler=None)
kit.stub("modules.textual_inversion.logging", save_settings_to_file=None)
kit.stub("lora_patches", LoraPatches=object)
import networks  # noqa: E402


def model(base):
    unet = lora_kit.Tree({f"diffusion_model.{name}": one for name, one in lora_kit.original_modules(base).items()})
    text = SimpleNamespace(
        wrapped=lora_kit.Tree({"model.transformer.resblocks" if base == "sd2" else "transformer": torch.nn.Identity()})
    )
    return SimpleNamespace(
        is_sdxl=base == "sdxl", model=unet, cond_stage_model=text, conditioner=SimpleNamespace(embedders=[])
    )


def read(case):
    shared.sd_model = model(case.base)
    networks.assign_network_names_to_compvis_modules(shared.sd_model)
    FOLDERS.lora_dir = str(case.file.parent)
    networks.list_available_networks()
    net = networks.load_network(case.file.stem, networks.available_networks[case.file.stem])
    names = {name.replace(".", "_"): own for name, own in lora_kit.diffusers_names(case.base).items()}
    for key, module in net.modules.items():
        delta, _ = module.calc_updown(torch.empty(module.sd_module.weight.shape))
        yield names[key.removeprefix("diffusion_model_")], delta
    for name, embedding in net.bundle_embeddings.items():
        if name != case.word:
            raise AssertionError(f"a word {name}, not {case.word}")
        rows = embedding.vec if isinstance(embedding.vec, dict) else {"clip_l": embedding.vec}
        for encoder, key in lora_kit.ENCODER_KEYS.items():
            if key in rows:
                yield f"{lora_kit.BUNDLED}{encoder}", rows[key]


lora_kit.main(read)
