"""Which models are taken for what they are, and which are refused: by configs as their publishers wrote them."""

import json
from pathlib import Path

import pytest
import torch
from conftest import copied
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDPMScheduler,
    EDMDPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UNet2DConditionModel,
)

from sentinv.errors import ModelError
from sentinv.models.backbone import Backbone
from sentinv.models.check import CLASSES, check_files, check_model
from sentinv.models.distilled import own_guidance
from sentinv.models.folders import describe_folder
from sentinv.models.loading import load
from sentinv.models.names import SUPPORTED

CONFIGS = Path(__file__).parent / "configs"
FILES = {"model_index": "model_index.json", "scheduler": "scheduler/scheduler_config.json"}


def published(name):
    return json.loads((CONFIGS / f"{name}.json").read_text())


@pytest.fixture
def folder(tmp_path, tokenizer):
    """A function that lays a model's configs out as its repository does, without any weights."""

    def write(model):
        for part, config in model.items():
            path = tmp_path / FILES.get(part, f"{part}/config.json")
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(config))
        for part in ("tokenizer", "tokenizer_2"):
            tokenizer.save_pretrained(tmp_path / part)
        return str(tmp_path)

    return write


def judged(source):
    model = describe_folder("it", source)
    check_model(model)
    check_files(model)
    return model


GONE = object()


@pytest.mark.parametrize(
    ("name", "part", "field", "value", "why"),
    [
        ("sdxl", "vae", "scaling_factor", GONE, "the autoencoder's config does not say its scaling_factor"),
        ("sdxl", "unet", "attention_head_dim", GONE, "the unet's config does not say its attention_head_dim"),
        ("sd21", "unet", "sample_size", GONE, "the unet's config does not say its sample_size"),
        (
            "sd21",
            "text_encoder",
            "num_attention_heads",
            GONE,
            "the text_encoder's config does not say its num_attention_heads",
        ),
        ("sd21", "text_encoder", "hidden_act", GONE, "the text_encoder's config does not say its hidden_act"),
        ("sd15", "unet", "sample_size", None, "sample_size None, expected whole numbers"),
        ("sd15", "unet", "cross_attention_dim", None, "cross_attention_dim None, expected whole numbers"),
        ("sd15", "unet", "in_channels", "4", "in_channels '4', expected a whole number"),
        ("sd15", "unet", "in_channels", True, "in_channels True, expected a whole number"),
        (
            "sd15",
            "unet",
            "_class_name",
            "UNetMotionModel",
            "expected a unet of class UNet2DConditionModel, got UNetMotionModel",
        ),
        ("sd15", "scheduler", "num_train_timesteps", None, "num_train_timesteps None, expected a whole number"),
        ("sd15", "scheduler", "steps_offset", None, "steps_offset None, expected a whole number"),
        ("sd15", "scheduler", "trained_betas", [], r"trained_betas \[\], expected a list of numbers"),
        ("sd15", "scheduler", "beta_start", "0.00085", "beta_start '0.00085', expected a number between 0 and 1"),
        ("sd15", "scheduler", "beta_end", 12, "beta_end 12, expected a number between 0 and 1"),
        ("sd15", "vae", "scaling_factor", None, "scaling_factor None, expected a number above 0"),
        ("sd15", "vae", "scaling_factor", "0.18", "scaling_factor '0.18', expected a number above 0"),
        ("sd15", "vae", "scaling_factor", 0, "scaling_factor 0, expected a number above 0"),
        ("sd15", "vae", "scaling_factor", float("nan"), "scaling_factor nan, expected a number above 0"),
        ("sd15", "vae", "latents_mean", [0.1] * 4, "got 4 of latents_mean and 0 of latents_std"),
        ("sd15", "vae", "latents_std", [0.1] * 3, "got 0 of latents_mean and 3 of latents_std"),
    ],
)
def test_what_a_library_would_fill_in_or_fall_over_is_named(folder, name, part, field, value, why):
    configs = published(name)
    configs[part] = {key: one for key, one in {**configs[part], field: value}.items() if one is not GONE}
    with pytest.raises(ModelError, match=why):
        judged(folder(configs))


def test_a_prediction_type_of_null_is_asked_for(tmp_path, sd1):
    sd1.save_pretrained(tmp_path)
    path = tmp_path / FILES["scheduler"]
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": None}))
    assert load(tmp_path, device="cpu").schedule.config["prediction_type"] in ("epsilon", "v_prediction")


def test_layers_of_a_text_encoder_that_its_config_has_not_are_refused(tmp_path, sd1):
    sd1.save_pretrained(tmp_path)
    path = tmp_path / "text_encoder/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "num_hidden_layers": config["num_hidden_layers"] - 1}))
    with pytest.raises(ModelError, match=r"cannot load text_encoder .*layers\.1\..* without a place in it"):
        load(tmp_path, device="cpu")


@pytest.mark.parametrize(
    "name", ["sd15", "sd21", "sd21-base", "sdxl", "xl-v-zero-snr", "lcm-merged", "sdxl-turbo", "sd-turbo"]
)
def test_published_models_are_taken(folder, name):
    judged(folder(published(name)))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("playground25", "got EDMDPMSolverMultistepScheduler: models of other noise processes"),
        ("cosxl", "got EDMEulerScheduler: models of other noise processes"),
        ("cosxl-euler", "got EulerDiscreteScheduler with sigma_max 120.0: models of other noise processes"),
        (
            "lcm-dreamshaper",
            "got LatentConsistencyModelPipeline: latent consistency models take their guidance as an input",
        ),
        ("inpainting", "got StableDiffusionInpaintPipeline: models for inpainting are not supported"),
        ("pix2pix", "got StableDiffusionInstructPix2PixPipeline: choose another model"),
        ("x4-upscaler", "got StableDiffusionUpscalePipeline: choose another model"),
        ("sdxl-refiner", "got StableDiffusionXLImg2ImgPipeline: that is the refiner"),
    ],
)
def test_published_models_of_other_kinds_are_refused(folder, name, line):
    with pytest.raises(ModelError, match=line) as error:
        load(folder(published(name)), device="cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "lcm-dreamshaper",
            "the unet's config has time_cond_proj_dim 256, expected none: that is a latent consistency model",
        ),
        ("inpainting", "takes the 4 channels of its latents, got one with 9: models for inpainting"),
        ("pix2pix", "takes the 4 channels of its latents, got one with 8: models for inpainting or other inputs"),
        ("x4-upscaler", "the unet's config has num_class_embeds 1000, expected none"),
    ],
)
def test_configs_tell_where_the_name_of_the_pipeline_does_not(folder, name, line):
    model = published(name)
    model["model_index"]["_class_name"] = "StableDiffusionPipeline"
    with pytest.raises(ModelError, match=line):
        judged(folder(model))


UNET = [
    ("encoder_hid_dim_type", "text_image_proj"),
    ("encoder_hid_dim", 1024),
    ("class_embed_type", "projection"),
    ("class_embed_type", "simple_projection"),
    ("addition_embed_type", "image"),
    ("addition_embed_type", "text"),
    ("attention_type", "gated"),
    ("center_input_sample", True),
    ("class_embeddings_concat", True),
    ("time_cond_proj_dim", 32),
    ("num_class_embeds", 10),
    ("use_motion_module", True),
    ("motion_max_seq_length", 32),
    ("a_field_of_tomorrow", [1, 2]),
    ("out_channels", 8),
]
SCHEDULER = [
    ("clip_sample", True),
    ("thresholding", True),
    ("use_flow_sigmas", True),
    ("timestep_type", "continuous"),
    ("sigma_max", 700.0),
    ("beta_schedule", "sigmoid"),
    ("beta_schedule", "laplace"),
    ("beta_start", None),
    ("timestep_spacing", "karras"),
    ("snr_shift_scale", 3.0),
    ("a_field_of_tomorrow", 2),
    ("_class_name", "CogVideoXDDIMScheduler"),
    ("_class_name", "FlowMatchEulerDiscreteScheduler"),
    ("_class_name", "VQDiffusionScheduler"),
    ("_class_name", "MyScheduler"),
]
VAE = [
    ("_class_name", "AutoencoderTiny"),
    ("_class_name", "ConsistencyDecoderVAE"),
    ("_class_name", "AsymmetricAutoencoderKL"),
    ("_class_name", "AutoencoderKLTemporalDecoder"),
    ("in_channels", 4),
    ("out_channels", 4),
    ("latent_channels", 16),
    ("use_tiling_of_tomorrow", True),
]
FAULTS = [(part, *one) for part, faults in (("unet", UNET), ("scheduler", SCHEDULER), ("vae", VAE)) for one in faults]


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
@pytest.mark.parametrize(("part", "field", "value"), FAULTS)
def test_fields_that_change_what_is_needed_are_refused_by_name(folder, name, part, field, value):
    model = published(name)
    model[part][field] = value
    with pytest.raises(ModelError) as error:
        judged(folder(model))
    text = str(error.value)
    assert "\n" not in text
    if field not in ("out_channels", "latent_channels", "beta_start"):
        assert str(value) in text or field in text, text


TEXT = [
    ("hidden_act", "swish", "hidden_act swish, expected gelu or quick_gelu"),
    ("hidden_act", "relu", "hidden_act relu, expected gelu or quick_gelu"),
    ("num_attention_heads", 7, "num_attention_heads 7, expected a divisor of its hidden_size"),
    ("num_attention_heads", 0, "num_attention_heads 0, expected a divisor"),
    ("num_attention_heads", None, "num_attention_heads None, expected a divisor"),
    ("model_type", "clipseg", "model_type clipseg, expected clip or clip_text_model"),
    ("model_type", "chinese_clip_text_model", "model_type chinese_clip_text_model, expected"),
    ("model_type", "t5", "expected a text_encoder"),
    ("architectures", ["T5EncoderModel"], "got T5EncoderModel: choose another model"),
    ("is_decoder", True, "is_decoder True"),
    ("add_cross_attention", True, "add_cross_attention True"),
    ("quantization_config", {"quant_method": "bitsandbytes"}, "has quantization_config"),
    ("return_dict", False, "return_dict False, expected True: set it to true there"),
    ("eos_token_id", None, "eos_token_id None, expected a number"),
    ("eos_token_id", [2, 49407], "expected a number"),
    ("transform_layer_of_tomorrow", 24, "has transform_layer_of_tomorrow, which is not known here"),
]


@pytest.mark.parametrize(("name", "part"), [("sd15", "text_encoder"), ("sdxl", "text_encoder_2")])
@pytest.mark.parametrize(("field", "value", "line"), TEXT)
def test_fields_of_text_encoders_are_refused_by_name(folder, name, part, field, value, line):
    model = published(name)
    model[part][field] = value
    with pytest.raises(ModelError) as error:
        judged(folder(model))
    said = str(error.value)
    assert line.replace("text_encoder", part) in said and "\n" not in said and "damaged" not in said


OLD_TEXT = {
    **{
        "return_dict": True,
        "max_length": 20,
        "length_penalty": 1.0,
        "id2label": {"0": "A"},
        "top_k": 50,
        "pruned_heads": {},
    },
    **{
        "tie_word_embeddings": True,
        "prefix": "x",
        "tokenizer_class": "CLIPTokenizer",
        "transformers_version": "4.21.0",
    },
}


def test_old_text_encoders_with_their_dozens_of_fields_are_taken(folder):
    model = published("sd15")
    model["text_encoder"] |= OLD_TEXT | {"eos_token_id": 49407}
    judged(folder(model))
    whole = {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "text_config": model["text_encoder"],
        "projection_dim": 768,
    }
    judged(folder(model | {"text_encoder": whole}))
    whole["text_config"] |= {"hidden_act": "swish"}
    with pytest.raises(ModelError, match="hidden_act swish"):
        judged(folder(model | {"text_encoder": whole}))


def test_the_end_of_a_prompt_is_looked_for_where_it_is(folder, xl):
    """Where no token is the one that is looked for, the first is taken, whose embedding says nothing."""
    model = published("sdxl")
    model["text_encoder_2"]["eos_token_id"] = 49407
    with pytest.raises(
        ModelError, match="looks for the end of a prompt at token 49407, its tokenizer puts 629 there: set"
    ):
        judged(folder(model))
    xl.text_encoder_2.config.eos_token_id = 7
    with pytest.raises(ModelError, match="looks for the end of a prompt at token 7"):
        Backbone.from_pipeline(xl, "tiny")


@pytest.mark.parametrize("field", ["beta_start", "beta_end", "beta_schedule"])
def test_betas_are_never_filled_in(folder, field):
    """Such a config means the class's own betas to diffusers, which are no Stable Diffusion's."""
    model = published("sd15")
    del model["scheduler"][field]
    if field == "beta_schedule":
        with pytest.raises(ModelError, match="does not say its beta_schedule"):
            judged(folder(model))
    else:
        with pytest.raises(ModelError, match="got PNDMScheduler without them"):
            judged(folder(model))


@pytest.mark.parametrize(
    ("part", "found", "line"),
    [
        (
            "unet",
            ["diffusers", "UNet3DConditionModel"],
            "expected a unet of class UNet2DConditionModel, got UNet3DCond",
        ),
        ("unet", ["my_module", "MyUNet"], "got MyUNet"),
        ("vae", ["diffusers", "AutoencoderTiny"], "expected a vae of class AutoencoderKL, got AutoencoderTiny"),
        ("text_encoder", ["transformers", "T5EncoderModel"], "expected a text_encoder of class CLIPTextModel, got T5"),
        ("text_encoder", ["transformers", "ChineseCLIPTextModel"], "got ChineseCLIPTextModel"),
        ("text_encoder", ["alt_diffusion", "RobertaSeriesModelWithTransformation"], "got RobertaSeries"),
        ("tokenizer", ["transformers", "XLMRobertaTokenizer"], "got XLMRobertaTokenizer"),
        ("vae", [None, None], "it has no vae, says its model_index.json: give one with --vae"),
        ("text_encoder", [None, None], "it has no text_encoder, says its model_index.json; give a whole model"),
        ("unet", [None, None], "it has no unet"),
        ("_class_name", ["pipeline", "MyPipeline"], "got .'pipeline', 'MyPipeline'.: choose another model"),
    ],
)
def test_classes_in_the_index_are_looked_at(folder, part, found, line):
    model = published("sd15")
    model["model_index"][part] = found
    with pytest.raises(ModelError, match=line):
        judged(folder(model))


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {"architectures": ["T5EncoderModel"], "model_type": "t5"},
            "expected a text_encoder of class CLIPTextModel, got T5",
        ),
        ({"architectures": ["ChineseCLIPModel"], "model_type": "chinese_clip"}, "got ChineseCLIPModel"),
        (
            {"hidden_size": 1024, "num_attention_heads": 16},
            "expected text encoders of width 768 together, as the UNet takes them, got 1024",
        ),
        ({"vocab_size": 300}, "the tokenizer of text_encoder has 630 words, and the text encoder rows for 300"),
    ],
)
def test_text_encoders_that_are_another(folder, changed, line):
    model = published("sd15")
    model["text_encoder"] |= changed
    with pytest.raises(ModelError, match=line):
        judged(folder(model))


@pytest.mark.parametrize(
    "extra",
    [
        {"unet": {"decay": 0.9999, "optimization_step": 15000, "update_after_step": 0, "use_ema_warmup": True}},
        {"unet": {"_name_or_path": "/home/somebody/unet", "dual_cross_attention": False, "a_field_of_tomorrow": None}},
        {"vae": {"shift_factor": None, "use_quant_conv": True, "mid_block_add_attention": True, "force_upcast": False}},
        {"scheduler": {"use_karras_sigmas": True, "algorithm_type": "dpmsolver++", "solver_order": 2, "variance_type": None}},
        {"scheduler": {"_class_name": "DPMSolverMultistepScheduler", "lower_order_final": True, "lambda_min_clipped": 0}},
        {"scheduler": {"_class_name": "UniPCMultistepScheduler", "predict_x0": True, "solver_type": "bh2"}},
        {"scheduler": {"_class_name": "DDPMScheduler", "variance_type": "fixed_small", "clip_sample_range": 1.0}},
        {"scheduler": {"timestep_values": None, "trained_betas": None}},
    ],
)  # fmt: skip
def test_what_changes_nothing_is_welcome(folder, extra):
    model = published("sd15")
    for part, fields in extra.items():
        model[part] |= fields
    judged(folder(model))


@pytest.mark.parametrize(
    ("name", "called", "guidance", "said"),
    [
        ("sd15", "sd15", 7.5, None),
        ("sdxl", "sdxl", 7.5, None),
        ("sd21", "somebody/hyperreal-turbine", 7.5, None),
        ("sdxl-turbo", "my-model", 1.0, "for 512 pixels with trailing steps, as Turbo is"),
        ("lcm-merged", "my-model", 1.0, "its scheduler is LCMScheduler"),
        ("sd-turbo", "stabilityai/sd-turbo", 1.0, "its name says 'turbo'"),
        ("sd-turbo", "my-model", 7.5, "may be a model of few steps"),
        ("sdxl", "ByteDance/SDXL-Lightning", 1.0, "its name says 'Lightning'"),
        ("sdxl", "dreamshaperXL_lightningDPMSDE.safetensors", 1.0, "lightning"),
        ("sdxl", "a/b/Hyper-SDXL-8steps-CFG", 1.0, "Hyper"),
        ("sdxl", "tianweiy/DMD2", 1.0, "DMD2"),
        ("sdxl", "sdxl-lcm", 1.0, "lcm"),
        ("sdxl", "turbo/juggernaut-x", 7.5, None),
        ("xl-v-zero-snr", "noob", 7.5, None),
    ],
)
def test_guidance_of_models_of_few_steps(folder, recwarn, name, called, guidance, said):
    model = published(name)
    assert own_guidance(called, model["unet"], model["scheduler"]) == guidance
    told = [str(one.message) for one in recwarn if "few steps" in str(one.message)]
    assert (said is None) == (not told) and all(said in text for text in told)


# Pipelines that were handed over


def test_a_pipeline_is_judged_as_a_folder_is(sd1):
    backbone = Backbone.from_pipeline(sd1, "tiny")
    for scheduler in (
        EDMDPMSolverMultistepScheduler(),
        EulerDiscreteScheduler(
            beta_schedule="scaled_linear", timestep_type="continuous", prediction_type="v_prediction"
        ),
        DDPMScheduler(beta_schedule="sigmoid"),
        DDPMScheduler(beta_schedule="scaled_linear", clip_sample=True),
    ):
        with pytest.raises(ModelError, match="tiny: "):
            Backbone("tiny", sd1.unet, sd1.vae, backbone.text_encoders, scheduler)


@pytest.mark.parametrize(
    ("field", "value"), [("encoder_hid_dim_type", "text_proj"), ("time_cond_proj_dim", 8), ("attention_type", "gated")]
)
def test_a_unet_that_needs_more_is_refused_in_a_pipeline(sd1, field, value):
    sd1.unet.register_to_config(**{field: value})
    with pytest.raises(ModelError, match=f"{field} {value}"):
        Backbone.from_pipeline(sd1, "tiny")


def test_parts_of_other_classes_are_refused_in_a_pipeline(sd1):
    sd1.vae = AutoencoderTiny()
    with pytest.raises(ModelError, match="got AutoencoderTiny"):
        Backbone.from_pipeline(sd1, "tiny")


def test_a_refiner_is_told_in_a_pipeline(xl):
    config = {**xl.unet.config, "projection_class_embeddings_input_dim": 12 + 5 * 8}
    xl.unet = UNet2DConditionModel.from_config(config)
    with pytest.raises(ModelError, match="that is a refiner, which is told a score"):
        Backbone.from_pipeline(xl, "tiny")


def test_a_text_encoder_too_few_is_told_in_a_pipeline(xl):
    xl.text_encoder_2 = None
    with pytest.raises(ModelError, match="expected text encoders of width 40 together, as the UNet takes them, got 16"):
        Backbone.from_pipeline(xl, "tiny")


def test_weights_that_cannot_be_used_are_told_in_a_pipeline(sd1):
    with torch.device("meta"):
        sd1.unet = UNet2DConditionModel.from_config(sd1.unet.config)
    with pytest.raises(ModelError, match=r"cannot load UNet2DConditionModel of tiny: \d+ weights .* are missing"):
        Backbone.from_pipeline(sd1, "tiny")


def test_quantised_weights_are_told_in_a_pipeline(_pipelines):
    pipeline = copied(_pipelines["sd1"])
    pipeline.unet.to(torch.float8_e4m3fn)
    with pytest.raises(ModelError, match="got float8_e4m3fn in UNet2DConditionModel: quantised models"):
        Backbone.from_pipeline(pipeline, "tiny")


def test_a_compiled_unet_is_welcome(sd1):
    wanted = Backbone.from_pipeline(copied(sd1), "tiny").schedule.alphas_cumprod
    sd1.unet = torch.compile(sd1.unet)
    assert torch.equal(Backbone.from_pipeline(sd1, "tiny").schedule.alphas_cumprod, wanted)


@pytest.mark.parametrize(("said", "upcast"), [(None, False), (True, True), (False, False)])
def test_an_autoencoder_runs_in_float32_only_where_its_config_says_so(sd1, said, upcast):
    """The class's default is true, which no publisher of Stable Diffusion 1 ever wrote."""
    config = {
        name: value for name, value in sd1.vae.config.items() if name not in ("force_upcast", "_use_default_values")
    }
    sd1.vae = AutoencoderKL.from_config(config | ({} if said is None else {"force_upcast": said}))
    assert sd1.vae.config.force_upcast is (said is not False)
    backbone = Backbone.from_pipeline(sd1.to(torch.float16), "tiny")
    with backbone._vae_dtype() as dtype:
        assert dtype == (torch.float32 if upcast else torch.float16)


def test_every_supported_pipeline_has_its_classes_listed():
    assert all(part in CLASSES for parts in SUPPORTED.values() for part in parts)
