import os
import re
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import build_pipeline, build_xl, same, snapshot
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from PIL import Image

from sentinv.concepts.initialization import Initialization, starting_rows
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.errors import CheckpointError, Interrupted, TrainingError
from sentinv.files.decoding import Picture
from sentinv.files.images import read_image
from sentinv.generation.generate import GenerateConfig, generate_latents, seeded
from sentinv.models.backbone import Backbone
from sentinv.training.checkpoint import Checkpoints, latest_checkpoint
from sentinv.training.config import TrainConfig
from sentinv.training.data import TrainingSet, evaluation_grid
from sentinv.training.interrupt import stop_request
from sentinv.training.invert import invert
from sentinv.training.objective import DenoisingObjective, gamma_of, min_snr_weights
from sentinv.training.train import train_concept

QUICK = TrainConfig(blended=0, steps=12, evaluate_every=4, evaluation_timesteps=4, checkpoint_every=5)
WORDS = Initialization("a striped mug")


@pytest.fixture(autouse=True)
def _random_models_learn_little():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="nothing was learned")
        yield


def rows_of(concept):
    return [value.numpy().tobytes() for value in concept.rows.values()]


def test_learns_and_leaves_the_model_as_it_was(backbone, picture):
    before = snapshot(backbone)
    concept, history = train_concept(backbone, [picture], WORDS, replace(QUICK, steps=40), token="<c>")
    assert same(before, snapshot(backbone))
    assert history.learned and history.best_loss < history.start_loss
    assert [record.step for record in history.records] == list(range(1, 41))
    assert concept.count == 3 and concept.tokens == ("a", "striped", "mug")
    assert concept.fingerprint == backbone.fingerprint


def test_no_frozen_weight_gets_a_gradient(backbone, picture):
    train_concept(backbone, [picture], WORDS, QUICK)
    assert all(p.grad is None and not p.requires_grad for part in backbone._modules() for p in part.parameters())


def test_same_seed_same_bytes_other_seed_other_bytes(backbone, picture):
    first, again, other = (
        train_concept(backbone, [picture], WORDS, replace(QUICK, steps=4, seed=seed))[0] for seed in (0, 0, 1)
    )
    assert first.to_bytes() == again.to_bytes()
    assert rows_of(first) != rows_of(other)


def test_global_random_state_is_neither_used_nor_changed(sd1_backbone, picture):
    torch.manual_seed(1)
    first, _ = train_concept(sd1_backbone, [picture], WORDS, replace(QUICK, steps=4))
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert rows_of(train_concept(sd1_backbone, [picture], WORDS, replace(QUICK, steps=4))[0]) == rows_of(first)


def test_zero_steps_keep_the_words(backbone, picture):
    concept, _ = train_concept(backbone, [picture], WORDS, replace(QUICK, steps=0))
    assert torch.equal(concept.rows["text_encoder"], starting_rows(WORDS, backbone).rows["text_encoder"])


def test_the_file_makes_the_same_images_in_plain_diffusers(pipeline, backbone, picture, tmp_path):
    concept, _ = train_concept(backbone, [picture], WORDS, QUICK, token="<c>")
    config = GenerateConfig(steps=5)
    ours = generate_latents(backbone, "a photo of <c> on the moon", [concept], generators=seeded(3, 2), config=config)
    pipeline.load_textual_inversion(str(concept.save(tmp_path / "c.safetensors")))
    theirs = pipeline(
        "a photo of <c> on the moon",
        num_images_per_prompt=2,
        generator=seeded(3, 2),
        num_inference_steps=5,
        output_type="latent",
    ).images
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_gradient_of_a_step_equals_the_textbook(sd1, sd1_backbone, picture):
    """Oracle: diffusers' scheduler and a resized table, written out."""
    start = starting_rows(WORDS, sd1_backbone)
    rows = PlaceholderRows({"<c>": start.rows})
    with rows.installed(sd1_backbone):
        data = TrainingSet(sd1_backbone, [picture], rows, replace(QUICK, templates=("a photo of {}",)))
        batch = data.draw(torch.Generator().manual_seed(5))
        DenoisingObjective(sd1_backbone, None).errors(batch).mean().backward()
    sd1.load_textual_inversion({"<c>": start.rows["text_encoder"]})
    table = sd1.text_encoder.get_input_embeddings().weight.requires_grad_(True)
    text = sd1.maybe_convert_prompt("a photo of <c>", sd1.tokenizer)
    ids = sd1.tokenizer([text] * 4, padding="max_length", max_length=40, return_tensors="pt").input_ids
    noisy = sd1.scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
    prediction = sd1.unet(noisy, batch.timesteps, sd1.text_encoder(ids)[0]).sample
    torch.nn.functional.mse_loss(prediction, batch.noise).backward()
    assert torch.allclose(rows.rows["text_encoder"].grad, table.grad[-3:], rtol=1e-3, atol=1e-8)


def test_resumed_equals_uninterrupted(backbone, picture, tmp_path):
    whole, history = train_concept(backbone, [picture], WORDS, QUICK)

    def interrupt(record):
        if record.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted) as stopped:
        train_concept(backbone, [picture], WORDS, QUICK, checkpoints=Checkpoints(tmp_path), on_step=interrupt)
    assert stopped.value.signal_number == signal.SIGTERM
    assert latest_checkpoint(tmp_path).step == 7
    resumed, resumed_history = train_concept(
        backbone, [picture], WORDS, QUICK, checkpoints=Checkpoints(tmp_path, resume=True)
    )
    assert resumed.to_bytes() == whole.to_bytes()
    assert resumed_history.records == history.records
    assert resumed_history.evaluations == history.evaluations
    assert len(list(tmp_path.iterdir())) == 2


def test_the_last_step_is_saved_until_the_concept_is(backbone, picture, tmp_path):
    """A signal may come when the training is over and its result not written yet."""
    whole, history = train_concept(backbone, [picture], WORDS, QUICK, checkpoints=Checkpoints(tmp_path))
    assert latest_checkpoint(tmp_path).step == QUICK.steps
    resumed, again = train_concept(backbone, [picture], WORDS, QUICK, checkpoints=Checkpoints(tmp_path, resume=True))
    assert resumed.to_bytes() == whole.to_bytes() and again.records == history.records and again.stop == history.stop


def test_resume_needs_the_same_settings(sd1_backbone, picture, tmp_path):
    train_concept(sd1_backbone, [picture], WORDS, QUICK, checkpoints=Checkpoints(tmp_path))
    for changed in (
        lambda: train_concept(
            sd1_backbone,
            [picture],
            WORDS,
            replace(QUICK, learning_rate=0.5),
            checkpoints=Checkpoints(tmp_path, resume=True),
        ),
        lambda: train_concept(
            sd1_backbone, [picture.rotate(90)], WORDS, QUICK, checkpoints=Checkpoints(tmp_path, resume=True)
        ),
        lambda: train_concept(
            sd1_backbone, [picture], Initialization("cat"), QUICK, checkpoints=Checkpoints(tmp_path, resume=True)
        ),
    ):
        with pytest.raises(CheckpointError, match=r"learning_rate: None there, 0.5 here|images|start"):
            changed()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        train_concept(sd1_backbone, [picture], WORDS, QUICK, checkpoints=Checkpoints(tmp_path / "none", resume=True))


def test_not_finite_stops_and_keeps_good_rows(sd1_backbone, picture, monkeypatch):
    honest = DenoisingObjective.__call__
    calls = []

    def breaks(self, batch):
        calls.append(torch.is_grad_enabled())
        return honest(self, batch) * (float("nan") if calls[-1] and sum(calls) == 6 else 1)

    monkeypatch.setattr(DenoisingObjective, "__call__", breaks)
    with pytest.warns(UserWarning, match="not finite at step 6"):
        concept, history = train_concept(sd1_backbone, [picture], WORDS, QUICK)
    assert history.stop == "not finite" and len(history.records) == 5
    assert history.evaluations[-1][0] == 5
    assert all(torch.isfinite(rows).all() for rows in concept.rows.values())


def test_a_start_without_finite_loss_is_an_error(sd1_backbone, picture):
    with torch.no_grad():
        sd1_backbone.unet.conv_out.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="float32"):
        train_concept(sd1_backbone, [picture], WORDS, QUICK)


def test_best_rows_are_those_of_the_smallest_evaluation_loss(sd1_backbone, picture):
    """With a wild learning rate the best step is not the last, and its rows give its loss again."""
    config = replace(QUICK, learning_rate=3.0, schedule="constant", evaluate_every=1)
    concept, history = train_concept(sd1_backbone, [picture], WORDS, config, token="<c>")
    rows = PlaceholderRows({"<c>": concept.rows})
    with rows.installed(sd1_backbone):
        data = TrainingSet(sd1_backbone, [picture], rows, config)
        objective = DenoisingObjective(sd1_backbone, config.min_snr)
        grid = data.evaluation_batches(objective.timestep_weights)
        assert objective.evaluate(grid)[0] == pytest.approx(history.best_loss, rel=1e-6)
    assert history.best_step == min(history.evaluations, key=lambda pair: pair[1])[0]


def test_says_when_nothing_was_learned(sd1_backbone, picture):
    with pytest.warns(UserWarning, match="nothing was learned"):
        _, history = train_concept(sd1_backbone, [picture], WORDS, replace(QUICK, learning_rate=1e-30, steps=4))
    assert not history.learned


def test_stop_auto_ends_when_the_loss_no_longer_falls(sd1_backbone, picture):
    config = replace(QUICK, steps=100, learning_rate=1e-30, stop="auto", evaluate_every=1, patience=3)
    _, history = train_concept(sd1_backbone, [picture], WORDS, config)
    assert (history.stop, len(history.records)) == ("auto", 3)


def test_evaluation_grid_is_the_same_for_every_run(sd1_backbone, picture):
    _, first = train_concept(sd1_backbone, [picture], WORDS, replace(QUICK, steps=0, seed=1))
    _, second = train_concept(sd1_backbone, [picture], WORDS, replace(QUICK, steps=0, seed=2, batch_size=1))
    assert first.start_loss == pytest.approx(second.start_loss, rel=1e-6)


def test_what_is_outside_the_mask_does_not_matter(sd1_backbone, picture):
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (0, 0, 8, 16))
    rows = PlaceholderRows({"<c>": starting_rows(WORDS, sd1_backbone).rows})
    with rows.installed(sd1_backbone):
        square = picture.resize((16, 16))
        data = TrainingSet(
            sd1_backbone, [Picture(image=square, mask=mask, notices=())], rows, replace(QUICK, flip=False)
        )
        batch = data.draw(torch.Generator().manual_seed(0))
        assert batch.mask[0, 0, :, :4].min() == 1 and batch.mask[0, 0, :, 4:].max() == 0
        DenoisingObjective(sd1_backbone, None).errors(batch).sum().backward()
        before = rows.rows["text_encoder"].grad.clone()
        rows.zero_grad()
        wanted = batch.noise.clone()
        wanted[..., 4:] = 1e3  # a target nobody can meet, outside
        _loss_with_target(data, batch, wanted).sum().backward()
    assert torch.equal(rows.rows["text_encoder"].grad, before)


def _loss_with_target(data, batch, wanted):
    from sentinv.diffusion.conversions import add_noise
    from sentinv.training.objective import denoising_loss

    noisy = add_noise(batch.latents, batch.noise, batch.alphas_cumprod)
    prediction = data.backbone.predict(noisy, batch.timesteps, data.backbone.encode_ids(batch.ids))
    return denoising_loss(prediction, wanted, batch.mask)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("gamma", [0.05, 0.8, 1e9])
def test_the_grid_follows_the_weights_and_estimates_the_same(prediction_type, gamma):
    """The mean over the grid is that of the weighted loss over all timesteps; no timestep has more than its part of it."""
    alphas = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square()).cumprod(0)
    weights = min_snr_weights(alphas, gamma, prediction_type)
    weights = weights / weights.mean()
    for loss in (alphas.sqrt(), 1 - alphas, torch.linspace(0, 1, 1000)):
        exact = (weights * loss).mean().item()
        followed = loss[evaluation_grid(8, 1, 1000, (1,), weights)[0]].mean().item()
        even = evaluation_grid(8, 1, 1000, (1,))[0]
        assert abs(followed - exact) < 0.03 * loss.max()
        if gamma == 0.05 and prediction_type == "epsilon":
            shares = weights[even] / weights[even].sum()
            assert shares.sort(descending=True).values[:2].sum() > 0.6  # what the even grid would hang on


def test_the_noise_levels_of_the_guide_are_those_of_the_formula():
    """docs/models.md: below which timesteps a quarter, half and three quarters of the weight of Stable Diffusion lie."""
    guide = (Path(__file__).parent.parent / "docs" / "models.md").read_text()
    rows = re.findall(r"^\| .*? \| \**([\d.]+)\** \| \**(\d+), (\d+), (\d+)\** \|$", guide, re.MULTILINE)
    alphas = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square()).cumprod(0)
    assert [float(gamma) for gamma, *_ in rows] == [0.0031, 0.05, 0.8, 5.0]
    for gamma, *told in rows:
        share = min_snr_weights(alphas, float(gamma), "epsilon").cumsum(0)
        quantiles = torch.searchsorted(share / share[-1], torch.tensor([0.25, 0.5, 0.75]))
        assert quantiles.tolist() == pytest.approx([float(one) for one in told], abs=1)
    assert [gamma_of(0.05, 64), 0.05 * (16 / 64) ** 2] == pytest.approx([0.8, 0.0031], abs=1e-4)
    snr = (alphas / (1 - alphas))[-1].item()
    smallest = re.search(r"its smallest SNR is ([\d.]*\d)", guide)[1]
    noisiest = min_snr_weights(alphas, 0.0031, "epsilon")
    share = re.search(r"(\d+) % of the weight would lie in the\nnoisiest eighth", guide)[1]
    assert snr == pytest.approx(float(smallest), abs=5e-5)
    assert noisiest[875:].sum() / noisiest.sum() == pytest.approx(int(share) / 100, abs=0.01)
    times = torch.arange(1000) + 0.5  # ReVersion draws t with 1 - cos(pi t / T) / 2
    drawn = (1 - 0.5 * torch.cos(torch.pi * times / 1000)).cumsum(0)
    half = int(re.search(r"by drawing timesteps \| — \| half: (\d+)", guide)[1])
    assert torch.searchsorted(drawn / drawn[-1], 0.5).item() == pytest.approx(half, abs=1)


def test_gamma_grows_with_the_side_and_is_told(sd1_backbone, picture):
    assert [gamma_of(0.05, side) for side in (16, 64, 128)] == pytest.approx([0.05, 0.8, 3.2])
    concept, _ = train_concept(sd1_backbone, [picture], WORDS, replace(QUICK, steps=0, min_snr=0.2))
    assert float(concept.metadata["sentinv.min_snr"]) == pytest.approx(0.2 / 4)
    concept, _ = train_concept(sd1_backbone, [picture], WORDS, replace(QUICK, steps=0, min_snr=None))
    assert concept.metadata["sentinv.min_snr"] == "none"


def test_a_noise_level_counts_by_its_min_snr_weight(sd1_backbone, picture):
    """Oracle: diffusers' SNR; the weights of all timesteps have the mean 1, and without gamma all are 1."""
    snr = compute_snr(DDPMScheduler.from_config(sd1_backbone.schedule.config), torch.arange(1000))
    wanted = snr.clamp(max=0.05 / 4) / snr  # of latents with 8 a side, half of those that gamma is told for
    rows = PlaceholderRows({"<c>": starting_rows(WORDS, sd1_backbone).rows})
    with rows.installed(sd1_backbone):
        data = TrainingSet(sd1_backbone, [picture], rows, QUICK)
        batch, grid = data.draw(torch.Generator().manual_seed(0)), data.evaluation_batches()
        weighted, plain = DenoisingObjective(sd1_backbone, 0.05), DenoisingObjective(sd1_backbone, None)
        errors, weights = weighted.errors(batch).detach(), (wanted / wanted.mean())[batch.timesteps]
        assert torch.allclose(weighted(batch).detach(), errors * weights, rtol=1e-4)
        assert torch.equal(plain(batch).detach(), errors)
        objective, mean = plain.evaluate(grid)
        assert objective == mean != weighted.evaluate(grid)[0]


def test_batches_cover_images_flips_and_templates(sd1_backbone, picture):
    rows = PlaceholderRows({"<c>": starting_rows(WORDS, sd1_backbone).rows})
    other = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    config = replace(QUICK, batch_size=64, flip=True, templates=("a {}", "the {}", "my {}"))
    data = TrainingSet(sd1_backbone, [picture, other], rows, config)
    batch = data.draw(torch.Generator().manual_seed(0))
    assert len(data.moments.mean) == 4
    assert len({tuple(ids.tolist()) for ids in batch.ids["text_encoder"]}) == 3
    assert len({latent.numpy().tobytes() for latent in batch.latents}) == 64  # sampled anew, not repeated


def test_half_precision_base(sd1_backbone, picture):
    for part in sd1_backbone._modules():
        part.to(torch.bfloat16)
    concept, _ = train_concept(sd1_backbone, [picture], WORDS, replace(QUICK, steps=4))
    assert concept.rows["text_encoder"].dtype == torch.float32
    assert sd1_backbone.dtype == torch.bfloat16


def test_gradient_checkpointing_changes_nothing_but_memory(sd1_backbone, picture):
    plain, _ = train_concept(sd1_backbone, [picture], WORDS, replace(QUICK, steps=3))
    saved, _ = train_concept(sd1_backbone, [picture], WORDS, replace(QUICK, steps=3, gradient_checkpointing=True))
    assert torch.allclose(plain.rows["text_encoder"], saved.rows["text_encoder"], atol=1e-6)
    assert not sd1_backbone.unet.is_gradient_checkpointing


def test_the_rate_of_an_unknown_model_takes_a_random_walk_as_far_as_a_quarter_throughout():
    config = TrainConfig()
    walk = sum((config.rho("nobody's") * config.share_of_rate(step)) ** 2 for step in range(config.steps))
    assert walk == pytest.approx(config.steps * 0.25**2, rel=0.05) and config.rho("toybox") == 0.95


def test_schedules():
    cosine = TrainConfig(steps=10, schedule="cosine")
    shares = [cosine.share_of_rate(step) for step in range(11)]
    assert shares[0] == 1.0 and shares[5] == pytest.approx(0.5) and shares[10] == pytest.approx(0.0)
    assert shares == sorted(shares, reverse=True)
    assert {replace(cosine, schedule="constant").share_of_rate(step) for step in range(10)} == {1.0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": -1},
        {"learning_rate": 0},
        {"batch_size": 0},
        {"schedule": "linear"},
        {"betas": (0.9, 1.0)},
        {"min_snr": 0.0},
        {"learning_rate": float("nan")},
        {"relative_learning_rate": 0.0},
        {"max_norm": -1.0},
        {"stop": "never ever"},
        {"seed": -1},
        {"templates": ("a photo",)},
    ],
)
def test_config_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainConfig(**wrong)


def test_invert_takes_words_callables_and_paths(sd1_backbone, picture, tmp_path):
    path = tmp_path / "mug.png"
    picture.save(path)
    config = replace(QUICK, steps=2)
    by_words = invert(sd1_backbone, path, "a striped mug", config)
    by_call = invert(sd1_backbone, [picture], lambda image: Initialization("a striped mug", "mine"), config)
    assert rows_of(by_words) == rows_of(by_call)
    assert by_call.metadata["sentinv.initializer"] == "mine"
    assert by_words.metadata["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")


def test_images_of_pillow_are_seen_as_those_of_files(sd1_backbone, tmp_path):
    """Transparent, and lying on its side by EXIF: upright, with a mask, and on white."""
    drawn = Image.new("RGBA", (48, 32), (200, 30, 30, 255))
    drawn.paste((0, 0, 0, 0), (0, 0, 12, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    drawn.save(tmp_path / "cut.png", exif=exif)
    by_path, by_image = (
        TrainingSet(sd1_backbone, [one], PlaceholderRows({"<c>": {"text_encoder": torch.ones(1, 16)}}), QUICK)
        for one in (read_image(tmp_path / "cut.png"), Image.open(tmp_path / "cut.png"))
    )
    assert torch.equal(by_path.pixels, by_image.pixels) and torch.equal(by_path.mask, by_image.mask)
    config = replace(QUICK, steps=2)
    concepts = [
        invert(sd1_backbone, one, "a mug", config) for one in (tmp_path / "cut.png", Image.open(tmp_path / "cut.png"))
    ]
    assert rows_of(concepts[0]) == rows_of(concepts[1])


def test_what_was_cut_off_is_not_said_to_be_the_start(sd1_backbone, picture):
    words = "a cat  with\ta striped  tail"
    with pytest.warns(UserWarning, match="only room"):
        start = starting_rows(Initialization(words), sd1_backbone, 2)
    assert start.text == "a cat"
    concept, _ = train_concept(sd1_backbone, [picture], start, replace(QUICK, steps=1))
    assert concept.metadata["sentinv.initial_text"] == "a cat"
    assert concept.metadata["sentinv.relative_learning_rate"] == "0.4"  # ρ of a model that nobody has measured


def test_a_signal_that_is_ignored_stays_ignored():
    """A script's background job ignores SIGINT, so that Ctrl-C ends the script alone."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_request() as request:
            os.kill(os.getpid(), signal.SIGINT)
            assert request.signal_number is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert request.signal_number == signal.SIGTERM
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_run_that_is_watched_learns_the_same_and_may_be_ended(sd1_backbone, picture):
    seen = []

    def watch(loop):
        seen.append(loop.step)
        if loop.step == 6:
            loop.end()

    whole, _ = train_concept(sd1_backbone, [picture], WORDS, QUICK, watch=lambda loop: None)
    assert rows_of(whole) == rows_of(train_concept(sd1_backbone, [picture], WORDS, QUICK)[0])
    _, history = train_concept(sd1_backbone, [picture], WORDS, QUICK, watch=watch)
    assert seen == [1, 2, 3, 4, 5, 6]
    assert history.stop == "asked"
    assert [step for step, _ in history.evaluations] == [0, 4, 6]


def lengths_after_a_hundred_steps(pipeline, picture, norms, **options):
    """How many times as long as the vocabulary's rows, all made as long as a real text encoder's, those of a word get."""
    backbone = Backbone.from_pipeline(pipeline, "tiny")
    for encoder, norm in zip(backbone.text_encoders, norms, strict=True):
        with torch.no_grad():
            encoder.table.weight *= norm / encoder.table.weight.norm(dim=1, keepdim=True)
        assert encoder.median_norm == pytest.approx(norm, rel=1e-4)
    few = {"evaluate_every": 100, "evaluation_timesteps": 1, "evaluation_noises": 1, "batch_size": 2, "blended": 0}
    concept, _ = train_concept(backbone, [picture], WORDS, TrainConfig(**few, **options))
    found = (concept.rows[encoder.name].norm(dim=1) / encoder.median_norm for encoder in backbone.text_encoders)
    return [float(lengths.max()) for lengths in found]


@pytest.mark.parametrize(
    ("width", "norm"), [(768, 0.39), (1024, 0.35), (1280, 0.38)], ids=["CLIP-L", "OpenCLIP-H", "OpenCLIP-bigG"]
)
def test_the_default_rate_alone_keeps_rows_of_real_widths_near_the_size_of_their_vocabulary(
    tokenizer, picture, width, norm
):
    """The widths of real text encoders, rows as long as theirs, random weights; a limit would only catch what is above it."""
    (length,) = lengths_after_a_hundred_steps(
        build_pipeline(tokenizer, width, "epsilon"), picture, [norm], max_norm=None
    )
    assert 2 < length < 3.5  # .95 that falls: 5 to 6; .95 throughout: 8 to 9


def test_both_tables_of_xl_keep_to_three_usual_lengths(tokenizer, picture):
    lengths = lengths_after_a_hundred_steps(build_xl(tokenizer, (768, 1280)), picture, [0.39, 0.38])
    assert all(2 < length <= 3.003 for length in lengths)


def test_a_rate_without_a_scale_makes_rows_long_that_have_short_entries(tokenizer, picture):
    (length,) = lengths_after_a_hundred_steps(
        build_pipeline(tokenizer, 768, "epsilon"),
        picture,
        [0.39],
        learning_rate=0.02,
        schedule="constant",
        max_norm=None,
    )
    assert length > 9  # as was reported of the absolute rate that was the default
