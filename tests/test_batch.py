"""Many words in one pass: each comes out as it would in any other company."""

from dataclasses import replace

import pytest
import torch
from conftest import same, snapshot

from sentinv.concepts.initialization import Initialization, starting_rows
from sentinv.concepts.placeholder import Shelf
from sentinv.errors import ConceptError
from sentinv.files.decoding import Picture
from sentinv.training.batch import Job, train_concepts
from sentinv.training.config import TrainConfig
from sentinv.training.train import train_concept

CONFIG = TrainConfig(steps=6, evaluate_every=2, evaluation_timesteps=2, batch_size=2, blended=0)
WORDS = ("a mug", "red cat on the moon", "a dog", "blue", "a cat tail", "a rainbow striped mug")


@pytest.fixture
def jobs(picture):
    """Six words of different lengths, pictures and seeds."""
    return [
        Job(
            images=[picture.rotate(15 * n)],
            initialization=Initialization(words),
            token=f"<w{n}>",
            config=replace(CONFIG, seed=n),
        )
        for n, words in enumerate(WORDS)
    ]


def learned(backbone, jobs, **options):
    """Token → the word's bytes."""
    outcomes = list(train_concepts(backbone, jobs, CONFIG, **options))
    assert not [outcome.error for outcome in outcomes if outcome.error]
    return {outcome.job.token: outcome.concept.to_bytes() for outcome in outcomes}


def test_one_at_a_time_has_the_bits_of_train_concept(backbone, jobs):
    before = snapshot(backbone)
    alone = {
        job.token: train_concept(backbone, job.images, job.initialization, job.config, token=job.token)[0].to_bytes()
        for job in jobs
    }
    assert learned(backbone, jobs, at_once=1) == alone
    assert same(before, snapshot(backbone))


def test_a_word_is_the_same_in_any_company(sd1_backbone, jobs):
    """Other neighbours, other places, alone in a batch made for three: the same bits."""
    together = learned(sd1_backbone, jobs, at_once=3)
    assert learned(sd1_backbone, jobs[::-1], at_once=3) == together
    assert learned(sd1_backbone, [jobs[0], jobs[5], jobs[1]], at_once=3) == {
        t: together[t] for t in ("<w0>", "<w5>", "<w1>")
    }
    assert learned(sd1_backbone, jobs[4:5], at_once=3)["<w4>"] == together["<w4>"]


def test_batches_of_any_size_give_nearly_the_same_gradients_and_losses(sd1_backbone, jobs):
    """Rounding differs with the size of a batch; AdamW divides gradients by their size, and entries of little one may drift."""
    first, *others = (
        {o.job.token: o for o in train_concepts(sd1_backbone, jobs, CONFIG, at_once=at_once)} for at_once in (1, 2, 6)
    )
    for outcomes in others:
        for token, outcome in outcomes.items():
            mine, theirs = outcome.history, first[token].history
            assert mine.records[0].loss == pytest.approx(theirs.records[0].loss, rel=1e-5)
            assert mine.best_loss == pytest.approx(theirs.best_loss, rel=1e-4)
            for name, rows in first[token].concept.rows.items():
                assert (outcome.concept.rows[name] - rows).abs().max() <= 5e-4 * rows.abs().max()


def test_a_word_that_is_over_gives_its_place_to_the_next(sd1_backbone, jobs):
    """Of steps 2, 6, 2, 2 the three short ones take turns beside the long one."""
    steps = (2, 6, 2, 2)
    short = [replace(job, config=replace(CONFIG, steps=n)) for job, n in zip(jobs, steps, strict=False)]
    order = [outcome.index for outcome in train_concepts(sd1_backbone, short, at_once=2)]
    assert order[:2] == [0, 2] and set(order[2:]) == {1, 3}


def test_stop_auto_frees_a_place_and_changes_no_neighbour(sd1_backbone, jobs):
    auto = replace(jobs[0], config=replace(CONFIG, steps=40, stop="auto", patience=1, min_improvement=0.9))
    outcomes = {o.index: o for o in train_concepts(sd1_backbone, [auto, *jobs[1:3]], at_once=2)}
    assert outcomes[0].history.stop == "auto" and outcomes[0].history.records[-1].step == 2
    alone = learned(sd1_backbone, jobs[1:3], at_once=2)
    assert {outcomes[n].job.token: outcomes[n].concept.to_bytes() for n in (1, 2)} == alone


def test_a_job_that_fails_does_not_stop_the_others(sd1_backbone, jobs, picture):
    empty = Picture(image=picture, mask=picture.convert("L").point(lambda _: 0))
    bad = [replace(jobs[1], initialization=Initialization("")), replace(jobs[2], images=[empty])]
    outcomes = {o.index: o for o in train_concepts(sd1_backbone, [jobs[0], *bad, jobs[3]], at_once=2)}
    assert "expected words to start from" in str(outcomes[1].error)
    assert "white" in str(outcomes[2].error)
    assert {outcomes[n].job.token: outcomes[n].concept.to_bytes() for n in (0, 3)} == learned(
        sd1_backbone, [jobs[0], jobs[3]], at_once=2
    )


def test_numbers_that_fail_for_one_word_fail_for_no_other(sd1_backbone, jobs):
    start = starting_rows(jobs[1].initialization, sd1_backbone)
    start.rows["text_encoder"][0, 0] = float("inf")
    outcomes = {
        o.index: o
        for o in train_concepts(sd1_backbone, [jobs[0], replace(jobs[1], initialization=start), jobs[2]], at_once=3)
    }
    assert "loss of the start" in str(outcomes[1].error)
    whole = learned(sd1_backbone, [jobs[0], jobs[2]], at_once=3)
    assert {outcomes[n].job.token: outcomes[n].concept.to_bytes() for n in (0, 2)} == whole


def test_words_with_masks_and_blended_ones_share_a_batch(sd1_backbone, jobs, picture):
    mask = picture.convert("L").point(lambda value: 255 * (value > 100))
    mixed = [
        jobs[0],
        replace(jobs[1], images=[Picture(image=picture, mask=mask)]),
        replace(jobs[2], config=replace(CONFIG, blended=1)),
        replace(jobs[3], config=replace(CONFIG, min_snr=None)),
        replace(jobs[4], config=replace(CONFIG, batch_size=3)),
    ]
    together = learned(sd1_backbone, mixed, at_once=5)
    for job in mixed:
        assert learned(sd1_backbone, [job], at_once=5)[job.token] == together[job.token]


def test_blended_words_share_their_calls(sd1_backbone, jobs):
    """Two calls for a step of three words: what they learn from, and what the frozen model says of half of it."""
    config = replace(CONFIG, steps=1, batch_size=2, blended=2, evaluate_every=9)
    calls = []
    hook = sd1_backbone.unet.register_forward_pre_hook(
        lambda module, arguments: calls.append((torch.is_grad_enabled(), len(arguments[0])))
    )
    blended = [replace(job, config=replace(config, seed=job.config.seed)) for job in jobs[:3]]
    together = learned(sd1_backbone, blended, at_once=3)
    hook.remove()
    first = calls.index((True, 12))
    assert calls[first - 1] == (False, 6) and [own for own in calls if own[0]] == [(True, 12)]
    assert learned(sd1_backbone, blended[::-1], at_once=3) == together


def test_two_encoders(xl, jobs):
    from sentinv.models.backbone import Backbone

    backbone = Backbone.from_pipeline(xl, "tiny")
    assert learned(backbone, jobs[:3], at_once=2) == learned(backbone, jobs[:3][::-1], at_once=2)


def test_nothing_to_train_takes_no_place(sd1_backbone, jobs):
    still = [replace(job, config=replace(CONFIG, steps=0)) for job in jobs]
    outcomes = list(train_concepts(sd1_backbone, still, at_once=2))
    assert [o.index for o in outcomes] == list(range(6)) and all(o.history.best_step == 0 for o in outcomes)
    assert not list(train_concepts(sd1_backbone, []))


def test_an_abandoned_batch_leaves_the_model_as_it_was(sd1_backbone, jobs):
    before = snapshot(sd1_backbone)
    outcomes = train_concepts(sd1_backbone, jobs, CONFIG, at_once=2)
    next(outcomes)
    outcomes.close()
    assert same(before, snapshot(sd1_backbone))
    with pytest.raises(ValueError, match="at least 1"):
        list(train_concepts(sd1_backbone, jobs, at_once=0))


def test_a_shelf_refuses_what_does_not_fit(sd1_backbone):
    shelf = Shelf(sd1_backbone, 1)
    with pytest.raises(ConceptError, match="expected widths"):
        shelf.put("<a>", {"text_encoder": torch.ones(1, 3)})
    with pytest.raises(ConceptError, match="the text encoder takes 40"):
        shelf.put("<a>", {"text_encoder": torch.ones(41, 16)})
    word = shelf.put("<a>", {"text_encoder": torch.ones(2, 16)})
    with pytest.raises(ValueError):
        shelf.put("<b>", {"text_encoder": torch.ones(2, 16)})
    shelf.free(word)
    assert torch.equal(
        shelf.put("<b>", {"text_encoder": torch.full((1, 16), 2.0)}).of("<b>")["text_encoder"], torch.full((1, 16), 2.0)
    )
