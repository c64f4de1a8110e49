"""Tuning on two text encoders and in half precision, and where numbers or memory end: the same LoRA, or nearly."""

import warnings
from dataclasses import replace

import pytest
import torch
from conftest import same, snapshot
from test_rescue import ENDS, halved
from test_tune import QUICK, masked, parts_of, word_of

from sentinv.adapters.install import fresh_layers, learning
from sentinv.adapters.layouts import LoraLayer
from sentinv.generation.generate import GenerateConfig
from sentinv.models.backbone import Backbone
from sentinv.training.blend_objective import BlendedObjective
from sentinv.training.loop import Loop, ParameterGroup
from sentinv.training.rescue import Measures, NoRescue
from sentinv.training.tune import tune

SHORT = replace(QUICK, steps=3, others=0, evaluate_every=3, evaluation_timesteps=2, evaluation_noises=1)
HALVES = [("sd1", torch.float16), ("xl", torch.bfloat16)]


@pytest.fixture
def base(request):
    return Backbone.from_pipeline(request.getfixturevalue(request.param), "tiny")


def each(*values):
    return pytest.mark.parametrize("base", values, indirect=True)


halves = pytest.mark.parametrize(("base", "dtype"), HALVES, indirect=["base"])


@pytest.fixture(autouse=True)
def _random_models_learn_little(monkeypatch):
    monkeypatch.setattr("sentinv.training.blend._SAMPLING", GenerateConfig(steps=1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="nothing was learned|only the middle")
        yield


@pytest.fixture
def predicts(monkeypatch):
    """Lets a function see every call of the UNet, and change its answer or raise."""
    honest = Backbone.predict

    def install(meddle):
        monkeypatch.setattr(Backbone, "predict", lambda self, *given: meddle(self, len(given[0]), honest(self, *given)))

    return install


def gradient_of(backbone, make, rows, parts=1):
    """Loss and gradient of a step on layers that do something, in so many parts."""
    layers = fresh_layers(backbone.unet, ("to_q", "conv1"), 2, torch.Generator().manual_seed(0))
    layers = {name: LoraLayer(one.down, torch.ones_like(one.up), one.alpha) for name, one in layers.items()}
    with rows.installed(backbone), learning(backbone, layers) as adapters:
        data, rescue = make(), NoRescue()
        objective = BlendedObjective(backbone, 0.05, frozen=adapters.off, data=data, fixed_rows=True)
        groups = [ParameterGroup(parameters=adapters.parameters, learning_rate=1e-3)]
        loop = Loop(data, objective, groups, data.config, rescue=rescue)
        rescue.take(Measures(parts=parts))
        loss = loop.backward(data.draw(torch.Generator().manual_seed(5)))
        gradients = [one.grad for one in adapters.parameters.values()]
    assert all(one.dtype == torch.float32 for one in (*adapters.parameters.values(), *gradients))
    return loss, torch.cat([one.flatten() for one in gradients])


def test_two_text_encoders(xl, picture):
    backbone = Backbone.from_pipeline(xl, "tiny")
    before, word = snapshot(backbone), word_of(backbone)
    tuned = tune(backbone, word, picture, replace(QUICK, steps=4, train_rows=True, learning_rate=1e-2))
    assert same(before, snapshot(backbone))
    assert tuned.history.learned and tuned.history.best_loss < tuned.history.start_loss
    assert tuned.concept.rows.keys() == word.rows.keys() == {"text_encoder", "text_encoder_2"}
    assert all(not torch.equal(rows, word.rows[name]) for name, rows in tuned.concept.rows.items())


@halves
def test_a_base_in_half_precision_keeps_its_bits_and_the_layers_are_in_float32(base, picture, dtype):
    """Gradients are those of a base in float32, but for rounding."""
    word = word_of(base)
    rows, make = parts_of(base, masked(picture), SHORT)
    _, whole = gradient_of(base, make, rows)
    before = snapshot(halved(base, dtype))
    _, rounded = gradient_of(base, make, rows)
    assert 0 < (rounded - whole).norm() < 8 * torch.finfo(dtype).eps * whole.norm()
    tuned = tune(base, word, masked(picture), SHORT)
    assert same(before, snapshot(base)) and tuned.dtype == str(dtype).removeprefix("torch.")
    assert len(tuned.history.records) == SHORT.steps and tuned.history.stop == "steps"


@halves
def test_half_precision_that_breaks_in_a_step_goes_on_in_float32(base, picture, predicts, dtype):
    """Oracle: a UNet and text encoders that were in float32 from the start. The model is left as it was."""
    word, before = word_of(base), snapshot(halved(base, dtype))
    predicts(
        lambda backbone, _, answer: (
            answer * float("nan") if backbone.dtype != torch.float32 and answer.requires_grad else answer
        )
    )
    with pytest.warns(UserWarning, match="at step 1: going on from step 0 in float32"):
        rescued = tune(base, word, masked(picture), SHORT)
    assert same(before, snapshot(base)) and base.dtype == dtype
    for part in (base.unet, *(encoder.model for encoder in base.text_encoders)):
        part.float()
    plain = tune(base, word, masked(picture), SHORT)
    assert [one.loss for one in rescued.history.records] == [one.loss for one in plain.history.records]


@each("xl")
def test_half_precision_that_breaks_before_the_first_step_goes_on_in_float32(base, picture, predicts):
    """The thing is looked for, other things are drawn and prompts are encoded first: all of it is done again."""
    halved(base)

    def breaks(backbone, _, answer):
        return answer if backbone.dtype == torch.float32 else answer * float("nan")

    predicts(breaks)
    with pytest.warns(UserWarning, match="to the picture are not finite: going on in float32"):
        history = tune(base, word_of(base), picture, replace(SHORT, others=1)).history
    assert all(record.loss > 0 for record in history.records) and len(history.records) == SHORT.steps
    assert history.stop == "steps" and base.dtype == torch.bfloat16


@each("xl")
def test_parts_have_the_gradient_of_the_whole(base, picture):
    rows, make = parts_of(base, masked(picture), replace(SHORT, others=2))
    loss, whole = gradient_of(base, make, rows)
    for parts in (3, 10):
        again, split = gradient_of(base, make, rows, parts)
        assert torch.allclose(again, loss, rtol=1e-5) and (split - whole).norm() < 1e-5 * whole.norm()


@each("xl")
def test_memory_that_ends_is_gone_on_with_in_parts(base, picture, predicts):
    """Gradient checkpointing first, then batches in parts, and the losses are those of a run that had room."""
    word, before = word_of(base), snapshot(base)
    free = tune(base, word, masked(picture), SHORT)

    def narrow(backbone, size, answer):
        if size > 3:
            raise ENDS[0]
        return answer

    predicts(narrow)
    with pytest.warns(UserWarning, match="batches in 4 parts"):
        rescued = tune(base, word, masked(picture), SHORT)
    assert same(before, snapshot(base)) and not base.unet.is_gradient_checkpointing
    for ours, theirs in zip(rescued.history.records, free.history.records, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-4)
