"""The selftest passes on sound models of any weights, and finds what is wrong with the others."""

import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from sentinv import selftest as module
from sentinv.cli.main import cli
from sentinv.selftest import drawing, selftest


def failures(backbone, steps=5):
    return [check.name for check in selftest(backbone, steps) if check.passed is False]


def fails(backbone, check, monkeypatch):
    """Whether one check by itself fails."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "_CHECKS", (check,))
        (outcome,) = selftest(backbone, 5)
    return outcome.passed is False


def test_a_sound_model_passes(backbone):
    checks = list(selftest(backbone, 5))
    assert [check.name for check in checks if check.passed is False] == []
    assert sum(check.passed is True for check in checks) >= 10
    assert all(check.seconds >= 0 and check.name in str(check) for check in checks)


def test_an_xl_model_passes(xl):
    from sentinv.models.backbone import Backbone

    assert failures(Backbone.from_pipeline(xl, "tiny")) == []


@pytest.mark.parametrize("right", ["epsilon", "v_prediction"])
def test_finds_a_wrong_prediction_type(sd1_backbone, monkeypatch, right):
    """A model that knows the drawing by heart, and predicts as `right` says."""
    from sentinv.diffusion.conversions import target
    from sentinv.editing.edit import encode_image, prepared

    clean = encode_image(sd1_backbone, prepared(sd1_backbone, drawing(sd1_backbone.resolution)))

    def predict(latents, timesteps, condition):
        alpha = sd1_backbone.schedule.alphas_cumprod[timesteps]
        level = alpha.reshape(-1, 1, 1, 1)
        eps = (latents - level.sqrt() * clean) / (1 - level).sqrt()
        return target(clean.expand_as(latents), eps, alpha, right)

    monkeypatch.setattr(sd1_backbone, "predict", predict)
    for said in ("epsilon", "v_prediction"):
        config = {**sd1_backbone.schedule.config, "prediction_type": said}
        sd1_backbone.schedule = replace(sd1_backbone.schedule, prediction_type=said, config=config)
        (check,) = [check for check in selftest(sd1_backbone, 10) if "as its scheduler says" in check.name]
        assert check.passed is (said == right)
        assert said == right or f"set prediction_type to {right}" in str(check)


def test_finds_faults(sd1_backbone, monkeypatch):
    def mixing(latents, timesteps, condition, plain=sd1_backbone.predict):
        return plain(latents, timesteps, condition) + latents.mean(0, keepdim=True)

    def deaf(latents, timesteps, condition, plain=sd1_backbone.predict):
        return plain(latents, timesteps, condition[torch.zeros(len(latents), dtype=torch.int64)])

    own = sd1_backbone.schedule
    faults = [
        (module._batches, sd1_backbone, "predict", mixing),
        (module._words, sd1_backbone, "predict", deaf),
        (module._scheduler, sd1_backbone, "schedule", replace(own, alphas_cumprod=own.alphas_cumprod**1.05)),
        (module._both_ways, module, "ddim_step", lambda x, eps, a, b: x * 0.9),
        (module._conversions, module, "to_epsilon", lambda answer, *_: answer),
        (module._mask, module, "edit_masked", lambda *_, **__: Changed()),
        (module._offsets, module, "edit", lambda *_, **__: Changed()),
        (module._noise_maps, module, "edit", lambda *_, **__: Changed()),
        (module._fixed_point, module, "walk", lambda denoise, x, grid: x),
    ]
    for check, place, name, fault in faults:
        assert not fails(sd1_backbone, check, monkeypatch), check.__name__
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fault)
            assert fails(sd1_backbone, check, monkeypatch), check.__name__


class Changed:
    """An edit that keeps nothing."""

    latents = torch.zeros(1, 4, 8, 8)
    image = Image.new("RGB", (16, 16))


def test_half_precision_passes(sd1_backbone):
    sd1_backbone.unet.to(torch.bfloat16)
    assert failures(sd1_backbone, 2) == []


def test_the_command(_pipelines, tmp_path):
    _pipelines["sd2"].save_pretrained(tmp_path / "model")
    arguments = ["selftest", "--model", str(tmp_path / "model"), "--steps", "4"]
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["passed"]
    config = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace('"clip_sample": false', '"clip_sample": true'))
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    assert "clip_sample" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("steps", [48, 61])
def test_trailing_steps_are_rounded_as_diffusers_rounds_them(sd1_backbone, steps):
    scheduler = {**sd1_backbone.schedule.config, "timestep_spacing": "trailing"}
    schedule = sd1_backbone.schedule
    sd1_backbone.schedule = schedule.with_config(scheduler)
    try:
        assert "sampling steps are those of diffusers" not in failures(sd1_backbone, steps)
    finally:
        sd1_backbone.schedule = schedule
