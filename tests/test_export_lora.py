"""LoRAs as other programs read them: names, shapes, headers; diffusers' own converters as oracle; what is refused."""

import json
import re

import pytest
import torch
from click.testing import CliRunner
from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_adapters import answer, random_layers

import sentinv
from sentinv.adapters.bases import bare_unet, base_of_lora
from sentinv.adapters.export import export_bundle, export_lora, kohya_tensors
from sentinv.adapters.fitting import find
from sentinv.adapters.install import adapted
from sentinv.adapters.layouts import LoraLayer
from sentinv.adapters.lora import Lora, load_lora
from sentinv.adapters.names import adaptable, original_name
from sentinv.cli.main import cli
from sentinv.concepts.concept import Concept
from sentinv.concepts.layouts import ENCODER_KEYS, WIDTHS
from sentinv.concepts.reading import load_concepts
from sentinv.errors import ConceptError
from sentinv.models.backbone import Backbone
from sentinv.training.config import LAYERS

SAME = ("a1111", "comfyui", "invokeai", "kohya", "onetrainer")
MIXINS = {
    "sd1": StableDiffusionLoraLoaderMixin,
    "sd2": StableDiffusionLoraLoaderMixin,
    "sdxl": StableDiffusionXLLoraLoaderMixin,
}
KOHYA = {
    "sd1": "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
    "sd2": "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
    "sdxl": "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k",
}
"""Of a layer; `benchmarks/interop` has found that the programs' own code takes these."""

PROMPTS = {
    "diffusers": "<snail>",
    "a1111": "snail-{0} <lora:snail-lora-{0}:1>",
    "comfyui": "embedding:snail-{0}",
    "invokeai": "<snail-{0}>",
    "kohya": "snail-{0}",
    "onetrainer": "<snail>",
}


def lora_for(base, token="<snail>", alpha=1.5, **options):
    """Layers on every seventh attention matrix and some of other kinds, with numbers that float16 has."""
    names = [name for name in adaptable(bare_unet(base)) if re.search(r"attn\d\.to_", name)][::7]
    names += [name for name in adaptable(bare_unet(base)) if name.endswith(("ff.net.2", "conv1", "proj_in"))][::9]
    names.append(f"down_blocks.{int(base == 'sdxl')}.attentions.0.transformer_blocks.0.attn2.to_k")
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for name in names:
        shape = adaptable(bare_unet(base))[name].weight.shape
        down = torch.randn((2, *shape[1:]), generator=generator).half().float()
        up = torch.randn((shape[0], 2, *[1] * (len(shape) - 2)), generator=generator).half().float()
        layers[name] = LoraLayer(down, up, alpha)
    return Lora(layers=layers, token=token, base_model=f"my {base}", **options)


def word(base="sd1", token="<snail>"):
    rows = {name: torch.ones(2, width) for name, width in zip(ENCODER_KEYS, WIDTHS[base], strict=False)}
    return Concept(token=token, rows=rows, base_model=base)


def same_layers(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, layer in ours.items():
        other = theirs[name]
        assert torch.equal(layer.down, other.down.reshape(layer.down.shape)) and layer.alpha == other.alpha
        assert torch.equal(layer.up, other.up.reshape(layer.up.shape))


@pytest.mark.parametrize("base", WIDTHS)
@pytest.mark.parametrize("program", PROMPTS)
def test_each_program_gets_its_names_and_the_layers_come_back(tmp_path, program, base):
    lora = lora_for(base)
    made = sentinv.export(lora, program, tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == f"snail-lora-{base}.safetensors" and (made.base, made.kind) == (base, "lora")
    assert made.prompt == PROMPTS[program].format(base) and "in its prompt, write" in made.line
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert header["sentinv.base_model"] == f"my {base}" and header["modelspec.trigger_phrase"] == made.prompt
    assert header["modelspec.architecture"].startswith("stable-diffusion-")
    tensors = load_file(path)
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    if program in SAME:
        assert {key.rpartition(".")[2] for key in tensors} == {"weight", "alpha"}
        assert all(key.startswith("lora_unet_") for key in tensors)
        assert f"{KOHYA[base]}.alpha" in tensors
        assert (header["ss_network_dim"], header["ss_network_alpha"]) == ("2", "1.5")
        assert header["ss_base_model_version"].startswith({"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl"}[base])
        assert "lora_adapter_metadata" not in header
    same_layers(lora.layers, find(load_lora(path), bare_unet(base), base).lora.layers)


@pytest.mark.parametrize("base", WIDTHS)
def test_diffusers_own_converter_finds_the_same_layers_in_a_file_for_kohya(tmp_path, base):
    lora = lora_for(base)
    sentinv.export(lora, "kohya", tmp_path)
    path = tmp_path / f"snail-lora-{base}.safetensors"
    state, alphas = MIXINS[base].lora_state_dict(str(path), unet_config=bare_unet(base).config)
    found = {key.removeprefix("unet.").replace(".processor.", "."): value for key, value in state.items()}
    found = {re.sub(r"[._]lora\.", ".", key).replace("to_out.", "to_out.0."): value for key, value in found.items()}
    assert len(found) == 2 * len(lora.layers)
    for name, layer in lora.layers.items():
        assert torch.equal(found[f"{name}.down.weight"].float(), layer.down)
        assert torch.equal(found[f"{name}.up.weight"].float(), layer.up)
    assert set(alphas.values()) == {1.5} and len(alphas) == len(lora.layers)


@pytest.mark.parametrize("family", ["sd1", "xl"])
def test_a_kohya_file_draws_the_same_in_plain_diffusers(request, tmp_path, family):
    pipeline = request.getfixturevalue(family)
    backbone = Backbone.from_pipeline(pipeline, "tiny")
    layers, config = random_layers(backbone.unet, rank=4, alpha=2.0), backbone.unet.config
    tensors = kohya_tensors(layers, lambda name: original_name(name, config) if family == "xl" else name)
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "kohya.safetensors")
    with adapted(backbone, [load_lora(tmp_path / "kohya.safetensors")]):
        ours = answer(backbone)
    pipeline.load_lora_weights(str(tmp_path / "kohya.safetensors"))
    assert torch.allclose(ours, answer(backbone), atol=1e-5)


def test_numbers_that_float16_has_not_are_kept_in_float32():
    lora = lora_for("sd1", alpha=0.1)
    (content,) = export_lora(lora, "a1111").files.values()
    assert b'"F32"' in content[:100_000] and b'"F16"' not in content[:100_000]


def test_equal_loras_give_equal_bytes():
    assert export_lora(lora_for("sd2"), "comfyui") == export_lora(lora_for("sd2"), "comfyui")


def test_a_lora_of_another_program_is_converted(tmp_path):
    """From kohya's names, with alpha, to those of diffusers, and into another file of the same layers."""
    lora = lora_for("sdxl")
    theirs = export_lora(lora, "kohya").files["snail-lora-sdxl.safetensors"]
    (tmp_path / "ours.safetensors").write_bytes(theirs)
    save_file(load_file(tmp_path / "ours.safetensors"), tmp_path / "My Thing.safetensors")  # without our header
    made = export_lora(load_lora(tmp_path / "My Thing.safetensors"), "diffusers")
    assert list(made.files) == ["my-thing-sdxl.safetensors"] and made.prompt == "" and "prompt" not in made.line
    (tmp_path / "again.safetensors").write_bytes(made.files["my-thing-sdxl.safetensors"])
    same_layers(lora.layers, load_lora(tmp_path / "again.safetensors").layers)


def test_what_is_not_exported_is_told(tmp_path):
    tensors = kohya_tensors(lora_for("sd1").layers, str)
    for place in ("lora_te_text_model_encoder_layers_0_mlp_fc1", "lora_unet_no_such_place_attn1_to_q"):
        tensors |= {f"{place}.lora_down.weight": torch.ones(2, 16), f"{place}.lora_up.weight": torch.ones(16, 2)}
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "some.safetensors")
    with pytest.warns(UserWarning, match="not exported: 1 of the text encoder, 1 that it has not"):
        export_lora(load_lora(tmp_path / "some.safetensors"), "invokeai")


def layer_for(base, name):
    shape = adaptable(bare_unet(base))[name].weight.shape
    return LoraLayer(torch.ones(2, *shape[1:]), torch.ones(shape[0], 2, *[1] * (len(shape) - 2)), 2.0)


def lora_on(base, *names):
    told = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}[base]
    return Lora(layers={name: layer_for(base, name) for name in names}, metadata={"ss_base_model_version": told})


def test_kohyas_scripts_get_no_layers_outside_the_blocks():
    names = ("conv_in", "time_embedding.linear_1", "mid_block.attentions.0.proj_in")
    lora = lora_on("sd1", *names)
    with pytest.warns(UserWarning, match="not exported: 2 for which kohya's scripts have no place"):
        (content,) = export_lora(lora, "kohya").files.values()
    assert b"lora_unet_mid_block_attentions_0_proj_in" in content and b"conv_in" not in content
    (content,) = export_lora(lora, "a1111").files.values()
    assert b"lora_unet_conv_in" in content and b"lora_unet_time_embedding_linear_1" in content
    with pytest.raises(ConceptError, match="outside the UNet's blocks only"):
        export_lora(lora_on("sd1", *names[:2]), "kohya")


DOWN = "down_blocks.1.attentions.0.transformer_blocks.0"


@pytest.mark.parametrize(
    ("base", "names", "message"),
    [
        ("sd1", [f"{DOWN}.attn1.to_q"], "this one has none"),
        ("sd2", [f"{DOWN}.attn1.to_q", "conv_in"], "this one has none"),
        (
            "sd1",
            ["down_blocks.0.resnets.0.time_emb_proj", f"{DOWN}.attn2.to_v"],
            "begins with down_blocks.0.resnets.0.time",
        ),
        ("sd1", ["down_blocks.1.resnets.0.time_emb_proj", f"{DOWN}.attn2.to_v"], ""),
        ("sdxl", [f"{DOWN}.attn1.to_q"], "this one has none"),
        ("sdxl", ["mid_block.attentions.0.transformer_blocks.2.attn1.to_q"], ""),
        ("sdxl", ["down_blocks.0.resnets.0.time_emb_proj", f"{DOWN}.attn2.to_v"], ""),
    ],
)
def test_invokeai_has_to_see_the_base_in_the_layers(base, names, message):
    """Its prober looks at one layer's width, as benchmarks/interop has found."""
    lora = lora_on(base, *names)
    export_lora(lora, "comfyui")
    if not message:
        assert export_lora(lora, "invokeai").base == base
    else:
        with pytest.raises(ConceptError, match=f"InvokeAI would not take .*{message}"):
            export_lora(lora, "invokeai")


def test_onetrainer_has_one_rank_and_is_told_the_layers():
    base, names = "sd1", [name for name in adaptable(bare_unet("sd1")) if re.search(r"attn\d\.to_", name)]
    whole = lora_on(base, *names)
    assert "set its rank, 2, and as layers attn-only" in export_lora(whole, "onetrainer").line
    assert "layers a filter for those of the file" in export_lora(lora_on(base, *names[:-1]), "onetrainer").line
    wide = [name for name in adaptable(bare_unet(base)) if any(name.endswith(f".{end}") for end in LAYERS)]
    ends = "conv1,conv2,ff.net.0.proj,ff.net.2,to_k,to_out.0,to_q,to_v"
    assert f"as layers the filter {ends}" in export_lora(lora_on(base, *wide), "onetrainer").line
    layer = whole.layers[names[0]]
    mixed = Lora(layers=whole.layers | {names[0]: LoraLayer(layer.down[:1], layer.up[:, :1], 1.0)})
    export_lora(mixed, "kohya")
    with pytest.raises(ConceptError, match="one rank for all layers of a LoRA, and the LoRA has several: 1, 2"):
        export_lora(mixed, "onetrainer")


@pytest.mark.parametrize("base", WIDTHS)
def test_the_base_shows_in_the_layers_that_read_the_prompt_or_in_the_header(base):
    lora = lora_for(base)
    assert base_of_lora(lora) == base
    layers = {name: layer for name, layer in lora.layers.items() if "attn2" not in name}
    assert base_of_lora(Lora(layers=layers)) == ""
    told = {"sd1": "sd_v1", "sd2": "sd_v2_v", "sdxl": "sdxl_base_v1-0"}[base]
    assert base_of_lora(Lora(layers=layers, metadata={"ss_base_model_version": told})) == base


# Words inside


@pytest.mark.parametrize("base", WIDTHS)
@pytest.mark.parametrize("program", ["a1111", "comfyui"])
def test_a_bundle_has_both(tmp_path, program, base):
    lora, concept = lora_for(base), word(base)
    made = sentinv.export(lora, program, tmp_path, bundle=concept)
    path = tmp_path / f"snail-lora-{base}.safetensors"
    keys = {key for key in load_file(path) if key.startswith("bundle_emb.")}
    inner = ["clip_l", "clip_g"] if base == "sdxl" else ["string_to_param.*"]
    assert keys == {f"bundle_emb.snail-{base}.{key}" for key in inner} and made.kind == "bundle"
    own = {"a1111": f"snail-{base} <lora:snail-lora-{base}:1>", "comfyui": f"embedding:snail-lora-{base}"}
    assert made.prompt == own[program]
    (again,) = load_concepts([path])
    assert again.token == "<snail>" and all(torch.equal(again.rows[name], concept.rows[name]) for name in concept.rows)
    read = load_lora(path)
    assert read.bundled
    same_layers(lora.layers, find(read, bare_unet(base), base).lora.layers)


def test_bundles_of_other_programs_are_read(tmp_path):
    """OneTrainer's has the placeholder and the text encoder in its names; there may be several words in one."""
    tensors = kohya_tensors({"mid_block.attentions.0.proj_in": LoraLayer(torch.ones(2, 4), torch.ones(4, 2), 2.0)}, str)
    tensors |= {
        "bundle_emb.<Red Cat>.clip_l": torch.ones(3, 768),
        "bundle_emb.dog.string_to_param.*": torch.ones(1, 768),
    }
    save_file(tensors, tmp_path / "two.safetensors")
    assert [(one.token, one.count) for one in load_concepts([tmp_path / "two.safetensors"])] == [
        ("<red-cat>", 3),
        ("<dog>", 1),
    ]
    with pytest.raises(ConceptError, match="holds 2 words, <red-cat>, <dog>"):
        Concept.load(tmp_path / "two.safetensors")
    tensors["bundle_emb.dog.clip_l_out"] = torch.ones(1, 768)
    save_file(tensors, tmp_path / "out.safetensors")
    with pytest.raises(ConceptError, match="output embedding of OneTrainer"):
        load_concepts([tmp_path / "out.safetensors"])


# The command


def run(*arguments, code=0):
    result = CliRunner().invoke(cli, ["export", *map(str, arguments)])
    assert result.exit_code == code, result.output
    if code:
        assert result.stderr.count("\n") == 1 and not result.stdout
    return result


def test_the_command(tmp_path):
    files = [word().save(tmp_path / "snail.safetensors"), lora_for("sd1").save(tmp_path / "snail-lora.safetensors")]
    done = run(*files, "--to", "a1111", "-o", tmp_path / "out")
    assert [line.rpartition("/")[2] for line in done.stdout.split()] == [
        "snail-sd1.safetensors",
        "snail-lora-sd1.safetensors",
    ]
    assert "in its prompt, write snail-sd1 <lora:snail-lora-sd1:1>" in done.stderr
    alone = run(files[1], "--to", "kohya", "-o", tmp_path / "alone")
    assert "its word, <snail>, is a file of its own" in alone.stderr
    told = json.loads(run(*files, "--to", "comfyui", "--bundle", "-o", tmp_path / "one", "--json", "-q").stdout)
    assert [one["kind"] for one in told["exports"]] == ["bundle"]
    bundle = tmp_path / "one" / "snail-lora-sd1.safetensors"
    run(bundle, "--to", "diffusers", "-o", tmp_path / "apart")
    assert {path.name for path in (tmp_path / "apart").iterdir()} == {
        "snail-sd1.safetensors",
        "snail-lora-sd1.safetensors",
    }
    assert "exists: give --force" in run(*files, "--to", "a1111", "-o", tmp_path / "out", code=1).stderr


def test_bad_input_is_one_line_and_writes_nothing(tmp_path, toybox_lora):
    snail, cup = word().save(tmp_path / "snail.safetensors"), word(token="<cup>").save(tmp_path / "cup.safetensors")
    xl, own = word("sdxl").save(tmp_path / "xl.safetensors"), lora_for("sd1").save(tmp_path / "l.safetensors")
    cases = [
        ((snail, own, "--bundle", "--to", "diffusers"), "diffusers reads no words inside a LoRA"),
        (
            (cup, own, "--bundle", "--to", "a1111"),
            "expected the word of l.safetensors, <snail>, among the files, got <cup>",
        ),
        ((xl, own, "--bundle", "--to", "a1111"), "they are no pair"),
        ((snail, "--bundle", "--to", "a1111"), "got no LoRA"),
        ((toybox_lora, "--to", "a1111"), "no LoRAs there for the base of"),
    ]
    for arguments, message in cases:
        assert message in run(*arguments, "-o", tmp_path / "out", code=1).stderr
        assert not (tmp_path / "out").exists()
    run(toybox_lora, "--to", "diffusers", "-o", tmp_path / "out")


@pytest.fixture
def toybox_lora(sd1_backbone, tmp_path):
    lora = Lora(layers=random_layers(sd1_backbone.unet), token="<c>", base_model="tiny")
    return lora.save(tmp_path / "tiny-lora.safetensors")


def test_a_bundle_belongs_together():
    with pytest.raises(ConceptError, match="no pair"):
        export_bundle(lora_for("sd1"), word("sd2"), "a1111")
