"""Captioners and CLIPs that see with a residual network: they are those of transformers but for what they see with."""

import pytest
import torch
from PIL import Image
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    CLIPConfig,
    CLIPModel,
    ResNetConfig,
    ResNetForImageClassification,
)

from sentinv.errors import ModelError
from sentinv.evaluation.judges import ClipJudge
from sentinv.initializers.caption import Caption
from sentinv.models.eyes import residual
from sentinv.models.residual import Places, ResidualBlip, ResidualClip

RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = SMALL | {"image_size": 16, "patch_size": 8}


def test_places_are_those_of_the_last_map():
    torch.manual_seed(0)
    network = ResNetForImageClassification(ResNetConfig(**RESNET)).eval()
    places = Places(RESNET).eval()
    places.resnet.load_state_dict(network.resnet.state_dict())
    pictures = torch.randn(2, 3, 64, 64)
    seen, maps = places(pictures), network(pictures, output_hidden_states=True).hidden_states[-1]
    assert maps.shape == (2, 16, 8, 8) and seen.last_hidden_state.shape == (2, 64, 16)
    assert torch.equal(seen.last_hidden_state[:, 8 * 3 + 5], maps[:, :, 3, 5])
    assert torch.allclose(seen.pooler_output, maps.mean((2, 3)), atol=1e-6)


@pytest.fixture
def captioner(tmp_path):
    """A folder with a captioner that sees with a residual network, under the processor of an ordinary one."""
    from seeing import build_captioner

    folder = build_captioner(tmp_path / "captioner")
    text = BlipForConditionalGeneration.from_pretrained(folder).config.text_config.to_dict()
    config = BlipConfig(text_config=text | {"encoder_hidden_size": 16}, vision_config=VISION, resnet=RESNET)
    torch.manual_seed(1)
    ResidualBlip(config).save_pretrained(folder)
    return folder


def test_a_residual_captioner_is_read_from_its_folder_and_trains(captioner):
    assert residual(BlipForConditionalGeneration, str(captioner)) is ResidualBlip
    said = Caption(str(captioner), device="cpu")
    first = said(Image.new("RGB", (32, 32), "red"))
    assert said.several([Image.new("RGB", (32, 32), "red")])[0] == first and first.source == "caption"
    model, _ = said._loaded
    model.train().requires_grad_(True)
    ids = torch.tensor([[1, 3, 4, 2]])
    model(pixel_values=torch.randn(1, 3, 32, 32), input_ids=ids, labels=ids).loss.backward()
    gradient = model.vision_model.resnet.embedder.embedder.convolution.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_a_residual_clip_is_read_from_its_folder(measuring, tmp_path):
    ordinary = measuring.judge
    config = CLIPConfig(
        text_config=ordinary.model.config.text_config.to_dict(), vision_config=VISION, projection_dim=12, resnet=RESNET
    )
    torch.manual_seed(2)
    model = ResidualClip(config).eval()
    model.save_pretrained(tmp_path)
    ordinary.processor.save_pretrained(tmp_path)
    read = ClipJudge.load(str(tmp_path))
    assert isinstance(read.model, ResidualClip)
    pixels = read.processor(images=[Image.new("RGB", (16, 16), "blue")], return_tensors="pt").pixel_values
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(model.visual_projection(model.vision_model(pixels).pooler_output), dim=1)
    assert torch.allclose(read.images([Image.new("RGB", (16, 16), "blue")]), wanted, atol=1e-6)
    assert read.texts(["a cat"]).shape == (1, 12)


def test_missing_weights_of_what_it_sees_with_are_told(captioner):
    from safetensors.torch import load_file, save_file

    weights = load_file(captioner / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "resnet.encoder" not in name}
    save_file(kept, captioner / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="captioner"):
        Caption(str(captioner), device="cpu")(Image.new("RGB", (16, 16)))


def test_other_folders_are_read_as_ever(tmp_path):
    assert residual(CLIPModel, str(tmp_path)) is CLIPModel
    assert residual(CLIPModel, "openai/clip-vit-base-patch32") is CLIPModel
    (tmp_path / "config.json").write_text("{")
    assert residual(CLIPModel, str(tmp_path)) is CLIPModel
