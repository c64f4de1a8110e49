"""Weights that are missing never become random numbers; half precision is read where it is wanted; --vae."""

# ruff: noqa: E501 - a case is one line here

import json
import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import original
from click.testing import CliRunner
from conftest import build_pipeline, build_vae
from judging import build_judge
from PIL import Image
from safetensors.torch import load_file, save_file
from seeing import build_captioner, build_classifier

from sentinv.cli.main import cli
from sentinv.errors import ModelError
from sentinv.evaluation.judges import AttributeJudge, ClipJudge
from sentinv.initializers.caption import Caption
from sentinv.initializers.class_ import ClassLabel
from sentinv.models import eyes
from sentinv.models.backbone import Backbone
from sentinv.models.loading import load
from sentinv.models.names import Place
from sentinv.training.config import TrainConfig
from sentinv.training.memory import training_memory

IMAGE = Image.new("RGB", (32, 24), "teal")


def without(file, *parts):
    """Take weights out of a file; answer how many there were."""
    weights = load_file(file)
    kept = {key: value for key, value in weights.items() if not any(part in key for part in parts)}
    save_file(kept, file, {"format": "pt"})
    return len(weights) - len(kept)


@pytest.fixture
def folder(model_folder, tmp_path):
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


FILES = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.mark.parametrize(
    ("part", "lost"),
    [
        ("unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"),
        ("unet", "conv_in"),
        ("unet", "time_embedding.linear_2.bias"),
        ("vae", "decoder.conv_out.bias"),
        ("vae", "quant_conv"),
        ("vae", "encoder.mid_block.attentions.0.to_q.weight"),
        ("text_encoder", "layers.1."),
        ("text_encoder", "token_embedding"),
        ("text_encoder", "final_layer_norm.weight"),
        ("text_encoder", "position_embedding"),
    ],
)
def test_missing_weights_of_a_folder_are_told(folder, part, lost):
    count = without(folder / part / f"{FILES[part]}.safetensors", lost)
    assert count
    with pytest.raises(ModelError) as error:
        load(folder, device="cpu")
    which = r"the weight" if count == 1 else f"{count} weights"
    assert str(error.value).startswith(f"cannot load {part} of {folder}: {which}") and "missing; the model" in str(
        error.value
    )
    assert "\n" not in str(error.value)


def test_missing_weights_of_a_second_text_encoder_are_told(xl, tmp_path):
    xl.save_pretrained(tmp_path)
    without(tmp_path / "text_encoder_2" / "model.safetensors", "text_projection")
    with pytest.raises(ModelError, match=r"text_encoder_2 of .*text_projection.weight is missing"):
        load(tmp_path, device="cpu")


def test_missing_weights_of_latent_diffusion_are_told(ldm, tmp_path):
    ldm.save_pretrained(tmp_path)
    without(tmp_path / "bert" / "model.safetensors", "layers.1.fc1")
    with pytest.raises(ModelError, match=r"bert of .*2 weights \(.*fc1.* are missing"):
        load(tmp_path, device="cpu")


@pytest.mark.parametrize(("part", "field", "value"), [("unet", "layers_per_block", 2), ("vae", "layers_per_block", 2), ("text_encoder", "num_hidden_layers", 3)])  # fmt: skip
def test_a_config_that_asks_for_more_than_there_is(folder, part, field, value):
    path = folder / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ModelError, match=f"cannot load {part} of .* (missing|belong together|damaged)"):
        load(folder, device="cpu")


@pytest.mark.parametrize(("part", "field", "value"), [("unet", "down_block_types", ["DownBlock2D", "DownBlock2D"]), ("vae", "use_quant_conv", False)])  # fmt: skip
def test_a_config_that_leaves_weights_without_a_place(folder, part, field, value):
    path = folder / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ModelError, match=f"cannot load {part} of .* without a place in it"):
        load(folder, device="cpu")


@pytest.mark.parametrize(("part", "field", "value"), [("unet", "norm_num_groups", 2), ("text_encoder", "intermediate_size", 48), ("unet", "block_out_channels", [8, 24])])  # fmt: skip
def test_a_config_of_other_sizes(folder, part, field, value):
    path = folder / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    if field == "norm_num_groups":
        load(folder, device="cpu")  # a size of no weight
        return
    with pytest.raises(ModelError, match=f"cannot load {part} of ") as error:
        load(folder, device="cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_truncated_file_is_told_in_one_line(folder, part):
    file = folder / part / f"{FILES[part]}.safetensors"
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(ModelError, match=f"cannot load {part} of ") as error:
        load(folder, device="cpu")
    assert "\n" not in str(error.value)


def test_weights_under_the_names_of_older_diffusers_are_all_there(folder):
    """The autoencoders of Stable Diffusion 1 name their attention query, key, value and proj_attn."""
    wanted = load(folder, device="cpu")
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(file)
    for new, name in old.items():
        weights = {key.replace(f"attentions.0.{new}", f"attentions.0.{name}"): value for key, value in weights.items()}
    save_file(weights, file, {"format": "pt"})
    assert load(folder, device="cpu").fingerprint == wanted.fingerprint


def test_positions_and_a_picture_tower_too_many_are_no_fault(folder):
    file = folder / "text_encoder" / "model.safetensors"
    more = {
        "text_model.embeddings.position_ids": torch.arange(40)[None],
        "vision_model.pre_layrnorm.bias": torch.ones(3),
    }
    save_file({**load_file(file), **more}, file, {"format": "pt"})
    load(folder, device="cpu")


# Models that look at pictures


@pytest.mark.parametrize(
    ("build", "make", "lost", "part"),
    [
        (build_captioner, Caption, "text_decoder.bert.encoder.layer.0.output", "captioner"),
        (build_captioner, Caption, "vision_model.encoder", "captioner"),
        (build_captioner, Caption, "text_decoder.cls.predictions.transform", "captioner"),
        (build_classifier, ClassLabel, "classifier.", "classifier"),
        (build_classifier, ClassLabel, "layernorm", "classifier"),
        (build_classifier, AttributeJudge.load, "classifier.", "judge"),
    ],
)
def test_missing_weights_of_models_that_look_are_told(tmp_path, build, make, lost, part):
    where = build(tmp_path)
    assert without(tmp_path / "model.safetensors", lost)
    with pytest.raises(ModelError, match=f"cannot load {part} of .*missing; the model is incomplete"):
        made = make(str(where))
        made(IMAGE)


def test_missing_weights_of_clip_are_told(tokenizer, tmp_path):
    judge = build_judge(tokenizer)
    judge.model.save_pretrained(tmp_path)
    judge.processor.save_pretrained(tmp_path)
    assert ClipJudge.load(str(tmp_path)).digest == judge.digest
    without(tmp_path / "model.safetensors", "visual_projection")
    with pytest.raises(ModelError, match=r"cannot load CLIP of .*visual_projection.weight is missing"):
        ClipJudge.load(str(tmp_path))


@pytest.mark.parametrize(("build", "make"), [(build_captioner, Caption), (build_classifier, ClassLabel)])
def test_they_look_on_the_device_and_leave_it(tmp_path, monkeypatch, build, make):
    seen = []
    plain = torch.nn.Module.to
    monkeypatch.setattr(
        torch.nn.Module, "to", lambda self, *to, **how: seen.append(str(to[0])) or plain(self, *to, **how)
    )
    looks = make(str(build(tmp_path)), device="cpu")
    assert looks._loaded
    seen.clear()
    looks(IMAGE)
    assert seen == ["cpu", "cpu"]
    with pytest.raises(ValueError, match="stop"), eyes.looking(torch.nn.Identity(), "meta") as device:
        assert device.type == "meta"
        raise ValueError("stop")
    assert seen[-2:] == ["meta", "cpu"]


@pytest.mark.parametrize(("make", "option"), [(Caption, "--phrase"), (ClassLabel, "--word")])
def test_offline_they_say_what_needs_none(monkeypatch, make, option):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("sentinv.models.parts._go_offline_if_unreachable", lambda: None)
    with pytest.raises(ModelError, match=f"cannot download .* the hub is out of reach; .*{option}, which needs no"):
        make("nobody/eye")(IMAGE)


# Half precision


@pytest.fixture
def both(tokenizer, tmp_path):
    """A folder with weights in full and in half precision, which differ here, to be told apart."""
    pipeline = build_pipeline(tokenizer, 16, "epsilon")
    pipeline.save_pretrained(tmp_path)
    with torch.no_grad():
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            next(part.parameters()).fill_(0.25)
    pipeline.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    return tmp_path


@pytest.mark.parametrize(("dtype", "half"), [(torch.float16, True), (torch.bfloat16, True), (torch.float32, False)])
def test_the_half_is_read_where_half_precision_is_wanted(both, dtype, half):
    backbone = load(both, device="cpu", dtype=dtype)
    for part in (backbone.unet, backbone.vae, backbone.text_encoders[0].model):
        first = next(part.parameters())
        assert (first == 0.25).all().item() is half and first.dtype == dtype


def test_the_half_is_asked_for_first_on_the_hub(monkeypatch, model_folder):
    """Where a repository has none, all of it is read."""
    from sentinv.models.weights import variants

    assert [one.get("variant") for one in variants("a/b", "unet", torch.bfloat16)] == ["fp16", None, None]
    assert [one.get("variant") for one in variants("a/b", "unet", torch.float32)] == [None, "fp16", None]
    assert load(model_folder, device="cpu", dtype=torch.float16).dtype == torch.float16


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_damaged_half_is_told_and_not_passed_over(both, part):
    file = both / part / f"{FILES[part]}.fp16.safetensors"
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(ModelError, match=f"cannot load {part} of"):
        load(both, device="cpu", dtype=torch.float16)


# --vae


@pytest.fixture
def other_vae():
    torch.manual_seed(77)
    return build_vae()


def same_vae(backbone, vae):
    weights = backbone.vae.state_dict()
    return all(torch.equal(value, weights[key]) for key, value in vae.state_dict().items())


@pytest.fixture
def on_the_hub(tmp_path, monkeypatch):
    """A function that puts folders where the hub's library keeps what it has downloaded; nothing else can be."""
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("sentinv.models.parts._go_offline_if_unreachable", lambda: None)

    def put(name, write):
        repository = cache / f"models--{name.replace('/', '--')}"
        write(repository / "snapshots" / ("0" * 40))
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)

    return put


def test_an_autoencoder_of_the_hub(folder, other_vae, on_the_hub):
    on_the_hub("somebody/vae", other_vae.save_pretrained)
    assert same_vae(load(folder, device="cpu", vae="somebody/vae"), other_vae)


def test_an_autoencoder_of_the_hub_offline_is_named(folder, on_the_hub):
    with pytest.raises(ModelError) as error:
        load(folder, device="cpu", vae="somebody/other-vae")
    said = str(error.value)
    assert (
        said.startswith("cannot download autoencoder of somebody/other-vae: the hub is out of reach")
        and "\n" not in said
    )


@pytest.mark.parametrize("kind", ["folder", "whole model", "file", "old file", "whole checkpoint"])
def test_an_autoencoder_that_is_given(folder, tokenizer, tmp_path, other_vae, kind):
    path = tmp_path / "other"
    pipeline = build_pipeline(tokenizer, 16, "epsilon")
    pipeline.vae = other_vae
    if kind == "folder":
        other_vae.save_pretrained(path)
    elif kind == "whole model":
        pipeline.save_pretrained(path)
    else:
        path = tmp_path / "vae.safetensors"
        weights = original(pipeline)
        first = {
            key.removeprefix("first_stage_model."): value for key, value in weights.items() if key.startswith("first")
        }
        save_file({"file": other_vae.state_dict(), "old file": first, "whole checkpoint": weights}[kind], path)
    backbone = load(folder, device="cpu", vae=path)
    assert same_vae(backbone, other_vae) and backbone.vae.config.scaling_factor == 0.31
    assert backbone.fingerprint != load(folder, device="cpu").fingerprint


def test_an_autoencoder_for_a_model_that_has_none(folder, other_vae, tmp_path):
    shutil.rmtree(folder / "vae")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"vae": [None, None]}))
    with pytest.raises(ModelError, match=r"has no vae, says its model_index.json: give one with --vae"):
        load(folder, device="cpu")
    with pytest.raises(ModelError, match="give one with --vae"):
        training_memory(Place(model=str(folder)), TrainConfig())
    other_vae.save_pretrained(tmp_path / "other")
    assert same_vae(load(folder, device="cpu", vae=tmp_path / "other"), other_vae)
    found = training_memory(Place(model=str(folder), vae=str(tmp_path / "other")), TrainConfig())
    assert found is not None and found["images"] > 0
    with pytest.raises(ModelError, match="expected --vae to be"):
        training_memory(Place(model=str(folder), vae="nonsense"), TrainConfig())


def test_a_scale_that_an_autoencoder_does_not_say_is_the_models(folder, other_vae, tmp_path):
    other_vae.save_pretrained(tmp_path / "other")
    path = tmp_path / "other" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in config.items() if key != "scaling_factor"}))
    assert load(folder, device="cpu", vae=tmp_path / "other").vae.config.scaling_factor == 0.31
    path.write_text(json.dumps(config | {"scaling_factor": 0.5}))
    with pytest.raises(ModelError, match=r"scaled by 0.5, the model's by 0.31: it belongs to another family"):
        load(folder, device="cpu", vae=tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("none", None, "got none, which does not exist"),
        (
            "a.safetensors",
            {"conv_in.weight": torch.ones(8, 4, 3, 3)},
            "which holds no autoencoder (but conv_in.weight …)",
        ),
        ("b.safetensors", {"decoder.conv_in.weight": torch.ones(8, 4, 3, 3)}, "which holds no autoencoder"),
        ("c.pt", b"PK\3\4", "expected a .safetensors checkpoint: other formats can run code"),
        ("d.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        ("e", "folder", "expected --vae to be a folder, a .safetensors file or a hub id of an AutoencoderKL, got"),
    ],
)
def test_what_is_no_autoencoder_is_told(folder, tmp_path, monkeypatch, name, content, line):
    monkeypatch.chdir(tmp_path)
    if isinstance(content, bytes):
        Path(name).write_bytes(content)
    elif content == "folder":
        Path(name).mkdir()
    elif content is not None:
        save_file(content, name)
    with pytest.raises(ModelError) as error:
        load(folder, device="cpu", vae=name)
    assert line in str(error.value) and "\n" not in str(error.value)


def test_an_autoencoder_without_some_weights_is_told(folder, other_vae, tmp_path):
    other_vae.save_pretrained(tmp_path / "other")
    without(tmp_path / "other" / "diffusion_pytorch_model.safetensors", "decoder.conv_out")
    with pytest.raises(ModelError, match=r"cannot load autoencoder of .*decoder.conv_out.* missing"):
        load(folder, device="cpu", vae=tmp_path / "other")


def test_the_command_takes_an_autoencoder(folder, other_vae, tmp_path, monkeypatch):
    other_vae.save_pretrained(tmp_path / "other")
    seen = []
    plain = Backbone.decode
    monkeypatch.setattr(Backbone, "decode", lambda self, latents: seen.append(self) or plain(self, latents))
    where = ["--model", str(folder), "--device", "cpu", "--steps", "1", "-n", "1", "-o", str(tmp_path / "made")]
    result = CliRunner().invoke(cli, ["generate", "a cat", *where, "--vae", str(tmp_path / "other")])
    assert result.exit_code == 0, result.output
    assert same_vae(seen[0], other_vae)
