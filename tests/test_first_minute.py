"""What docs/models.md says that one sees in the first minute is what `selftest` prints, for each row of its table."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import build_text_config
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from sentinv import selftest as module
from sentinv.cli.main import cli
from sentinv.models.backbone import Backbone
from sentinv.models.names import SHORT_NAMES
from sentinv.models.published import deviations, is_published, supported
from sentinv.models.text_encoder import TextEncoder
from sentinv.models.verdict import judged
from sentinv.selftest import selftest

HERE = Path(__file__).parent
TEXT = (HERE.parent / "docs" / "models.md").read_text(encoding="utf-8")
ROWS = {
    first: cells
    for line in TEXT.split("## A model is judged once")[0].splitlines()
    if line.startswith("| ")
    for first, *cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}
CONFIGS = {
    "`sd15`, `sd14`": "sd15",
    "`sd21-base`": "sd21-base",
    "`sd21`": "sd21",
    "`sdxl`": "sdxl",
    "XL that predicts v": "xl-v-zero-snr",
    "Turbo, Lightning, LCM": "sdxl-turbo",
}
"""Row of the table → the published configs that it is held against."""

SMALL = {"block_out_channels": (8,) * 4, "norm_num_groups": 4, "layers_per_block": 1}


def built(name, tokenizer):
    """A model by its published configs: narrow and shallow, all else as they say."""
    said = json.loads((HERE / "configs" / f"{name}.json").read_text())
    blocks = len(said["unet"]["block_out_channels"])
    unet = said["unet"] | SMALL | {"block_out_channels": (8,) * blocks, "attention_head_dim": 4}
    encoders = []
    for part, kind in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection)):
        if config := said.get(part):
            text = build_text_config(tokenizer, config["hidden_size"], projection_dim=config["projection_dim"])
            encoders.append(TextEncoder(part, tokenizer, kind(text)))
    return Backbone(
        "it",
        UNet2DConditionModel.from_config(unet),
        AutoencoderKL.from_config(said["vae"] | SMALL),
        encoders,
        DDIMScheduler.from_config(said["scheduler"] | {"clip_sample": False}),
        guidance_scale=1 if "turbo" in name else None,
    )


def test_every_short_name_and_family_is_in_the_table():
    named = {name for row in ROWS for name in re.findall("`([^`]+)`", row)}
    assert named - {"--model"} == {*SHORT_NAMES, "toybox"}
    assert {*CONFIGS, "`toybox`", "`--model`"} == {*ROWS} - {row for row in ROWS if set(row) <= set("- ")}


@pytest.mark.parametrize("row", CONFIGS)
def test_the_first_line_and_the_second_are_those_of_the_table(row, tokenizer):
    backbone = built(CONFIGS[row], tokenizer)
    line, published, *_ = ROWS[row]
    named = re.split("[,;] (?:Turbo )?", line)
    if named[0].startswith("as "):  # another row, but for what is named here
        del named[0]
    assert all(f"{one}," in f"{supported(backbone)}," for one in named)
    said = re.findall("`([^`…]+)…?`", published)
    assert (published == "ok") == (not deviations(backbone)) == (not said)
    assert all(any(found.startswith(one) for found in deviations(backbone)) for one in said)


@pytest.mark.parametrize("row", CONFIGS)
def test_a_published_family_that_is_not_told_is_wrong(row, tokenizer):
    """Random weights in a model as it was published; one of few steps may not be told."""
    backbone = built(CONFIGS[row], tokenizer)
    silent = [replace(check, passed=None) for check in CHECKS]
    verdict = judged(backbone, silent)
    if ROWS[row][-1] == "may not be told":
        assert verdict.says == "cannot tell" and not is_published(backbone)
    else:
        assert verdict.says == "wrong" and "not those of a trained stable-diffusion" in verdict.why
    assert judged(backbone, CHECKS).says == "right"
    assert judged(backbone, [*CHECKS, replace(CHECKS[0], passed=False)]).says == "wrong"


CHECKS = [
    module.Check("the autoencoder gives a picture back", True, 0.0, 1.0, 0.0, "", of_weights=True),
    module.Check("the model predicts epsilon", True, 1.0, 1.5, 0.0, "", of_weights=True),
    module.Check("another", True, 0.0, 1.0, 0.0, ""),
]


def test_the_two_lines_in_which_the_weights_answer(sd1_backbone):
    checks = [check for check in selftest(sd1_backbone, 2) if check.of_weights]
    assert [check.name.split(" (")[0] for check in checks] == [
        "the autoencoder gives a picture back",
        "the model predicts epsilon, as its scheduler says",
    ]
    assert all(f"*{words}" in " ".join(TEXT.split()) for words in ("the autoencoder gives", "the model predicts …, as"))


def test_the_built_in_model_is_as_the_table_says():
    line, published, *answers = ROWS["`toybox`"]
    result = CliRunner().invoke(cli, ["selftest", "--steps", "4"])
    said = result.stdout.splitlines()
    assert result.exit_code == 0, result.stderr
    assert line in said[0] and (published, answers) == ("says what differs", ["ok", "ok"])
    assert said[1].startswith("—   ") and "not all" in said[1]
    assert said[-1] == f"right: none of {len(said) - 1} checks failed"


def test_the_last_line_and_the_exit_code(_pipelines, tmp_path, monkeypatch):
    _pipelines["sd1"].save_pretrained(tmp_path / "model")
    arguments = ["selftest", "--model", str(tmp_path / "model"), "--steps", "2"]
    result = CliRunner().invoke(cli, arguments)
    assert (result.exit_code, result.stdout.splitlines()[-1].split(":")[0]) == (0, "cannot tell")
    with monkeypatch.context() as patch:
        patch.setattr("sentinv.models.verdict.is_published", lambda backbone: True)
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 1
        assert "error: wrong: its weights are not those of a trained" in result.stderr.splitlines()[-1]
        result = CliRunner().invoke(cli, [*arguments, "--json"])
        found = json.loads(result.stdout)
        assert (result.exit_code, found["verdict"], found["passed"]) == (1, "wrong", False)
    monkeypatch.setattr(module, "_CHECKS", (lambda bench: ("it goes both ways", 1.0, 0.0, ""),))
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1 and "wrong: 1 of 1 checks failed: it goes both ways" in result.stderr.splitlines()[-1]
