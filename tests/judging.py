"""A tiny CLIP with random weights, and concepts of random pictures, for the tests of what measures."""

import json

import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from sentinv.concepts.initialization import Initialization
from sentinv.evaluation.judges import ClipJudge


def build_judge(tokenizer):
    torch.manual_seed(5)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 40,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**text, "image_size": 16, "patch_size": 8, "num_channels": 3}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    size = {"height": 16, "width": 16}
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return ClipJudge("tiny CLIP", model, CLIPProcessor(images, tokenizer))


def random_picture(seed):
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray((torch.rand(16, 16, 3, generator=generator) * 255).to(torch.uint8).numpy())


def write_concepts(folder, names=("mug", "cat")):
    """A concepts file with two views, a mask and two edits for each concept."""
    entries = []
    for index, name in enumerate(names):
        own = folder / name
        own.mkdir(parents=True)
        files = ("image", "view-1", "view-2", "edit-1", "edit-2")
        for number, file in enumerate(files):
            random_picture(10 * index + number).save(own / f"{file}.png")
        Image.new("L", (16, 16), 255).save(own / "mask.png")
        edits = [
            {"prompt": "a photo of {} on the moon", "target": f"{name}/edit-1.png"},
            {"prompt": "a painting of {}", "target": f"{name}/edit-2.png"},
        ]
        entries.append(
            {
                "name": name,
                "caption": f"a red {name}",
                "word": name,
                "image": f"{name}/image.png",
                "mask": f"{name}/mask.png",
                "views": [f"{name}/view-1.png", f"{name}/view-2.png"],
                "edits": edits,
            }
        )
    path = folder / "concepts.json"
    path.write_text(json.dumps(entries))
    return path


DESCRIBERS = {
    "caption": lambda image: Initialization("a blue striped dog", "caption"),
    "class": lambda image: Initialization("dog", "class"),
}
