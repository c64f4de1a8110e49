"""LoRAs of all dialects are read to the same layers, and what is none is refused in one line."""

import json

import pytest
import torch
from click.testing import CliRunner
from diffusers.loaders.lora_conversion_utils import _maybe_map_sgm_blocks_to_diffusers
from safetensors.torch import save_file
from torch import nn

from sentinv.cli.main import cli
from sentinv.concepts.lora_files import read_lora
from sentinv.errors import ConceptError

WIDTH, RANK = 6, 3


def attention(unet):
    """Names of the layers that LoRAs mostly are for."""
    ends = ("to_q", "to_k", "to_v", "to_out.0")
    return [name for name, layer in unet.named_modules() if isinstance(layer, nn.Linear) and name.endswith(ends)]


def factors(names):
    generator = torch.Generator().manual_seed(0)
    return {
        name: (torch.randn(RANK, WIDTH, generator=generator), torch.randn(WIDTH, RANK, generator=generator))
        for name in names
    }


def new(name):
    return f"unet.{name}.lora_A.weight", f"unet.{name}.lora_B.weight", None


def named_adapter(name):
    return f"unet.{name}.lora_A.default.weight", f"unet.{name}.lora_B.default.weight", None


def old(name):
    return f"unet.{name}.lora.down.weight", f"unet.{name}.lora.up.weight", None


def linear(name):
    return f"unet.{name}.lora_linear_layer.down.weight", f"unet.{name}.lora_linear_layer.up.weight", None


def oldest(name):
    block, _, last = name.removesuffix(".0").rpartition(".")
    return f"{block}.processor.{last}_lora.down.weight", f"{block}.processor.{last}_lora.up.weight", None


def kohya(name):
    flat = f"lora_unet_{name.replace('.', '_')}"
    return f"{flat}.lora_down.weight", f"{flat}.lora_up.weight", f"{flat}.alpha"


def onetrainer(name):
    return f"unet.{name}.lora_down.weight", f"unet.{name}.lora_up.weight", f"unet.{name}.alpha"


def peft(name):
    return f"base_model.model.{name}.lora_A.weight", f"base_model.model.{name}.lora_B.weight", None


DIALECTS = (new, named_adapter, old, linear, oldest, kohya, onetrainer, peft)


def write(path, dialect, pairs, header=None, alpha=2.0):
    tensors = {}
    for name, (down, up) in pairs.items():
        first, second, third = dialect(name)
        tensors |= {first: down, second: up} | ({third: torch.tensor(alpha)} if third else {})
    save_file(tensors, path, metadata=header)
    return path


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_gives_the_same_layers(tmp_path, sd1, dialect):
    names = attention(sd1.unet)
    pairs = factors(names)
    file = read_lora(write(tmp_path / "l.safetensors", dialect, pairs))
    found, missing = file.matched("unet", [name for name, _ in sd1.unet.named_modules()])
    assert not missing and not file.unknown and file.count == len(names)
    assert set(found) == set(names)
    for name, layer in found.items():
        assert torch.equal(layer.down, pairs[name][0]) and torch.equal(layer.up, pairs[name][1])
        assert layer.rank == RANK and layer.alpha == (2.0 if dialect(name)[2] else RANK)


@pytest.mark.parametrize("prefix", ["diffusion_model.", "model.diffusion_model.", "lora_unet_"])
def test_the_numbers_of_the_original_code(tmp_path, prefix):
    """Against diffusers' own conversion of these names."""
    numbered = ["input_blocks.4.1", "input_blocks.8.1", "middle_block.1", "output_blocks.2.1", "output_blocks.5.1"]
    layers = [f"{block}.transformer_blocks.0.attn1.to_q" for block in numbered]
    tensors = {}
    for layer in layers:
        body = prefix + (layer.replace(".", "_") if prefix.endswith("_") else layer)
        tensors |= {f"{body}.lora_down.weight": torch.ones(2, 4), f"{body}.lora_up.weight": torch.ones(4, 2)}
    save_file(tensors, tmp_path / "l.safetensors")
    kohyas = {f"lora_unet_{layer.replace('.', '_')}.lora_down.weight": torch.ones(2, 4) for layer in layers}
    config = type("Config", (), {"layers_per_block": 2, "down_block_types": [0, 0, 0]})
    wanted = set()
    for key in _maybe_map_sgm_blocks_to_diffusers(kohyas, config):
        name = key.removeprefix("lora_unet_").removesuffix(".lora_down.weight")
        for theirs, ours in (
            ("input_blocks", "down_blocks"),
            ("middle_block", "mid_block"),
            ("output_blocks", "up_blocks"),
        ):
            name = name.replace(theirs, ours)  # which its caller does
        wanted.add(name)
    names = {name.replace("_", "."): name for name in wanted}  # spelt alike, whatever stands between the words
    found, missing = read_lora(tmp_path / "l.safetensors").matched("unet", names)
    assert not missing and {names[name] for name in found} == wanted


def test_residual_blocks_and_text_encoders(tmp_path):
    spelt = {
        "lora_unet_input_blocks_1_0_in_layers_2": ("unet", "down_blocks.0.resnets.0.conv1"),
        "lora_unet_input_blocks_3_0_op": ("unet", "down_blocks.0.downsamplers.0.conv"),
        "lora_unet_output_blocks_5_2_conv": ("unet", "up_blocks.1.upsamplers.0.conv"),
        "lora_unet_middle_block_2_emb_layers_1": ("unet", "mid_block.resnets.1.time_emb_proj"),
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj": ("text_encoder", "encoder.layers.0.self_attn.q_proj"),
        "lora_te2_text_model_encoder_layers_1_mlp_fc1": ("text_encoder_2", "text_model.encoder.layers.1.mlp.fc1"),
        "text_encoders.clip_l.transformer.text_model.encoder.layers.2.mlp.fc2": (
            "text_encoder",
            "encoder.layers.2.mlp.fc2",
        ),
    }
    tensors = {}
    for body in spelt:
        tensors |= {f"{body}.lora_down.weight": torch.ones(2, 4), f"{body}.lora_up.weight": torch.ones(4, 2)}
    tensors["bundle_emb.c.clip_l"] = torch.ones(1, 4)
    save_file(tensors, tmp_path / "l.safetensors")
    file = read_lora(tmp_path / "l.safetensors")
    assert file.unknown == ("bundle_emb.c.clip_l",)
    for part, name in spelt.values():
        assert set(file.matched(part, [name, "another.layer"])[0]) == {name}
    assert len(file.matched("unet", ["another.layer"])[1]) == 4


def test_alpha_of_the_header(tmp_path, sd1):
    names = attention(sd1.unet)[:2]
    header = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 5, "unet.r": RANK})}
    file = read_lora(write(tmp_path / "l.safetensors", new, factors(names), header))
    assert {layer.alpha for layer in file.layers["unet"].values()} == {5.0}
    header = {"lora_adapter_metadata": "no json"}
    file = read_lora(write(tmp_path / "m.safetensors", new, factors(names), header))
    assert {layer.alpha for layer in file.layers["unet"].values()} == {float(RANK)}


DOWN, UP = "lora_unet_mid_block_a.lora_down.weight", "lora_unet_mid_block_a.lora_up.weight"
BAD = {
    "a word": ({"<c>": torch.ones(2, 768)}, "is no LoRA; expected a LoRA"),
    "a model": ({f"down_blocks.{i}.weight": torch.ones(2, 2) for i in range(4)}, "a model's weights"),
    "half": ({DOWN: torch.ones(2, 4)}, "one factor without the other"),
    "shapes": ({DOWN: torch.ones(2, 4), UP: torch.ones(4, 3)}, "factors of shapes"),
    "one side": ({DOWN: torch.ones(4), UP: torch.ones(4)}, "factors of shapes"),
    "rank": ({DOWN: torch.ones(100_000, 2), UP: torch.ones(2, 100_000)}, "at most 1024"),
    "alpha": (
        {DOWN: torch.ones(2, 4), UP: torch.ones(4, 2), "lora_unet_mid_block_a.alpha": torch.tensor(0.0)},
        "alpha 0",
    ),
    "dora": ({DOWN: torch.ones(2, 4), UP: torch.ones(4, 2), "lora_unet_a.dora_scale": torch.ones(4)}, "DoRA"),
    "another model": ({"transformer.a.lora_A.weight": torch.ones(2, 4)}, "no layer of a UNet"),
    "nan": ({DOWN: torch.ones(2, 4) / 0}, "NaN or infinite"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_lora(tmp_path, case):
    tensors, message = BAD[case]
    save_file(tensors, tmp_path / "l.safetensors")
    with pytest.raises(ConceptError, match=message) as error:
        read_lora(tmp_path / "l.safetensors")
    assert "\n" not in str(error.value) and "l.safetensors" in str(error.value)


def test_inspect_counts_layers(tmp_path, sd1):
    path = write(tmp_path / "l.safetensors", kohya, factors(attention(sd1.unet)))
    shown = CliRunner().invoke(cli, ["inspect", str(path)])
    assert shown.exit_code == 0 and "LoRA, in the names of kohya" in shown.stdout and "3, 2" in shown.stdout
    told = json.loads(CliRunner().invoke(cli, ["inspect", str(path), "--json"]).stdout)
    assert told["kind"] == "lora" and told["layers"] == {"unet": len(attention(sd1.unet))} and told["unknown"] == []
