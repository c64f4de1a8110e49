"""The loop knows parameters by name: rows of several words, and other weights beside them, train in one run."""

from dataclasses import replace

import torch

from sentinv.concepts.initialization import Initialization, starting_rows
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.training.config import TrainConfig
from sentinv.training.data import Batch, TrainingSet
from sentinv.training.loop import Loop, ParameterGroup
from sentinv.training.objective import DenoisingObjective
from sentinv.training.train import rows_group

CONFIG = TrainConfig(steps=6, evaluate_every=3, evaluation_timesteps=2, batch_size=2, schedule="cosine")


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
            rows_group(rows, backbone, 0.1),
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
