"""Tiny pipelines of the real classes with random weights, and pictures to train on."""

import copy
import json

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    LDMTextToImagePipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    VQModel,
)
from diffusers.pipelines.latent_diffusion import LDMBertModel
from judging import build_judge, write_concepts
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import BertTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sentinv.bench.concepts import read_concepts
from sentinv.bench.measuring import Measuring
from sentinv.generation.generate import GenerateConfig
from sentinv.models.backbone import Backbone

WORDS = """a photo of the rendering cropped clean dirty dark my cool close up bright good one rendition nice small
weird large painting in style picture cat dog rainbow striped tail mug red blue moon on""".split()

FAMILIES = ("ldm", "sd1", "sd2")
"""Kinds of models that are tested alike: latent diffusion, Stable Diffusion 1, and 2 with v-prediction."""


def build_tokenizer(folder):
    """A real byte-level BPE tokenizer: every byte, and merges that make each of WORDS one token."""
    letters = sorted(ByteLevel.alphabet())
    vocabulary = letters + [letter + "</w>" for letter in letters]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            if (parts[0], parts[1]) not in merges:
                merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            if parts[0] not in vocabulary:
                vocabulary.append(parts[0])
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)}, merges=merges, model_max_length=40
    )
    tokenizer.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def build_text_config(tokenizer, width, **options):
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=40,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **{"eos_token_id": tokenizer.eos_token_id, "projection_dim": 16, **options},
    )


def build_unet(cross_attention_dim, **options):
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=cross_attention_dim,
        **options,
    )


def build_vae():
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.31,
    )


def build_vqvae():
    return VQModel(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        num_vq_embeddings=32,
        scaling_factor=0.31,
    )


def build_scheduler(prediction_type, **options):
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type=prediction_type,
        **{"set_alpha_to_one": False, "steps_offset": 1, **options},
    )


def build_pipeline(tokenizer, width, prediction_type):
    torch.manual_seed(width)
    return StableDiffusionPipeline(
        vae=build_vae(),
        text_encoder=CLIPTextModel(build_text_config(tokenizer, width)),
        tokenizer=tokenizer,
        unet=build_unet(width),
        scheduler=build_scheduler(prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def build_bert_tokenizer(folder):
    """A real WordPiece tokenizer: every letter, at the beginning of a word and inside, and each of WORDS."""
    letters = sorted(ByteLevel.alphabet())
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*special, *letters, *(f"##{letter}" for letter in letters), *(w for w in WORDS if len(w) > 1)]
    tokenizer = BertTokenizer(vocab={token: index for index, token in enumerate(vocabulary)}, model_max_length=512)
    tokenizer.save_pretrained(folder)
    return BertTokenizer.from_pretrained(folder)


def build_ldm(tokenizer, autoencoder=build_vae):
    torch.manual_seed(7)
    text = LDMBertModel.config_class(
        vocab_size=len(tokenizer),
        encoder_layers=2,
        encoder_ffn_dim=32,
        encoder_attention_heads=2,
        head_dim=8,
        d_model=16,
        pad_token_id=tokenizer.pad_token_id,
        init_std=0.3,
    )
    return LDMTextToImagePipeline(
        vqvae=autoencoder(),
        bert=LDMBertModel(text).eval(),
        tokenizer=tokenizer,
        unet=build_unet(16),
        scheduler=build_scheduler("epsilon", set_alpha_to_one=True, steps_offset=0),  # as that family has them
    )


@pytest.fixture(scope="session", autouse=True)
def _few_threads():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def bert_tokenizer(tmp_path_factory):
    return build_bert_tokenizer(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def _pipelines(tokenizer, bert_tokenizer):
    return {
        "ldm": build_ldm(bert_tokenizer),
        "sd1": build_pipeline(tokenizer, 16, "epsilon"),
        "sd2": build_pipeline(tokenizer, 24, "v_prediction"),
    }


def copied(pipeline):
    parts = {name: copy.deepcopy(part) for name, part in pipeline.components.items()}
    extra = {"requires_safety_checker": False} if isinstance(pipeline, StableDiffusionPipeline) else {}
    pipeline = type(pipeline)(**parts, **extra)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(params=["sd1", "sd2"])
def family(request):
    """Stable Diffusion 1 and 2; test files that are about all FAMILIES have a fixture of this name."""
    return request.param


@pytest.fixture
def pipeline(family, _pipelines):
    """A pipeline of its own for each test, once of each family."""
    return copied(_pipelines[family])


@pytest.fixture
def ldm(_pipelines):
    return copied(_pipelines["ldm"])


@pytest.fixture
def sd1(_pipelines):
    return copied(_pipelines["sd1"])


@pytest.fixture
def backbone(pipeline):
    return Backbone.from_pipeline(pipeline, "tiny")


@pytest.fixture
def sd1_backbone(sd1):
    return Backbone.from_pipeline(sd1, "tiny")


def build_xl(tokenizer, widths=(16, 24)):
    torch.manual_seed(1)
    unet = build_unet(
        sum(widths),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 12,
    )
    first = CLIPTextModel(build_text_config(tokenizer, widths[0]))
    second = CLIPTextModelWithProjection(build_text_config(tokenizer, widths[1], projection_dim=12))
    pipeline = StableDiffusionXLPipeline(
        vae=build_vae(),
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=copy.deepcopy(tokenizer),
        tokenizer_2=copy.deepcopy(tokenizer),
        unet=unet,
        scheduler=build_scheduler("epsilon"),
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def xl(tokenizer):
    return build_xl(tokenizer)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tokenizer):
    """A folder with a tiny pipeline, as --model takes it."""
    folder = tmp_path_factory.mktemp("model")
    build_pipeline(tokenizer, 16, "epsilon").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def picture():
    """A 24 × 20 picture with something in it."""
    generator = torch.Generator().manual_seed(3)
    coarse = (torch.rand(5, 6, 3, generator=generator) * 255).to(torch.uint8).numpy()
    return Image.fromarray(coarse).resize((24, 20), Image.Resampling.BICUBIC)


def snapshot(backbone):
    """Every bit that must be the same after training: weights, tokenizers, printed modules."""
    parts = backbone._modules()
    weights = [{name: value.clone() for name, value in part.state_dict().items()} for part in parts]
    tokenizers = [json.dumps(encoder.tokenizer.get_vocab(), sort_keys=True) for encoder in backbone.text_encoders]
    tables = [encoder.table for encoder in backbone.text_encoders]
    return (
        weights,
        tokenizers,
        [repr(part) for part in parts],
        [repr(e.tokenizer) for e in backbone.text_encoders],
        tables,
    )


def same(before, after):
    equal = all(
        first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
        for first, second in zip(before[0], after[0], strict=True)
    )
    return equal and before[1:4] == after[1:4] and all(a is b for a, b in zip(before[4], after[4], strict=True))


@pytest.fixture(scope="session")
def measuring(tokenizer):
    """How studies measure: two images of one step, by a tiny CLIP."""
    return Measuring(judge=build_judge(tokenizer), lpips=None, count=2, sampling=GenerateConfig(steps=1))


@pytest.fixture
def concepts(tmp_path):
    """Two things that studies learn."""
    return read_concepts(write_concepts(tmp_path / "concepts"))
