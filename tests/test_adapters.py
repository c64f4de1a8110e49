import json
import warnings
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from conftest import same, snapshot
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import save_file

from sentinv.adapters.bases import UNETS
from sentinv.adapters.fitting import fit
from sentinv.adapters.install import adapted, check_words, fresh_layers, learning
from sentinv.adapters.layouts import ADAPTER_METADATA, LoraLayer
from sentinv.adapters.lora import Lora, load_lora
from sentinv.adapters.names import adaptable, aliases, flat, original_name
from sentinv.cli.main import cli
from sentinv.concepts.concept import Concept
from sentinv.errors import ConceptError
from sentinv.generation.denoiser import encode_prompts
from sentinv.generation.generate import GenerateConfig, generate_latents, seeded

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
EVERY_KIND = (*ATTENTION, "proj_in", "conv1", "conv_shortcut", "ff.net.0.proj", "time_emb_proj", "linear_1", "conv_in")


def random_layers(unet, targets=ATTENTION, rank=3, alpha=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: LoraLayer(
            layer.down.half().float(),
            torch.randn(layer.up.shape, generator=generator).half().float(),
            layer.alpha if alpha is None else alpha,
        )
        for name, layer in fresh_layers(unet, targets, rank, generator).items()
    }


def answer(backbone):
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    condition = encode_prompts(backbone, ["a photo of a cat", "a red mug"])
    with torch.no_grad():
        return backbone.predict(latents, torch.tensor([100, 900]), condition)


def test_put_on_and_taken_off_without_a_trace(backbone):
    before, attributes, plain = snapshot(backbone), dict(vars(backbone.unet)), answer(backbone)
    fingerprint = backbone.fingerprint
    del vars(backbone)["fingerprint"]
    with adapted(backbone, [Lora(layers=random_layers(backbone.unet, EVERY_KIND))]) as adapters:
        changed = answer(backbone)
        assert not torch.equal(changed, plain) and backbone.fingerprint == fingerprint
        on = {key.replace(".base_layer", ""): value for key, value in backbone.unet.state_dict().items()}
        weights = next(part for part in before[0] if part.keys() <= on.keys())
        assert all(torch.equal(on[key], value) for key, value in weights.items())
        with adapters.off():
            assert torch.equal(answer(backbone), plain)
        assert torch.equal(answer(backbone), changed)
        assert not any(parameter.requires_grad for parameter in backbone.unet.parameters())
    assert torch.equal(answer(backbone), plain)
    assert same(before, snapshot(backbone)) and vars(backbone.unet) == attributes


def test_taken_off_after_an_error(sd1_backbone):
    before = snapshot(sd1_backbone)
    with pytest.raises(RuntimeError), adapted(sd1_backbone, [Lora(layers=random_layers(sd1_backbone.unet))]):
        raise RuntimeError
    assert same(before, snapshot(sd1_backbone))


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, -1.0])
def test_adds_scaled_products_to_the_weights(backbone, scale):
    """Oracle: the formula, W + scale · alpha / rank · up · down, written into the weights."""
    layers = random_layers(backbone.unet, EVERY_KIND, alpha=2.0)
    with adapted(backbone, [(Lora(layers=layers), scale)]):
        ours = answer(backbone)
    for name, layer in layers.items():
        product = (layer.up.flatten(1) @ layer.down.flatten(1)).reshape(backbone.unet.get_submodule(name).weight.shape)
        backbone.unet.get_submodule(name).weight.data += scale * 2 / layer.rank * product
    assert torch.allclose(ours, answer(backbone), atol=1e-4)


def test_several_at_once(sd1_backbone):
    layers = random_layers(sd1_backbone.unet)
    with adapted(sd1_backbone, [(Lora(layers=layers), 0.75)]):
        once = answer(sd1_backbone)
    with adapted(sd1_backbone, [(Lora(layers=layers), 0.5), (Lora(layers=layers), 0.25)]):
        assert torch.allclose(answer(sd1_backbone), once, atol=1e-5)
    other = random_layers(sd1_backbone.unet, ("conv1", "to_q"), rank=2, seed=4)
    with adapted(sd1_backbone, [Lora(layers=layers), Lora(layers=other)]):
        assert not torch.allclose(answer(sd1_backbone), once, atol=1e-3)


def test_refuses_a_model_that_has_adapters(sd1_backbone):
    lora = Lora(layers=random_layers(sd1_backbone.unet))
    with adapted(sd1_backbone, [lora]), pytest.raises(ValueError, match="adapters"), adapted(sd1_backbone, [lora]):
        pass
    with pytest.raises(ValueError, match="finite"), adapted(sd1_backbone, [(lora, float("nan"))]):
        pass


def test_draws_no_random_numbers_of_anybody(sd1_backbone):
    layers = random_layers(sd1_backbone.unet)
    state = torch.get_rng_state()
    with learning(sd1_backbone, layers):
        pass
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("alike", [True, False], ids=["one rank, its alpha", "several"])
def test_the_files_make_the_same_images_in_plain_diffusers(pipeline, backbone, tmp_path, alike):
    """Where all layers have one rank, which is their alpha, that is what readers take where nothing is said: nothing is."""
    width = backbone.text_encoders[0].dim
    rows = torch.randn(2, width, generator=torch.Generator().manual_seed(2))
    concept = Concept(token="<c>", rows={"text_encoder": rows})
    layers = random_layers(backbone.unet, EVERY_KIND)
    layers = {name: LoraLayer(layer.down[:3], layer.up[:, :3], 3.0) for name, layer in layers.items()}
    some = dict(list(layers.items())[::3])
    if not alike:
        layers |= {name: LoraLayer(layer.down[:2], layer.up[:, :2], 1.0) for name, layer in some.items()}
    path = Lora(layers=layers, token="<c>").save(tmp_path / "c-lora.safetensors")
    assert (ADAPTER_METADATA.encode() in path.read_bytes()) != alike
    prompt, config = "a photo of <c> on the moon", GenerateConfig(steps=4)
    with adapted(backbone, [load_lora(path)]):
        ours = generate_latents(backbone, prompt, [concept], generators=seeded(3, 2), config=config)
    pipeline.load_textual_inversion({"<c>": rows})
    pipeline.load_lora_weights(str(path))
    theirs = pipeline(
        prompt, num_images_per_prompt=2, generator=seeded(3, 2), num_inference_steps=4, output_type="latent"
    ).images
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_equal_loras_give_equal_bytes_and_read_back(sd1_backbone, tmp_path):
    lora = Lora(layers=random_layers(sd1_backbone.unet), token="<c>", base_model="tiny", metadata={"a": "b"})
    path = lora.save(tmp_path / "c-lora.safetensors")
    again = load_lora(path)
    assert again.to_bytes() == path.read_bytes() == lora.to_bytes()
    assert (again.token, again.base_model, again.metadata["a"], again.rank) == ("<c>", "tiny", "b", 3)
    assert again.name == "c-lora.safetensors"


# Layouts of other programs


def diffusers_old(unet, layers):
    def key(name):
        head, _, last = name.replace("to_out.0", "to_out").rpartition(".")
        return f"unet.{head}.processor.{last}_lora"

    return {f"{key(n)}.{part}.weight": getattr(layer, part) for n, layer in layers.items() for part in ("down", "up")}


def diffusers_oldest(unet, layers):
    return {key.removeprefix("unet."): value for key, value in diffusers_old(unet, layers).items()}


def tensors_of(layers, name_of, down, up, alpha=True):
    tensors = {f"{name_of(n)}.{down}.weight": layer.down for n, layer in layers.items()}
    tensors |= {f"{name_of(n)}.{up}.weight": layer.up for n, layer in layers.items()}
    return tensors | (
        {f"{name_of(n)}.alpha": torch.tensor(layer.alpha) for n, layer in layers.items()} if alpha else {}
    )


LAYOUTS = {
    "diffusers": lambda unet, layers: tensors_of(layers, lambda n: f"unet.{n}", "lora_A", "lora_B", alpha=False),
    "diffusers, old": diffusers_old,
    "diffusers, oldest": diffusers_oldest,
    "diffusers, middle": lambda unet, layers: tensors_of(layers, lambda n: f"unet.{n}", "lora.down", "lora.up", False),
    "peft": lambda unet, layers: tensors_of(layers, lambda n: f"base_model.model.{n}", "lora_A", "lora_B", alpha=False),
    "peft, named": lambda unet, layers: tensors_of(layers, lambda n: n, "lora_A.default", "lora_B.default", False),
    "kohya": lambda unet, layers: tensors_of(layers, lambda n: f"lora_unet_{flat(n)}", "lora_down", "lora_up"),
    "kohya, original": lambda unet, layers: tensors_of(
        layers, lambda n: f"lora_unet_{flat(original_name(n, unet.config))}", "lora_down", "lora_up"
    ),
    "ComfyUI": lambda unet, layers: tensors_of(
        layers, lambda n: f"diffusion_model.{original_name(n, unet.config)}", "lora_up".replace("up", "down"), "lora_up"
    ),
    "OneTrainer": lambda unet, layers: tensors_of(
        layers, lambda n: f"unet.{original_name(n, unet.config)}", "lora_down", "lora_up"
    ),
    "OneTrainer, dotted": lambda unet, layers: tensors_of(layers, lambda n: f"lora_unet.{n}", "lora_down", "lora_up"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reads_what_other_programs_write(layout, sd1_backbone, tmp_path):
    alpha = 1.5 if "alpha" in str(LAYOUTS[layout](sd1_backbone.unet, random_layers(sd1_backbone.unet)).keys()) else None
    targets = ATTENTION if "old" in layout else EVERY_KIND
    layers = random_layers(sd1_backbone.unet, targets, alpha=alpha)
    tensors = {key: value.contiguous() for key, value in LAYOUTS[layout](sd1_backbone.unet, layers).items()}
    tensors["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"] = torch.ones(2, 16)
    tensors["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"] = torch.ones(32, 2)
    tensors["bundle_emb.<c>.string_to_param"] = torch.ones(1, 16)
    save_file(tensors, tmp_path / "theirs.safetensors")
    with adapted(sd1_backbone, [Lora(layers=layers)]):
        wanted = answer(sd1_backbone)
    with adapted(sd1_backbone, [load_lora(tmp_path / "theirs.safetensors")]) as adapters:
        assert torch.equal(answer(sd1_backbone), wanted)
    told = adapters.fitted[0].told
    count = len(layers)
    assert told == f"{count} of {count} layers found, 1 bundled as words left out, 1 of the text encoder left out"


@pytest.mark.parametrize(
    "place", ["lora_te1_", "lora_te2_", "clip_l.", "text_encoders.clip_g.", "text_encoder.", "te2."]
)
def test_layers_of_text_encoders_are_counted_and_left_out(place, sd1_backbone, tmp_path):
    tensors = {
        k: v.contiguous() for k, v in LAYOUTS["kohya"](sd1_backbone.unet, random_layers(sd1_backbone.unet)).items()
    }
    for part, shape in (("down", (2, 16)), ("up", (32, 2))):
        tensors[f"{place}text_model_encoder_layers_0_mlp_fc1.lora_{part}.weight"] = torch.ones(shape)
    save_file(tensors, tmp_path / "theirs.safetensors")
    assert load_lora(tmp_path / "theirs.safetensors").left_out == {"of the text encoder": 1}


def test_bfloat16_is_read_as_it_is(sd1_backbone, tmp_path):
    layers = random_layers(sd1_backbone.unet, alpha=1.5)
    tensors = LAYOUTS["kohya"](sd1_backbone.unet, layers)
    save_file({key: value.bfloat16().contiguous() for key, value in tensors.items()}, tmp_path / "theirs.safetensors")
    found = fit(load_lora(tmp_path / "theirs.safetensors"), sd1_backbone).lora.layers
    assert all(torch.equal(found[name].up, layer.up.bfloat16().float()) for name, layer in layers.items())
    assert {layer.alpha for layer in found.values()} == {1.5}


def test_kohyas_alpha_means_what_diffusers_takes_it_for(sd1, sd1_backbone, tmp_path):
    layers = random_layers(sd1_backbone.unet, rank=4, alpha=1.0)
    tensors = {key: value.contiguous() for key, value in LAYOUTS["kohya"](sd1_backbone.unet, layers).items()}
    save_file(tensors, tmp_path / "kohya.safetensors")
    with adapted(sd1_backbone, [load_lora(tmp_path / "kohya.safetensors")]):
        ours = answer(sd1_backbone)
    sd1.load_lora_weights(str(tmp_path / "kohya.safetensors"))
    assert torch.allclose(ours, answer(sd1_backbone), atol=1e-5)


@pytest.mark.parametrize("rooted", [False, True])
def test_alpha_of_the_header_counts(rooted, sd1_backbone, tmp_path):
    layers = random_layers(sd1_backbone.unet, rank=4, alpha=2.0)
    first = next(iter(layers))
    told = {"unet.lora_alpha": 2, "unet.alpha_pattern": {f"^{first}": 1}, "unet.use_rslora": rooted}
    tensors = {key: value.contiguous() for key, value in LAYOUTS["diffusers"](sd1_backbone.unet, layers).items()}
    save_file(tensors, tmp_path / "a.safetensors", {ADAPTER_METADATA: json.dumps(told)})
    read = load_lora(tmp_path / "a.safetensors")
    assert read.layers[first].scale == (1 / 2 if rooted else 1 / 4)
    assert {layer.scale for name, layer in read.layers.items() if name != first} == {1 if rooted else 1 / 2}


@pytest.mark.parametrize("which", ["sd1", "xl"])
def test_original_names_are_those_that_diffusers_converts_from(which, request):
    unet = request.getfixturevalue(which).unet
    original = {name: original_name(name, unet.config) for name in adaptable(unet)}
    assert all(original.values()) and len(set(original.values())) == len(original)
    checkpoint = {
        f"model.diffusion_model.{theirs}.{part}": torch.tensor(index)
        for index, theirs in enumerate(original.values())
        for part in ("weight", "bias")
    }
    for theirs in list(original.values()):  # norms that the conversion asks for
        for norm in ("in_layers.0", "out_layers.0", "norm"):
            for part in ("weight", "bias"):
                checkpoint.setdefault(f"model.diffusion_model.{theirs.split('.')[0]}.0.{norm}.{part}", torch.tensor(-1))
    checkpoint |= {f"model.diffusion_model.out.0.{part}": torch.tensor(-1) for part in ("weight", "bias")}
    config = dict(unet.config) | {"class_embed_type": None, "addition_embed_type": unet.config.addition_embed_type}
    converted = convert_ldm_unet_checkpoint(checkpoint, config)
    for index, name in enumerate(original):
        assert converted[f"{name}.weight"].item() == index


# What is refused


def matrices(name, down, up):
    return {f"{name}.lora_down.weight": torch.ones(down), f"{name}.lora_up.weight": torch.ones(up)}


HOSTILE = {
    "NaN": (lambda t: t | {k: torch.full_like(v, float("nan")) for k, v in list(t.items())[:1]}, "NaN or infinite"),
    "alpha 0": (lambda t: t | {k: torch.tensor(0.0) for k in t if k.endswith("alpha")}, "does nothing"),
    "alpha of several": (lambda t: t | {k: torch.ones(2) for k in t if k.endswith("alpha")}, "one number"),
    "rank 100,000": (lambda t: matrices("lora_unet_mid", (100_000, 1), (1, 100_000)), "rank of at most"),
    "half a layer": (lambda t: {k: v for k, v in t.items() if "up" not in k}, "lacks one"),
    "shapes that do not fit": (lambda t: t | {k: v[:, :1] for k, v in t.items() if "up.weight" in k}, "expected matrices"),
    "unknown keys": (lambda t: t | {"what.is.this": torch.ones(2)}, "expected the tensors of a LoRA"),
    "differences": (lambda t: t | {"diffusion_model.out.2.diff_b": torch.ones(2)}, "whole differences"),
    "LoHa": (lambda t: {"lora_unet_mid.hada_w1_a": torch.ones(2)}, "LoHa"),
    "DoRA": (lambda t: t | {"lora_unet_mid.dora_scale": torch.ones(2)}, "DoRA"),
    "text encoder only": (lambda t: matrices("lora_te_a", (2, 2), (2, 2)), "layers of a UNet"),
    "a word": (lambda t: {"<c>": torch.ones(2, 16)}, "expected the tensors of a LoRA"),
    "zeros": (lambda t: {k: torch.zeros_like(v) for k, v in t.items()}, "nothing but zeros"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_in_a_line(case, sd1_backbone, tmp_path):
    spoil, message = HOSTILE[case]
    tensors = {
        k: v.clone().contiguous()
        for k, v in LAYOUTS["kohya"](sd1_backbone.unet, random_layers(sd1_backbone.unet)).items()
    }
    save_file({k: v.contiguous() for k, v in spoil(tensors).items()}, tmp_path / "bad.safetensors")
    with pytest.raises(ConceptError, match=message) as told:
        load_lora(tmp_path / "bad.safetensors")
    assert "\n" not in str(told.value) and "bad.safetensors" in str(told.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        *(
            (text, f"its header's {ADAPTER_METADATA} makes no sense")
            for text in ("[]", "{", '{"unet.lora_alpha": "x"}')
        ),
        ('{"unet.alpha_pattern": {"(": 1}}', f"its header's {ADAPTER_METADATA} makes no sense"),
        ('{"unet.lora_alpha": NaN}', "the alpha of .* is nan"),
    ],
)
def test_a_header_without_sense_is_refused(text, why, sd1_backbone, tmp_path):
    tensors = {
        k: v.contiguous() for k, v in LAYOUTS["diffusers"](sd1_backbone.unet, random_layers(sd1_backbone.unet)).items()
    }
    save_file(tensors, tmp_path / "bad.safetensors", {ADAPTER_METADATA: text})
    with pytest.raises(ConceptError, match=rf"bad\.safetensors: {why}"):
        load_lora(tmp_path / "bad.safetensors")


def test_pickles_and_damaged_files_are_refused(sd1_backbone, tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "bad.safetensors")
    with pytest.raises(ConceptError, match="pickle"):
        load_lora(tmp_path / "bad.safetensors")
    path = Lora(layers=random_layers(sd1_backbone.unet), token="<c>").save(tmp_path / "c.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConceptError, match="damaged"):
        load_lora(path)
    word = Concept(token="<c>", rows={"text_encoder": torch.ones(1, 16)}).save(tmp_path / "word.safetensors")
    with pytest.raises(ConceptError, match="learned word, not a LoRA"):
        load_lora(word)


def test_what_cannot_be_put_on_is_told(sd1_backbone):
    layers = random_layers(sd1_backbone.unet)
    lora, first = Lora(layers=layers, token="<c>"), next(iter(layers))
    with pytest.raises(ValueError, match="expected a finite scale for the LoRA for <c>, got nan"):
        adapted(sd1_backbone, [(lora, float("nan"))]).__enter__()
    with pytest.raises(ConceptError, match=f"two layers for {first}: it makes no sense"):
        fit(replace(lora, layers=layers | {first.replace(".", "_"): layers[first]}), sd1_backbone)
    with adapted(sd1_backbone, [lora]), pytest.raises(ValueError, match="expected a model without adapters"):
        adapted(sd1_backbone, [lora]).__enter__()


def test_numbers_that_float16_has_not_are_kept_and_infinite_ones_told(sd1_backbone, tmp_path):
    layers = random_layers(sd1_backbone.unet)
    first = next(iter(layers))
    layers[first] = replace(layers[first], up=layers[first].up * 1e6, down=layers[first].down * 1e-9)
    read = load_lora(Lora(layers=layers).save(tmp_path / "a.safetensors")).layers[first]
    assert torch.equal(read.up, layers[first].up) and torch.equal(read.down, layers[first].down)
    layers[first] = replace(layers[first], up=layers[first].up / 0)
    with pytest.raises(ConceptError, match="not finite"):
        Lora(layers=layers).to_bytes()


def test_a_lora_of_another_base_is_told(sd1_backbone, xl, _pipelines):
    from sentinv.models.backbone import Backbone

    lora = Lora(layers=random_layers(_pipelines["sd2"].unet, ("attn2.to_k",)), name="other.safetensors")
    with pytest.raises(ConceptError, match=r"other\.safetensors does not fit tiny"):
        fit(lora, sd1_backbone)
    strange = Lora(layers={"double_blocks_0_img_attn": LoraLayer(torch.ones(1, 2), torch.ones(2, 1), 1.0)})
    with pytest.raises(ConceptError, match="none of its 1 layers"), adapted(sd1_backbone, [strange]):
        pass
    own = Lora(
        layers=random_layers(sd1_backbone.unet) | strange.layers,
        metadata={"sentinv.base_model_hash": "f" * 64},
        base_model="elsewhere",
    )
    with warnings.catch_warnings(record=True) as caught, adapted(sd1_backbone, [own]):
        pass
    told = [str(one.message) for one in caught]
    assert any("trained on another model (elsewhere)" in one for one in told)
    assert any("layers found; not in tiny: double_blocks_0_img_attn" in one for one in told)
    big = Backbone.from_pipeline(xl, "tiny xl")
    with adapted(big, [Lora(layers=random_layers(big.unet))]):
        pass


def test_a_lora_belongs_to_a_word(sd1_backbone):
    concept = Concept(token="<c>", rows={"text_encoder": torch.ones(1, 16)})
    layers = random_layers(sd1_backbone.unet)
    own = Lora(layers=layers, token="<c>", metadata={"sentinv.concept_hash": concept.digest})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_words([own, Lora(layers=layers)], [concept])
    with pytest.warns(UserWarning, match="belongs to <c>"):
        check_words([own], [])
    other = replace(concept, rows={"text_encoder": torch.zeros(1, 16) + 2})
    with adapted(sd1_backbone, own):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            encode_prompts(sd1_backbone, ["a <c>"], [concept])
        with pytest.warns(UserWarning, match="other rows of <c>"):
            encode_prompts(sd1_backbone, ["a <c>"], [other])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_prompts(sd1_backbone, ["a <c>"], [other])


def test_a_lora_whose_header_names_another_base_is_told(sd1_backbone, monkeypatch):
    theirs = Lora(
        layers=random_layers(sd1_backbone.unet, ("attn1.to_q",)), metadata={"ss_base_model_version": "sd_v2_v"}
    )
    width = sd1_backbone.unet.config.cross_attention_dim
    monkeypatch.setitem(UNETS, "sd1", {**UNETS["sd1"], "cross_attention_dim": width})
    with pytest.warns(UserWarning, match="is for Stable Diffusion 2, and tiny is Stable Diffusion 1"):
        adapted(sd1_backbone, theirs).__enter__()


@pytest.mark.parametrize("wrong", ["c-lora.safetensors", ["c-lora.safetensors"], [("c-lora.safetensors", 1.0)], [1.0]])
def test_what_is_no_lora_is_told(wrong, sd1_backbone):
    with pytest.raises(TypeError, match=r"sentinv\.load_lora reads a file"), adapted(sd1_backbone, wrong):
        pass


def test_alpha_beside_a_file_of_peft_counts(sd1_backbone, tmp_path):
    layers = random_layers(sd1_backbone.unet, rank=4)
    tensors = {key: value.contiguous() for key, value in LAYOUTS["peft"](sd1_backbone.unet, layers).items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    assert {one.scale for one in load_lora(tmp_path / "adapter_model.safetensors").layers.values()} == {1}
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 2}))
    assert {one.scale for one in load_lora(tmp_path / "adapter_model.safetensors").layers.values()} == {0.5}
    (tmp_path / "adapter_config.json").write_bytes(b"\xff")
    with pytest.raises(ConceptError, match=r"adapter_config\.json, which says how strong"):
        load_lora(tmp_path / "adapter_model.safetensors")


def test_names_of_another_program_are_not_saved_as_ours(sd1_backbone, tmp_path):
    for layout in ("kohya", "ComfyUI"):
        tensors = {
            k: v.contiguous() for k, v in LAYOUTS[layout](sd1_backbone.unet, random_layers(sd1_backbone.unet)).items()
        }
        save_file(tensors, tmp_path / "theirs.safetensors")
        with pytest.raises(ConceptError, match=r"names of another program.*sentinv\.export"):
            load_lora(tmp_path / "theirs.safetensors").save(tmp_path / "x.safetensors")


def test_a_converted_file_is_told_not_to_be_what_it_was(sd1_backbone, tmp_path):
    """In bfloat16, alpha, which has no dimension, too."""
    tensors = LAYOUTS["kohya"](sd1_backbone.unet, random_layers(sd1_backbone.unet))
    header = {"sentinv.lora_format": "1", "sha256": "0"}
    save_file(
        {key: value.bfloat16().contiguous() for key, value in tensors.items()}, tmp_path / "c.safetensors", header
    )
    with pytest.raises(ConceptError, match="is damaged or was changed"):
        load_lora(tmp_path / "c.safetensors")


def test_a_header_with_a_strange_word_names_the_file(sd1_backbone, tmp_path):
    header = {**Lora(layers=random_layers(sd1_backbone.unet), token="<c>").header(), "sentinv.token": "C\nat"}
    data = Lora(layers=random_layers(sd1_backbone.unet)).to_bytes(header)
    (tmp_path / "c.safetensors").write_bytes(data)
    with pytest.raises(ConceptError, match=r"c\.safetensors: expected a placeholder"):
        load_lora(tmp_path / "c.safetensors")


def test_targets_that_name_nothing(sd1_backbone):
    with pytest.raises(ConceptError, match="to_nothing"):
        fresh_layers(sd1_backbone.unet, ("to_nothing",), 4, torch.Generator())
    assert set(aliases(sd1_backbone.unet).values()) == set(adaptable(sd1_backbone.unet))


def test_inspect_counts_layers(sd1_backbone, tmp_path):
    layers = random_layers(sd1_backbone.unet, alpha=2.0)
    tensors = LAYOUTS["kohya"](sd1_backbone.unet, layers)
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "l.safetensors")
    shown = CliRunner().invoke(cli, ["inspect", str(tmp_path / "l.safetensors")])
    assert shown.exit_code == 0
    assert f"{len(layers)} of a UNet" in shown.stdout
    assert "3, 2" in shown.stdout
    told = json.loads(CliRunner().invoke(cli, ["inspect", str(tmp_path / "l.safetensors"), "--json"]).stdout)
    assert (told["kind"], told["layers"], told["left_out"]) == ("lora", len(layers), {})
