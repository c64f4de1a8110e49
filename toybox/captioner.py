"""Train the captioner: one plain sentence that names style, colour, pattern, object and scene.

It is to name things by hands that it has never seen: most of the drawings that it learns from are deformed, some in looks
that no caption names (see `lessons`). It starts with the eyes of the trained classifier.
"""

from __future__ import annotations

import click
import torch
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipImageProcessor,
    BlipProcessor,
    BlipTextConfig,
)

from sentinv.initializers.caption import Caption
from sentinv.models.residual import ResidualBlip

from . import vocabulary, world
from .eyes import RESNET, UNUSED, WIDTH, hand_over, pixels, settle
from .fit import RUNS, Plan, fit, workers
from .lessons import jostle, load
from .surety import note_threshold

FOLDER = RUNS / "captioner" / "model"
PLAN = Plan(
    steps=3000, batch=64, lr=1e-3, matrix_lr=2e-3, warmup=100, decay_from=0.4, ema=0.998, seed=51, gpu_batch=512
)


def new_captioner(tokenizer: BertTokenizer) -> ResidualBlip:
    """An untrained BLIP: a residual network (see `eyes`) and a text decoder of 3 layers × 128."""
    torch.manual_seed(0)
    start, end = tokenizer.convert_tokens_to_ids(["[DEC]", "[SEP]"])
    text = BlipTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        encoder_hidden_size=WIDTH,
        intermediate_size=384,
        projection_dim=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=start,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=end,
        sep_token_id=end,
        attention_probs_dropout_prob=0.0,
        hidden_dropout_prob=0.0,
    )
    config = BlipConfig(
        text_config=text.to_dict(), vision_config=UNUSED, projection_dim=128, image_text_hidden_size=128, resnet=RESNET
    )
    return ResidualBlip(config)


def processor(tokenizer: BertTokenizer) -> BlipProcessor:
    """Resizes to the world's side and scales to [-1, 1]."""
    side = {"height": world.RESOLUTION, "width": world.RESOLUTION}
    return BlipProcessor(BlipImageProcessor(size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3), tokenizer)


@torch.no_grad()
def describe(model: ResidualBlip, tokenizer: BertTokenizer, pictures: torch.Tensor) -> list[str]:
    """A caption for each picture of `[N, 3, H, W]` in [0, 1]."""
    out = []
    for part in pictures.split(256):
        ids = model.generate(pixel_values=part * 2 - 1, max_new_tokens=24, num_beams=1, do_sample=False)
        out += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [text.replace("[DEC]", "").replace("[dec]", "").strip() for text in out]


@click.command()
def main() -> None:
    """Train the captioner."""
    me = workers()
    plan = PLAN.on(me.device)
    tokenizer = BertTokenizer.from_pretrained(vocabulary.CAPTIONER_FOLDER)
    model = new_captioner(tokenizer).to(me.device)
    hand_over(model.vision_model.resnet)
    lessons = load("lessons")
    start = tokenizer.convert_tokens_to_ids("[DEC]")

    def loss(step: int, chance: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        specs, pictures = lessons.draw(plan.batch // me.count, 0, chance)
        batch = tokenizer(world.plain_captions(specs), padding=True, return_tensors="pt")
        ids = batch.input_ids.clone()
        ids[:, 0] = start
        labels = ids.masked_fill(batch.attention_mask == 0, -100).to(me.device)
        output = model(
            pixel_values=pixels(jostle(pictures, chance)).to(me.device),
            input_ids=ids.to(me.device),
            attention_mask=batch.attention_mask.to(me.device),
            labels=labels,
        )
        return output.loss.float(), {}

    fit("captioner", {"captioner": model}, loss, plan)
    if me.first:
        settle(model.vision_model, lambda chance: lessons.draw(64, 0, chance)[1], me.device)
        model.eval()
        specs = world.sample_specs(1024, world.HELD_OUT_SEEDS[3]).replace(second=-1)
        said = describe(model, tokenizer, world.render(specs, device=me.device))
        exact = [a == b for a, b in zip(said, world.plain_captions(specs), strict=True)]
        print(f"held-out: {sum(exact) / len(exact):.4f} of the captions are right in every word; e.g. {said[:3]}")
        model.save_pretrained(FOLDER)
        processor(tokenizer).save_pretrained(FOLDER)
        note_threshold(model, FOLDER, Caption(str(FOLDER), device="cpu"))


if __name__ == "__main__":
    main()
