"""What the parts see with: a residual network learns first, from a tenth of the pictures that a vision transformer would need.

Measured on lessons, 48,000 pictures each: 39 % of things in held-out renders by the residual network, about 12 % by a vision
transformer of the same cost. What has to be a transformer, because captioners and CLIP are, learns from it afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import click
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPModel, ResNetConfig, ResNetForImageClassification, ViTConfig, ViTModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from . import world
from .fit import RUNS, Plan, fit, use_fast_attention, workers
from .lessons import jostle, load

FOLDER = RUNS / "eyes" / "model"
PLAN = Plan(steps=8000, batch=32, lr=1e-3, matrix_lr=2e-3, warmup=100, decay_from=0.3, seed=43, gpu_batch=256)

Difference = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

VISION = {
    "image_size": world.RESOLUTION,
    "patch_size": 16,
    "hidden_size": 160,
    "intermediate_size": 480,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
}
"""The vision transformer of each part that looks at pictures: 4 layers of width 160 on patches of 16 by 16 pixels.

Patches of 8 by 8 would be four times as many.
"""

RESNET = {
    "embedding_size": 32,
    "hidden_sizes": [32, 64, 128, 192],
    "depths": [1, 2, 2, 1],
    "layer_type": "basic",
}
"""He et al. 2015, "Deep Residual Learning", with six blocks: maps of 32, 16, 8 and 4 places a side."""


def new_resnet(labels: dict[int, str]) -> ResNetForImageClassification:
    """An untrained residual network with a linear layer of so many outputs, laid out for convolutions on a CPU."""
    torch.manual_seed(0)
    config = ResNetConfig(**RESNET, id2label=labels, label2id={label: i for i, label in labels.items()})
    return ResNetForImageClassification(config).to(memory_format=torch.channels_last)


def pixels(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures `[N, 3, RESOLUTION, RESOLUTION]` in [0, 1] as parts that look at them take them: in [-1, 1], channels last."""
    return (pictures * 2 - 1).to(memory_format=torch.channels_last)


@torch.no_grad()
def settle(model: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Measure the means and variances of a trained network's normalisations anew, over pictures as `pixels` gives them.

    Training normalises by each batch alone, so that checkpoints need not hold these; those gathered on the way are of
    the last few batches and of other weights than the average.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a mean over all
    model.train()
    for batch in batches:
        model(batch)
    model.eval()


class Student(nn.Module):
    """A vision transformer that learns what a residual network makes of pictures, at each place and as a whole.

    Args:
        vision: a vision transformer whose patches are the places of the residual network's last map but one.
        answer: what it returns → what the residual network answers, `[N, labels]`.
        difference: (own answer, the residual network's) → how far they are apart.
    """

    def __init__(self, vision: nn.Module, answer: nn.Module, difference: Difference) -> None:
        super().__init__()
        self.vision, self.answer, self.difference = vision, answer, difference
        self.places = nn.ModuleList(nn.Linear(VISION["hidden_size"], maps) for maps in RESNET["hidden_sizes"][-2:])

    def losses(self, teacher: ResNetForImageClassification, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        """Squared errors of the last two maps, as shares of their variance, and how far the answers are apart."""
        with torch.no_grad():
            taught = teacher(pixels(pictures), output_hidden_states=True)
        seen = self.vision(pixel_values=pictures * 2 - 1)
        told = {"answer": self.difference(self.answer(seen).float(), taught.logits.float())}
        for name, head, goal in zip(("near", "far"), self.places, taught.hidden_states[-2:], strict=True):
            goal = F.interpolate(goal.float(), size=world.RESOLUTION // VISION["patch_size"]).flatten(2).mT
            error = (head(seen.last_hidden_state[:, 1:]).float() - goal).square()
            told[name] = (error / goal.var((0, 1)).clamp(min=1e-3)).mean()
        return told


class FirstToken(nn.Module):
    """A linear layer upon the first token of a transformer."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(VISION["hidden_size"], labels)

    def forward(self, seen: BaseModelOutputWithPooling) -> torch.Tensor:
        return self.linear(seen.last_hidden_state[:, 0])


class Projection(nn.Module):
    """The projection of a CLIP's vision transformer."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.projection = clip.visual_projection

    def forward(self, seen: BaseModelOutputWithPooling) -> torch.Tensor:
        return self.projection(seen.pooler_output)


def attributes_apart(own: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the attributes to what the teacher holds likely, summed over attributes."""
    from .classifier import split_logits

    goals = split_logits(taught)
    blocks = split_logits(own).items()
    return torch.stack([F.cross_entropy(block, goals[name].softmax(1)) for name, block in blocks]).sum()


def directions_apart(own: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    """Ten times one less the cosine."""
    return 10 * (1 - F.cosine_similarity(own, taught)).mean()


def learn(teacher: ResNetForImageClassification, student: Student, part: str, plan: Plan) -> None:
    """Train a student on lessons and pairs, whose answers it is not told."""
    me = workers()
    teacher.eval().to(me.device).to(memory_format=torch.channels_last)
    student.to(me.device)
    lessons, pairs = load("lessons"), load("pairs")

    def loss(step: int, chance: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        count = plan.batch // me.count // 2
        drawn = torch.cat([lessons.draw(count, 0, chance)[1], pairs.draw_pairs(count, 0, chance)[0]])
        told = student.losses(teacher, jostle(drawn, chance).to(me.device))
        return sum(told.values(), torch.zeros((), device=me.device)), {k: v.detach() for k, v in told.items()}

    fit(part, {"student": student}, loss, plan)
    student.eval()


@click.command()
@click.argument("teacher", type=click.Choice(["classifier", "judge"]))
def main(teacher: str) -> None:
    """Train a vision transformer for captioner and tower from the classifier, or that of the judge from the judge's own."""
    from . import classifier, judge

    me = workers()
    plan = PLAN.on(me.device)
    torch.manual_seed(0)
    if teacher == "classifier":
        vision = ViTModel(ViTConfig(**VISION), add_pooling_layer=False)
        use_fast_attention(vision, me.device)
        network = ResNetForImageClassification.from_pretrained(classifier.ATTRIBUTES_FOLDER, dtype=torch.float32)
        learn(network, Student(vision, FirstToken(network.config.num_labels), attributes_apart), "eyes", plan)
        keep, folder = vision, FOLDER
    else:
        keep, folder = CLIPModel.from_pretrained(judge.FOLDER, dtype=torch.float32), judge.FOLDER
        use_fast_attention(keep, me.device)
        network = ResNetForImageClassification.from_pretrained(judge.EYES_FOLDER, dtype=torch.float32)
        learn(network, Student(keep.vision_model, Projection(keep), directions_apart), "judge-eyes", plan)
    if me.first:
        keep.save_pretrained(folder)


@torch.no_grad()
def hand_over(vision: nn.Module) -> None:
    """Start a part's vision transformer, BLIP's or CLIP's, from the one that has learned from the classifier.

    BLIP's is then the same function; CLIP's has a layer norm more, and another kind of GELU.

    Args:
        vision: one of the same sizes (see `VISION`); changed in place.
    """
    own = vision.state_dict()
    taught = ViTModel.from_pretrained(FOLDER, add_pooling_layer=False, dtype=torch.float32).state_dict()
    state = {_NAMES.sub(lambda found: _NAMED[found[0]], key): value for key, value in taught.items()}
    bias = "embeddings.patch_embedding.bias"
    if bias not in own:
        state["embeddings.position_embedding"][:, 1:] += state.pop(bias)
        state["embeddings.position_embedding.weight"] = state.pop("embeddings.position_embedding")
    for key in own:
        if ".qkv." in key:
            state[key] = torch.cat([state.pop(key.replace("qkv", f"{letter}_proj")) for letter in "qkv"])
        elif ".projection." in key:
            state[key] = state.pop(key.replace("projection", "out_proj"))
    vision.load_state_dict({k: v.reshape(own[k].shape) for k, v in state.items()}, strict=False)


_NAMED = {
    "cls_token": "class_embedding",
    "position_embeddings": "position_embedding",
    "patch_embeddings.projection": "patch_embedding",
    "layers.": "encoder.layers.",
    "attention.o_proj": "self_attn.out_proj",
    "attention.": "self_attn.",
    "layernorm_before": "layer_norm1",
    "layernorm_after": "layer_norm2",
    "layernorm.": "post_layernorm.",
}
"""Names in ViT → names in BLIP's and CLIP's vision transformers."""
_NAMES = re.compile("|".join(re.escape(name) for name in _NAMED))


if __name__ == "__main__":
    main()
