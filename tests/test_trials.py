"""One run of a study: what is trained, and what is measured."""

from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from judging import random_picture
from PIL import Image

from sentinv.bench.measuring import ConceptPictures
from sentinv.bench.trials import train_curve, training_pictures
from sentinv.concepts.initialization import Initialization, starting_rows
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.errors import SentinvError
from sentinv.files.images import read_image, read_mask
from sentinv.generation.generate import generate
from sentinv.training.config import TrainConfig
from sentinv.training.data import TrainingSet
from sentinv.training.objective import DenoisingObjective
from sentinv.training.train import train_concept

TRAIN = {"steps": 4, "evaluation_timesteps": 4, "evaluation_noises": 1, "blended": 0}


def test_curve_is_the_loss_of_the_rows_of_that_step_on_the_same_grid(sd1_backbone, concepts):
    """Oracle: rows kept at a step, put on the grid of a new training set with another seed, give that step's loss."""
    config = TrainConfig(**TRAIN, learning_rate=0.3)
    start = starting_rows(Initialization("a red mug"), sd1_backbone)
    pictures = training_pictures(concepts[0], 1, masked=False)
    curve = train_curve(sd1_backbone, pictures, start, config, loss_at=(0, 1, 4), keep_at=(0, 1, 4))
    assert [step for step, _ in curve.losses] == [0, 1, 4] == list(curve.rows)
    assert torch.equal(curve.rows[0]["text_encoder"], start.rows["text_encoder"])
    for (step, loss), (_, objective) in zip(curve.losses, curve.objectives, strict=True):
        rows = PlaceholderRows({"<other>": curve.rows[step]})
        with rows.installed(sd1_backbone):
            data = TrainingSet(sd1_backbone, pictures, rows, replace(config, seed=9, batch_size=2))
            assert DenoisingObjective(sd1_backbone, config.min_snr).evaluate(
                data.evaluation_batches()
            ) == pytest.approx((objective, loss), rel=1e-5)
    assert curve.seconds[0] == (0, 0.0) and curve.seconds[1][1] < curve.seconds[2][1]


def test_blended_items_are_trained_on_as_a_word_of_ones_own(sd1_backbone, concepts):
    """Oracle: `train_concept`, whose last rows are those of the last step; without the items they are others."""
    config = TrainConfig(
        **{**TRAIN, "blended": 4}, learning_rate=0.3, scenes=("on the moon",), styles=("a painting of {}",)
    )
    start = starting_rows(Initialization("a red mug"), sd1_backbone)
    pictures = training_pictures(concepts[0], 1, masked=False)
    seen = []
    train_concept(
        sd1_backbone,
        pictures,
        start,
        config,
        watch=lambda loop: seen.append(loop.parameters["rows.text_encoder"].clone()),
    )
    blended, plain = (
        train_curve(sd1_backbone, pictures, start, own, loss_at=(0, 4), keep_at=(4,))
        for own in (config, replace(config, blended=0))
    )
    assert torch.equal(blended.rows[4]["text_encoder"], seen[-1])
    assert not torch.equal(plain.rows[4]["text_encoder"], seen[-1])
    assert blended.losses[0] == plain.losses[0]


def test_progressive_adds_one_vector_after_another(sd1_backbone, concepts, monkeypatch):
    config = TrainConfig(**{**TRAIN, "steps": 6})
    start = starting_rows(Initialization("a red mug"), sd1_backbone)
    pictures = training_pictures(concepts[0], 1, masked=False)
    every = range(7)
    curve = train_curve(sd1_backbone, pictures, start, config, loss_at=every, keep_at=every, progressive=True)
    assert [len(curve.rows[step]["text_encoder"]) for step in every] == [1, 1, 1, 2, 2, 3, 3]
    assert [step for step, _ in curve.losses] == list(every)
    moved = curve.rows[3]["text_encoder"][0] - curve.rows[2]["text_encoder"][0]
    assert 0 < moved.norm() < 0.2  # the first vector goes on from where it was
    ticks = count()
    monkeypatch.setattr("sentinv.training.rolling.time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    seldom = train_curve(sd1_backbone, pictures, start, config, loss_at=(1, 6), keep_at=(), progressive=True)
    assert seldom.seconds == [(1, 1.0), (6, 6.0)]  # of all stages, also where none of their steps is looked at


def test_loss_is_that_of_the_whole_first_picture_whatever_is_trained_on(sd1_backbone, concepts):
    """Without a step all runs have the same loss, though the first picture has a mask, or others are learned as well."""
    start = starting_rows(Initialization("a red mug"), sd1_backbone)
    config = TrainConfig(**{**TRAIN, "steps": 1})
    half = Image.new("L", (16, 16), 0)
    half.paste(255, (0, 0, 8, 16))
    alone = training_pictures(concepts[0], 1, masked=False)
    others = [training_pictures(concepts[0], 3, masked=False), [replace(alone[0], mask=half)]]
    first, *rest = (
        train_curve(sd1_backbone, pictures, start, config, loss_at=(0, 1), keep_at=(1,))
        for pictures in (alone, *others)
    )
    for curve in rest:
        assert curve.losses[0] == first.losses[0] and curve.objectives[0] == first.objectives[0]
        assert not torch.equal(curve.rows[1]["text_encoder"], first.rows[1]["text_encoder"])


def test_training_pictures_and_mask(concepts):
    assert [p.mask for p in training_pictures(concepts[0], 3, masked=False)] == [None] * 3
    assert training_pictures(concepts[0], 1, masked=True)[0].mask.size == (16, 16)
    with pytest.raises(SentinvError, match="has 3 pictures, asked for are 4"):
        training_pictures(concepts[0], 4, masked=False)
    with pytest.raises(SentinvError, match="mask"):
        training_pictures(concepts[0], 2, masked=True)


def test_scores_by_hand(sd1_backbone, concepts, measuring):
    """The reference of a copier: its cosine with the image is 1, with targets and texts that of the picture itself."""
    pictures = ConceptPictures(concepts[0], measuring, (16, 16))
    own = measuring.judge.images([random_picture(0)])[0]
    copied_scores = pictures.scores_of_copying()
    assert copied_scores["clip_i"] == pytest.approx(1, abs=1e-5)
    targets = measuring.judge.images([random_picture(3), random_picture(4)])
    assert copied_scores["clip_i_edits"] == pytest.approx((targets @ own).mean().item(), rel=1e-4)
    texts = measuring.judge.texts(["a photo of on the moon", "a painting of"])
    assert copied_scores["clip_t"] == pytest.approx((texts @ own).mean().item(), rel=1e-4)
    made = measuring.judge.images(generate(sd1_backbone, "a photo of", count=2, seed=0, config=measuring.sampling))
    assert pictures.scores(sd1_backbone, None)["clip_i"] == pytest.approx((made @ own).mean().item(), rel=1e-4)
    assert "lpips" not in copied_scores and copied_scores["rms"] == 0
    inside = np.asarray(read_mask(concepts[0].mask).convert("L").resize((16, 16), Image.Resampling.BOX)) / 255
    ours, theirs = (np.asarray(random_picture(n).convert("RGB"), dtype=float) / 255 for n in (0, 1))
    squares = ((ours - theirs) ** 2).mean(2)
    by_hand = ((squares * inside).sum() / inside.sum()) ** 0.5
    measured = pictures.measure([random_picture(0), random_picture(1)], [[random_picture(2)]] * 2)
    assert measured["rms"] == pytest.approx(by_hand / 2, rel=1e-4)
    assert copied_scores["clip_t_each"] == pytest.approx(
        copied_scores["clip_t"], rel=1e-4
    )  # of one image they are the same


def test_views_that_were_trained_on_are_not_held_out(sd1_backbone, concepts, measuring):
    pictures = ConceptPictures(concepts[0], measuring, (16, 16))
    made = measuring.judge.images(generate(sd1_backbone, "a photo of", count=2, seed=0, config=measuring.sampling))
    views = [measuring.judge.images([read_image(path).image])[0] for path in concepts[0].views]
    for trained in (1, 2):
        near = pictures.scores(sd1_backbone, None, trained=trained)["clip_i_views"]
        expected = [(made @ view).mean().item() for view in views[trained - 1 :]]
        assert near == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    assert "clip_i_views" not in pictures.scores(sd1_backbone, None, trained=3)


def test_scores_of_true_pictures_by_hand(concepts, measuring):
    """A perfect word: other pictures of the thing, and for each edit exactly what it should give."""
    pictures = ConceptPictures(concepts[0], measuring, (16, 16))
    own, *views = (
        measuring.judge.images([read_image(path).image])[0] for path in (concepts[0].image, *concepts[0].views)
    )
    targets = [measuring.judge.images([read_image(path).image])[0] for path in concepts[0].targets]
    texts = measuring.judge.texts(["a photo of on the moon", "a painting of"])
    true_scores = pictures.scores_of_targets()
    assert true_scores["clip_i"] == pytest.approx(sum((own @ view).item() for view in views) / 2, rel=1e-4)
    assert true_scores["clip_i_edits"] == pytest.approx(1, abs=1e-5)
    both = zip(targets, texts, strict=True)
    assert true_scores["clip_t"] == pytest.approx(sum((one @ text).item() for one, text in both) / 2, rel=1e-4)
    assert "clip_i_views" not in true_scores
    for lacking in ("views", "targets"):
        without = ConceptPictures(replace(concepts[0], **{lacking: ()}), measuring, (16, 16))
        with pytest.raises(SentinvError, match="has no views or no targets"):
            without.scores_of_targets()
