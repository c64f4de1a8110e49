"""Are checkpoints that diffusers' own scripts write from folders read as the folders are?

    python benchmarks/interop/single_files.py PATH/TO/diffusers/scripts

The folders have the published configs of their families, all levels and layers, in widths that are a tenth; text encoders have
their own width, by which families are told. Weights are random.
"""

import argparse
import copy
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sentinv.bench.sd15 import tokenizer
from sentinv.files.atomic import atomic_write
from sentinv.models import loading, single_file, vae
from sentinv.models.backbone import Backbone
from sentinv.models.names import Place
from sentinv.training.config import TrainConfig
from sentinv.training.memory import training_memory

HERE = Path(__file__).parent
PUBLISHED = HERE.parents[1] / "tests" / "configs"
SCRIPTS = {
    "sd15": "convert_diffusers_to_original_stable_diffusion.py",
    "sd21": "convert_diffusers_to_original_stable_diffusion.py",
    "sd21-base": "convert_diffusers_to_original_stable_diffusion.py",
    "sdxl": "convert_diffusers_to_original_sdxl.py",
}
TEXT = ("text_encoder", "text_encoder_2")
LESS = 10


def smaller(config: dict[str, Any]) -> dict[str, Any]:
    """A UNet's or autoencoder's config with a tenth of the channels, and of the heads where their number depends on them."""
    config = copy.deepcopy(config)
    channels = config["block_out_channels"]
    config["block_out_channels"] = [32 * max(1, width // (32 * LESS)) for width in channels]
    heads = config.get("attention_head_dim")
    if isinstance(heads, list):
        config["attention_head_dim"] = [max(1, count // 5) for count in heads]
    return config


def build(name: str, folder: Path) -> None:
    """Write a model of random weights to a folder, as its repository has it."""
    configs = json.loads((PUBLISHED / f"{name}.json").read_text())
    words = tokenizer(folder.parent / "words")
    torch.manual_seed(0)
    parts: dict[str, Any] = {
        "unet": UNet2DConditionModel.from_config(smaller(configs["unet"])),
        "vae": AutoencoderKL.from_config(smaller(configs["vae"])),
        "scheduler": DDIMScheduler.from_config(configs["scheduler"], clip_sample=False),
    }
    for index, part in enumerate(TEXT):
        if part in configs:
            kind = (CLIPTextModel, CLIPTextModelWithProjection)[index]
            parts[part] = kind(CLIPTextConfig(**{**configs[part], "intermediate_size": 64}))
            parts[f"tokenizer{part.removeprefix('text_encoder')}"] = copy.deepcopy(words)
    if "text_encoder_2" in parts:
        StableDiffusionXLPipeline(**parts, add_watermarker=False).save_pretrained(folder)
    else:
        parts |= {"safety_checker": None, "feature_extractor": None}
        StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
    for part in TEXT:
        path = folder / part / "model.safetensors"
        if path.exists():  # newer versions of transformers leave out a prefix that published files and the scripts have
            weights = load_file(path)
            own = ("text_model.", "text_projection.")
            save_file(
                {key if key.startswith(own) else f"text_model.{key}": one for key, one in weights.items()},
                path,
                {"format": "pt"},
            )


def parts_of(backbone: Backbone) -> dict[str, Any]:
    """The networks of a model, by name."""
    return {
        "unet": backbone.unet,
        "vae": backbone.vae,
        **{encoder.name: encoder.model for encoder in backbone.text_encoders},
    }


def differing(one: Backbone, other: Backbone) -> tuple[int, list[str]]:
    """How many tensors two models have, and the names of those that are not equal to the bit or that one has alone."""
    count, found = 0, []
    for name, part in parts_of(one).items():
        ours, theirs = part.state_dict(), parts_of(other)[name].state_dict()
        for key in sorted({*ours, *theirs}):
            count += 1
            if key not in ours or key not in theirs or not torch.equal(ours[key], theirs[key]):
                found.append(f"{name}.{key}")
    return count, found


def compare(name: str, script: Path, scratch: Path, *, half: bool) -> dict[str, Any]:
    """Convert a folder with a script, and read both."""
    folder, file = scratch / "folder", scratch / "model.safetensors"
    build(name, folder)
    call = [
        sys.executable,
        str(script),
        "--model_path",
        str(folder),
        "--checkpoint_path",
        str(file),
        "--use_safetensors",
    ]
    subprocess.run([*call, *(["--half"] if half else [])], check=True, stdout=subprocess.DEVNULL)
    configs = dict.fromkeys(single_file.CONFIGS, str(folder))
    for module in (single_file, vae):
        module.CONFIGS = configs  # type: ignore[attr-defined] - in place of the repositories, which are not here
    dtype = torch.float16 if half else torch.float32
    ours, wanted = (loading.load(path, device="cpu", dtype=dtype) for path in (file, folder))
    count, wrong = differing(ours, wanted)
    plans = [training_memory(Place(model=str(path), dtype="float32"), TrainConfig()) for path in (file, folder)]
    return {
        "model": name,
        "half": half,
        "tensors": count,
        "wrong": wrong,
        "plan": plans[0] == plans[1],
        "predicts": [ours.schedule.prediction_type, wanted.schedule.prediction_type],
    }


def main() -> int:
    """Convert and compare all; what came of it is written beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scripts", type=Path)
    scripts = parser.parse_args().scripts
    found = []
    for name, script in SCRIPTS.items():
        for half in (False, True):
            with tempfile.TemporaryDirectory() as scratch:
                result = compare(name, scripts / script, Path(scratch), half=half)
            found.append(result)
            told = "equal" if not result["wrong"] else f"{len(result['wrong'])} differ: {result['wrong'][:3]}"
            print(
                f"{name:10} {'half' if half else 'whole':6} {result['tensors']} tensors {told}, plan {result['plan']}"
            )
    atomic_write(HERE / "results-files.json", json.dumps(found, indent=1).encode() + b"\n", overwrite=True)
    return int(any(one["wrong"] or not one["plan"] for one in found))


if __name__ == "__main__":
    sys.exit(main())
