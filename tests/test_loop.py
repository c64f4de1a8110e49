"""The loop knows parameters by name: rows of several words, and other weights beside them, train in one run."""

from dataclasses import replace

import pytest
import torch

from sentinv.concepts.initialization import Initialization, starting_rows
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.models.backbone import Backbone
from sentinv.training.config import TrainConfig
from sentinv.training.data import Batch, TrainingSet
from sentinv.training.lengths import Lengths
from sentinv.training.loop import Loop, ParameterGroup
from sentinv.training.objective import DenoisingObjective
from sentinv.training.train import rows_groups, train_concept

CONFIG = TrainConfig(steps=6, evaluate_every=3, evaluation_timesteps=2, batch_size=2, blended=0, schedule="cosine")


class Both:
    """Batches of two words: half of the items are the one's, half the other's."""

    def __init__(self, *sets):
        self.sets = sets

    def draw(self, generator):
        first, second = (one.draw(generator) for one in self.sets)
        together = {
            name: torch.cat([getattr(first, name), getattr(second, name)])
            for name in ("latents", "noise", "timesteps", "alphas_cumprod")
        }
        ids = {name: torch.cat([own, second.ids[name]]) for name, own in first.ids.items()}
        return Batch(**together, ids=ids, mask=None)


class Shifted(DenoisingObjective):
    """An objective with weights of its own, which asks the model twice: as it is, and with another word."""

    def __init__(self, backbone, shift):
        super().__init__(backbone, 0.05)
        self.shift = shift

    def __call__(self, batch):
        with torch.no_grad():
            teacher = self.errors(batch)
        return super().__call__(batch) + (teacher - self.shift.mean()).square()


def build(backbone, picture, shift):
    starts = {token: starting_rows(Initialization(words), backbone).rows for token, words in WORDS.items()}
    rows = PlaceholderRows(starts)
    with rows.installed(backbone):
        sets = [TrainingSet(backbone, [picture], rows, CONFIG, token=token) for token in rows.vocabulary]
        groups = [
            *rows_groups(rows, backbone, replace(CONFIG, learning_rate=0.1)),
            ParameterGroup(parameters={"shift": shift}, learning_rate=0.01),
        ]
        loop = Loop(Both(*sets), Shifted(backbone, shift), groups, CONFIG, evaluation=sets[0].evaluation_batches())
    return rows, loop


WORDS = {"<a>": "a mug", "<b>": "red cat on the moon"}


def test_rows_of_two_words_and_other_weights_train_together(sd1_backbone, picture):
    shift = torch.nn.Parameter(torch.zeros(1, 2))
    rows, loop = build(sd1_backbone, picture, shift)
    before = {token: rows.of(token)["text_encoder"] for token in WORDS}
    with rows.installed(sd1_backbone):
        list(loop.steps())
    assert all(not torch.equal(rows.of(token)["text_encoder"], before[token]) for token in WORDS)
    assert shift.detach().abs().max() > 0
    assert set(loop.best) == {"rows.text_encoder", "shift"}
    first, second = loop.optimizer.param_groups
    assert first["lr"] == 10 * second["lr"] and loop.history.records[0].learning_rate == 0.1


def test_all_of_it_resumes_from_one_checkpoint(sd1_backbone, picture):
    shifts = [torch.nn.Parameter(torch.zeros(1, 2)) for _ in range(2)]
    whole_rows, whole = build(sd1_backbone, picture, shifts[0])
    with whole_rows.installed(sd1_backbone):
        steps = whole.steps()
        while next(steps) < 4:
            pass
        checkpoint = whole.checkpoint({})
        list(steps)
    rows, resumed = build(sd1_backbone, picture, shifts[1])
    with rows.installed(sd1_backbone):
        resumed.restore(checkpoint)
        list(resumed.steps())
    assert torch.equal(shifts[0], shifts[1])
    assert all(torch.equal(whole.best[name], own) for name, own in resumed.best.items())
    assert resumed.history.records == whole.history.records


def test_a_batch_is_cut_whatever_its_fields(sd1_backbone, picture):
    rows = PlaceholderRows({"<a>": starting_rows(Initialization("a mug"), sd1_backbone).rows})
    batch = TrainingSet(sd1_backbone, [picture], rows, replace(CONFIG, batch_size=5)).draw(torch.Generator())
    parts = batch.parts(2)
    assert [len(part) for part in parts] == [3, 2]
    assert torch.equal(torch.cat([part.ids["text_encoder"] for part in parts]), batch.ids["text_encoder"])


def test_the_relative_rate_is_of_the_vocabulary_s_own_size(xl):
    backbone = Backbone.from_pipeline(xl, "tiny")
    config = TrainConfig(relative_learning_rate=0.5)
    start = starting_rows(Initialization("a mug"), backbone)
    groups = rows_groups(PlaceholderRows({"<a>": start.rows}), backbone, config)
    assert len(groups) == 2  # one for each text encoder
    for encoder, group in zip(backbone.text_encoders, groups, strict=True):
        usual = encoder.table.weight.norm(dim=1).median().item()
        assert group.learning_rate == pytest.approx(0.5 * usual / encoder.dim**0.5)
    same = rows_groups(PlaceholderRows({"<a>": start.rows}), backbone, replace(config, learning_rate=0.01))
    assert {group.learning_rate for group in same} == {0.01}


@pytest.mark.parametrize("held", [{"fixed_norms": True}, {"fixed_norms": True, "max_norm": 0.5}, {"max_norm": 1.5}])
def test_rows_keep_lengths(sd1_backbone, picture, held):
    config = replace(CONFIG, relative_learning_rate=1.0, schedule="constant", **held)
    free = replace(config, fixed_norms=False, max_norm=None)
    start = starting_rows(Initialization("red cat on the moon"), sd1_backbone)
    before = start.rows["text_encoder"].norm(dim=1)
    learned = {
        name: train_concept(sd1_backbone, [picture], start, one)[0].rows["text_encoder"]
        for name, one in {"held": config, "free": free}.items()
    }
    limit = 1.5 * sd1_backbone.text_encoders[0].median_norm
    assert (learned["free"].norm(dim=1) > limit).all()
    after = learned["held"].norm(dim=1)
    if "fixed_norms" not in held:
        assert (after <= torch.clamp(before, min=limit) * 1.0001).all()
    else:
        torch.testing.assert_close(after, before)
    assert (torch.cosine_similarity(learned["held"], start.rows["text_encoder"], dim=1) < 0.99).all()


def test_a_fixed_length_takes_the_radial_part_out_of_the_gradient():
    parameter = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    parameter.grad = torch.tensor([[1.0, 1.0], [5.0, 7.0]])
    lengths = Lengths.fixed_to({"rows": parameter})
    lengths.before_step({"rows": parameter})
    torch.testing.assert_close((parameter.grad * parameter).sum(dim=1), torch.zeros(2))
    torch.testing.assert_close(parameter.grad[1], torch.tensor([5.0, 0.0]))
    with torch.no_grad():
        parameter *= 3
    lengths.after_step({"rows": parameter})
    torch.testing.assert_close(parameter.detach(), torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
