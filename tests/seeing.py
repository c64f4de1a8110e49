"""A tiny captioner and a tiny classifier that always say the same."""

import torch
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

SENTENCE = "a photo of a red striped cat on the moon"
SIZE = {"height": 16, "width": 16}


def build_captioner(folder):
    """A BLIP that was taught one sentence."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(SENTENCE.split()), "[DEC]", "[ENC]"]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)}, model_max_length=16)
    start, end = tokenizer.convert_tokens_to_ids(["[DEC]", "[SEP]"])
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape["projection_dim"] = 16
    text = {**shape, "vocab_size": len(words), "encoder_hidden_size": 16, "max_position_embeddings": 16}
    text |= {"bos_token_id": start, "eos_token_id": end, "sep_token_id": end, "pad_token_id": 0}
    torch.manual_seed(2)
    model = BlipForConditionalGeneration(
        BlipConfig(text_config=text, vision_config={**shape, "image_size": 16, "patch_size": 8})
    )
    ids = torch.tensor([[start, *tokenizer(SENTENCE, add_special_tokens=False).input_ids, end]])
    pixels = torch.zeros(1, 3, 16, 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(60):
        model(pixel_values=pixels, input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size=SIZE), tokenizer).save_pretrained(folder)
    return folder


LABELS = {0: "mug", 1: "tabby, tabby_cat", 2: "moon"}


def build_classifier(folder, kind="vit"):
    """A ViT, or a residual network, that is sure that it sees the second class."""
    labels = {"id2label": LABELS, "label2id": {name: index for index, name in LABELS.items()}}
    if kind == "vit":
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, **sizes, **labels))
        last = model.classifier
    else:
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", **labels)
        model = ResNetForImageClassification(config)
        last = model.classifier[1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, 3.0, 0.0]))
    model.save_pretrained(folder)
    ViTImageProcessor(size=SIZE).save_pretrained(folder)
    return folder
