"""Numbers that go wrong and memory that ends, at any step: the run goes on to the same result, or stops and says so."""

import warnings
from dataclasses import replace

import pytest
import torch
from conftest import same, snapshot

import sentinv.training.rescue
from sentinv.concepts.initialization import Initialization, starting_rows
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.errors import Interrupted, TrainingError
from sentinv.models.backbone import Backbone
from sentinv.models.memory import is_out_of_memory
from sentinv.training.checkpoint import Checkpoints
from sentinv.training.config import TrainConfig
from sentinv.training.data import TrainingSet
from sentinv.training.history import RUNAWAY
from sentinv.training.loop import Loop
from sentinv.training.objective import DenoisingObjective
from sentinv.training.train import rows_groups, train_concept

CONFIG = TrainConfig(blended=0, steps=6, evaluate_every=3, evaluation_timesteps=2, checkpoint_every=1)
WORDS = Initialization("red cat")
ENDS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("MPS backend out of memory"),
]


@pytest.fixture(autouse=True)
def _random_models_learn_little():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="nothing was learned")
        yield


@pytest.fixture
def predicts(monkeypatch):
    """Lets a function see every call of the UNet, and change its answer or raise."""
    honest = Backbone.predict

    def install(meddle):
        calls = []

        def predict(self, latents, timesteps, condition):
            calls.append(len(latents))
            return meddle(self, len(calls), latents, honest(self, latents, timesteps, condition))

        monkeypatch.setattr(Backbone, "predict", predict)
        return calls

    return install


def rows_of(concept):
    return concept.rows["text_encoder"]


def halved(backbone, dtype=torch.bfloat16):
    for part in backbone._modules():
        part.to(dtype)
    return backbone


def breaks_in_half_precision(backbone, number, latents, answer):
    return answer * float("nan") if backbone.dtype != torch.float32 and number >= 2 else answer


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_that_breaks_goes_on_in_float32(sd1, picture, predicts, dtype):
    """Oracle: a UNet and text encoders that were in float32 from the start. The model is left as it was."""
    backbone = halved(Backbone.from_pipeline(sd1, "tiny"), dtype)
    before = snapshot(backbone)
    calls = predicts(breaks_in_half_precision)  # the second call of all is the first step's
    with pytest.warns(UserWarning, match="at step 1: going on from step 0 in float32"):
        rescued, history = train_concept(backbone, [picture], WORDS, CONFIG)
    assert same(before, snapshot(backbone)) and backbone.dtype == dtype
    assert history.stop == "steps" and [record.step for record in history.records] == [1, 2, 3, 4, 5, 6]
    for part in (backbone.unet, backbone.text_encoders[0].model):
        part.float()
    plain, wanted = train_concept(backbone, [picture], WORDS, CONFIG)
    assert history.records == wanted.records and len(calls) == 10 + 9
    assert history.best_step == wanted.best_step and torch.equal(rows_of(rescued), rows_of(plain))


def test_a_start_that_breaks_in_half_precision_is_taken_in_float32(sd1_backbone, picture, predicts):
    predicts(lambda backbone, number, latents, answer: breaks_in_half_precision(backbone, 9, latents, answer))
    with pytest.warns(UserWarning, match="start is nan: going on in float32"):
        _, history = train_concept(halved(sd1_backbone), [picture], WORDS, CONFIG)
    assert history.stop == "steps" and all(record.loss > 0 for record in history.records)


def test_a_rescued_run_resumes_to_the_same_bytes(sd1_backbone, picture, predicts, tmp_path):
    predicts(lambda b, number, latents, answer: breaks_in_half_precision(b, number - 2, latents, answer))
    with pytest.warns(UserWarning, match="going on from step 2 in float32"):
        whole, history = train_concept(halved(sd1_backbone), [picture], WORDS, CONFIG)

    def interrupt(record):
        if record.step == 4:
            raise Interrupted("killed", 9)

    predicts(lambda b, number, latents, answer: breaks_in_half_precision(b, number - 2, latents, answer))
    with pytest.raises(Interrupted), pytest.warns(UserWarning, match="float32"):
        train_concept(sd1_backbone, [picture], WORDS, CONFIG, checkpoints=Checkpoints(tmp_path), on_step=interrupt)
    resumed, after = train_concept(
        sd1_backbone, [picture], WORDS, CONFIG, checkpoints=Checkpoints(tmp_path, resume=True)
    )
    assert resumed.to_bytes() == whole.to_bytes() and after.records == history.records


@pytest.mark.parametrize("step", [1, 4, 6])
def test_what_breaks_in_float32_stops_with_the_last_good_rows(sd1_backbone, picture, predicts, step):
    """Also where only the gradient is not finite: the loss does not show it, the rows do."""
    good, _ = train_concept(sd1_backbone, [picture], WORDS, replace(CONFIG, steps=step - 1, schedule="constant"))

    def explodes(backbone, number, latents, answer):
        if answer.requires_grad and number - 1 - (step - 1) // 3 == step:
            answer.register_hook(lambda gradient: gradient * float("inf"))
        return answer

    predicts(explodes)
    with pytest.warns(UserWarning, match=f"not finite at step {step}: stopped"):
        concept, history = train_concept(sd1_backbone, [picture], WORDS, replace(CONFIG, schedule="constant"))
    assert history.stop == "not finite" and len(history.records) == step - 1
    assert torch.equal(rows_of(concept), rows_of(good))


def test_an_evaluation_that_is_not_finite_stops_too(sd1_backbone, picture, predicts):
    predicts(lambda b, number, latents, answer: answer * float("nan") if number == 5 else answer)
    with pytest.warns(UserWarning, match="not finite"):
        _, history = train_concept(sd1_backbone, [picture], WORDS, CONFIG)
    assert history.stop == "not finite" and len(history.records) == 2


@pytest.mark.parametrize("learning_rate", [1e-5, 0.3, 10.0])
def test_any_learning_rate_ends_bounded(sd1_backbone, picture, learning_rate):
    config = replace(CONFIG, steps=12, learning_rate=learning_rate, max_norm=None, schedule="constant", batch_size=1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        concept, history = train_concept(sd1_backbone, [picture], WORDS, config)
    longest = rows_of(concept).norm(dim=1).max() / sd1_backbone.text_encoders[0].median_norm
    assert torch.isfinite(longest) and longest <= RUNAWAY
    assert history.stop == ("steps" if learning_rate < 10 else "runaway")
    assert ("more than 1000 times" in str([one.message for one in told])) == (history.stop == "runaway")


@pytest.mark.parametrize("end", ENDS, ids=["cuda", "mps"])
@pytest.mark.parametrize("at", [1, 2, 5])
def test_memory_that_ends_once_changes_nothing(sd1_backbone, picture, predicts, at, end):
    """At the start's evaluation, in a step, in a later evaluation: gradient checkpointing, and on."""
    free, _ = train_concept(sd1_backbone, [picture], WORDS, CONFIG)

    def ends(backbone, number, latents, answer):
        if number == at:
            raise end
        return answer

    predicts(ends)
    with pytest.warns(UserWarning, match="out of memory: going on with gradient checkpointing"):
        rescued, history = train_concept(sd1_backbone, [picture], WORDS, CONFIG)
    assert torch.allclose(rows_of(rescued), rows_of(free), atol=1e-6) and len(history.records) == CONFIG.steps
    assert not sd1_backbone.unet.is_gradient_checkpointing


@pytest.mark.parametrize("most", [1, 3])
def test_a_batch_in_parts_gives_the_same_rows(sd1_backbone, picture, predicts, most):
    config = replace(CONFIG, batch_size=5, min_snr=5.0)
    free, wanted = train_concept(sd1_backbone, [picture], WORDS, config)

    def narrow(backbone, number, latents, answer):
        if len(latents) > most:
            raise ENDS[0]
        return answer

    calls = predicts(narrow)
    with pytest.warns(UserWarning, match="parts"):
        rescued, history = train_concept(sd1_backbone, [picture], WORDS, config)
    assert calls[-1] <= most
    assert torch.allclose(rows_of(rescued), rows_of(free), atol=1e-5)
    assert [r.loss for r in history.records] == pytest.approx([r.loss for r in wanted.records], rel=1e-5)


def test_no_room_for_a_single_item_is_one_line_with_figures(backbone, picture, predicts):
    def ends(backbone, number, latents, answer):
        raise ENDS[1]

    predicts(ends)
    with pytest.warns(UserWarning), pytest.raises(TrainingError) as told:
        train_concept(backbone, [picture], WORDS, CONFIG)
    assert str(told.value).isprintable()
    assert pytest.approx(1, abs=1) == int(str(told.value).split("about ")[1].split(" MB")[0])
    assert not backbone.unet.is_gradient_checkpointing


def test_other_errors_are_not_taken_for_it(sd1_backbone, picture, predicts):
    def fails(backbone, number, latents, answer):
        raise RuntimeError("expected all tensors on one device")

    predicts(fails)
    with pytest.raises(RuntimeError, match="one device"):
        train_concept(sd1_backbone, [picture], WORDS, CONFIG)
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"))


def test_no_room_for_float32_stops_with_the_last_good_rows(sd1_backbone, picture, predicts, monkeypatch):
    """The weights that were made larger before memory ended are as they were."""
    honest, seen = sentinv.training.rescue._retype, []

    def retype(tensor, dtype):
        if dtype == torch.float32 and len(seen) == 5:
            raise ENDS[0]
        seen.append(dtype)
        honest(tensor, dtype)

    monkeypatch.setattr("sentinv.training.rescue._retype", retype)
    predicts(breaks_in_half_precision)
    before = snapshot(halved(sd1_backbone))
    with pytest.warns(UserWarning, match="not finite at step 1: stopped"):
        _, history = train_concept(sd1_backbone, [picture], WORDS, CONFIG)
    assert history.stop == "not finite" and same(before, snapshot(sd1_backbone))
    assert seen == [torch.float32] * 5 + [torch.bfloat16] * 6  # the last of them had not changed yet


def test_rows_that_are_not_finite_are_seen_in_any_text_encoder(xl, picture):
    backbone = Backbone.from_pipeline(xl, "tiny")
    start = starting_rows(WORDS, backbone)
    for bad in start.rows:
        rows = PlaceholderRows({"<c>": {name: own.clone() for name, own in start.rows.items()}})
        with rows.installed(backbone):
            data, groups = TrainingSet(backbone, [picture], rows, CONFIG), rows_groups(rows, backbone, CONFIG)
            run = Loop(data, DenoisingObjective(backbone, None), groups, CONFIG)
            assert run._wrong([0.0]) == ""
            with torch.no_grad():
                rows.rows[bad][0, 0] = float("nan")
            assert run._wrong([0.0]) == "not finite"
