import json
import os
import signal
import warnings
from dataclasses import asdict, replace

import pytest
import torch
from conftest import same, snapshot
from PIL import Image, ImageDraw

import sentinv
from sentinv.adapters.install import adapted, fresh_layers, learning
from sentinv.adapters.layouts import LoraLayer
from sentinv.adapters.lora import load_lora
from sentinv.concepts.concept import Concept
from sentinv.concepts.initialization import Initialization, starting_rows
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.concepts.scenes import STYLES, without_scene
from sentinv.errors import CheckpointError, ConceptError, Interrupted, PromptError
from sentinv.files.decoding import Picture
from sentinv.generation.generate import GenerateConfig, generate_latents, seeded
from sentinv.models.backbone import Backbone
from sentinv.training.blend import OTHERS, Blend, BlendedSet
from sentinv.training.blend_objective import LEAST, BlendedObjective, encode_all
from sentinv.training.checkpoint import Checkpoints
from sentinv.training.config import TrainConfig, TuneConfig
from sentinv.training.reaction import AREA, thing_mask
from sentinv.training.train import train_concept
from sentinv.training.tune import tune, words_of

QUICK = TuneConfig(
    batch_size=4,
    blended=4,
    others=2,
    steps=8,
    evaluate_every=4,
    evaluation_timesteps=4,
    checkpoint_every=3,
    scenes=("on the moon", "in a mug"),
    rank=2,
)


@pytest.fixture(autouse=True)
def _random_models_learn_little():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="nothing was learned")
        yield


def word_of(backbone):
    rows = starting_rows(Initialization("a striped mug"), backbone).rows
    return Concept(token="<c>", rows=rows, metadata={"sentinv.initial_text": "a striped mug on the moon"})


def masked(picture):
    mask = Image.new("L", picture.size, 0)
    ImageDraw.Draw(mask).rectangle([6, 4, 15, 13], fill=255)
    return Picture(image=picture, mask=mask, notices=())


def test_learns_and_leaves_the_model_as_it_was(backbone, picture):
    before = snapshot(backbone)
    word = word_of(backbone)
    tuned = tune(backbone, word, picture, replace(QUICK, steps=40, learning_rate=1e-2))
    lora, concept, history = tuned.lora, tuned.concept, tuned.history
    assert same(before, snapshot(backbone))
    assert history.learned and history.best_loss < history.start_loss
    assert concept is word
    assert lora.token == "<c>" and lora.fingerprint == backbone.fingerprint and lora.word_digest == word.digest
    assert not any(p.requires_grad or p.grad is not None for part in backbone._modules() for p in part.parameters())


def test_same_seed_same_bytes_other_seed_other_bytes(sd1_backbone, picture):
    word, config = word_of(sd1_backbone), replace(QUICK, steps=3)
    first, again, other = (
        tune(sd1_backbone, word, picture, replace(config, seed=seed)).lora.to_bytes() for seed in (0, 0, 1)
    )
    assert first == again != other


def test_zero_steps_change_nothing(sd1_backbone, picture):
    lora = tune(sd1_backbone, word_of(sd1_backbone), picture, replace(QUICK, steps=0)).lora
    config = GenerateConfig(steps=2)
    plain = generate_latents(sd1_backbone, "a mug", generators=seeded(0, 1), config=config)
    with adapted(sd1_backbone, [lora]):
        assert torch.equal(generate_latents(sd1_backbone, "a mug", generators=seeded(0, 1), config=config), plain)


def test_a_lora_and_its_file_draw_the_same_also_in_plain_diffusers(sd1, sd1_backbone, picture, tmp_path):
    word = word_of(sd1_backbone)
    lora = tune(sd1_backbone, word, picture, replace(QUICK, learning_rate=0.1)).lora
    path, config, prompt = (
        lora.save(tmp_path / "c-lora.safetensors"),
        GenerateConfig(steps=3),
        "a photo of <c> on the moon",
    )
    drawn = []
    for one in (lora, load_lora(path)):
        with adapted(sd1_backbone, [one]):
            drawn.append(generate_latents(sd1_backbone, prompt, [word], generators=seeded(3, 1), config=config))
    assert torch.equal(*drawn)
    sd1.load_textual_inversion({"<c>": word.rows["text_encoder"]})
    sd1.load_lora_weights(str(path))
    theirs = sd1(prompt, generator=seeded(3, 1), num_inference_steps=3, output_type="latent").images
    assert torch.allclose(drawn[0], theirs, atol=1e-5)


def test_a_word_of_xl_and_its_own_lora_draw_the_same_in_plain_diffusers(xl, picture, tmp_path):
    backbone = Backbone.from_pipeline(xl, "tiny")
    tuned = tune(backbone, word_of(backbone), picture, replace(QUICK, steps=20, learning_rate=1e-2, train_rows=True))
    concept, lora, prompt = (
        tuned.concept,
        tuned.lora.save(tmp_path / "c-lora.safetensors"),
        "a photo of <c> on the moon",
    )
    told = replace(concept, metadata={**concept.metadata, "modelspec.architecture": "stable-diffusion-xl-v1-base"})
    files = sentinv.export(told, "diffusers", tmp_path / "exported").files
    config = GenerateConfig(steps=3, guidance_scale=5.0)
    plain = generate_latents(backbone, prompt, [concept], generators=seeded(3, 1), config=config)
    with adapted(backbone, [load_lora(lora)]):
        ours = generate_latents(backbone, prompt, [concept], generators=seeded(3, 1), config=config)
    for name, encoder, words in zip(
        files, (xl.text_encoder, xl.text_encoder_2), (xl.tokenizer, xl.tokenizer_2), strict=True
    ):
        xl.load_textual_inversion(str(tmp_path / "exported" / name), text_encoder=encoder, tokenizer=words)
    xl.load_lora_weights(str(lora))
    theirs = xl(prompt, generator=seeded(3, 1), num_inference_steps=3, guidance_scale=5.0, output_type="latent").images
    assert (ours - theirs).abs().max() < 1e-5 * theirs.std() < (ours - plain).abs().max()


@pytest.mark.parametrize("train_rows", [False, True])
def test_resumed_equals_uninterrupted(train_rows, backbone, picture, tmp_path):
    word, config = word_of(backbone), replace(QUICK, train_rows=train_rows)
    whole = tune(backbone, word, picture, config)

    def interrupt(record):
        if record.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        tune(backbone, word, picture, config, checkpoints=Checkpoints(tmp_path), on_step=interrupt)
    resumed = tune(backbone, word, picture, config, checkpoints=Checkpoints(tmp_path, resume=True))
    assert resumed.lora.to_bytes() == whole.lora.to_bytes()
    assert resumed.concept.to_bytes() == whole.concept.to_bytes()
    assert resumed.history.records == whole.history.records
    with pytest.raises(CheckpointError, match="blend"):
        again = Checkpoints(tmp_path, resume=True)
        tune(backbone, word, masked(picture), config, checkpoints=again)


def test_rows_learn_only_when_asked(sd1_backbone, picture):
    word = word_of(sd1_backbone)
    before = {"sentinv.steps": "77", "sentinv.learning_rate": "77", "sentinv.relative_learning_rate": "77"}
    word = replace(word, metadata={**word.metadata, **before})
    config = replace(QUICK, train_rows=True, learning_rate=1e-2, relative_learning_rate=0.125)
    tuned = tune(sd1_backbone, word, picture, config)
    learned, told = tuned.concept, tuned.concept.metadata
    assert not torch.equal(learned.rows["text_encoder"], word.rows["text_encoder"])
    assert told["sentinv.initial_text"] == "a striped mug on the moon"
    assert told["sentinv.steps"] == str(tuned.history.best_step)
    assert told["sentinv.best_loss"] == repr(tuned.history.best_loss)
    assert told["sentinv.relative_learning_rate"] == "0.125" and told["sentinv.learning_rate"] != "77"
    norm, _ = json.loads(told["sentinv.norms_and_cosines"])["text_encoder"][0]
    assert norm == pytest.approx(learned.rows["text_encoder"][0].norm().item(), abs=1e-5)
    told = tune(sd1_backbone, word, picture, replace(config, steps=1, rows_learning_rate=0.5)).concept.metadata
    assert told["sentinv.learning_rate"] == "0.5" and "sentinv.relative_learning_rate" not in told


# What a step draws and what it costs


def parts_of(backbone, picture, config=QUICK, words="a striped mug on the moon"):
    word = word_of(backbone)
    _ = backbone.fingerprint
    rows = PlaceholderRows.of_concepts([word])
    return rows, lambda: BlendedSet(backbone, [picture], rows, config, Blend.of(config, words, config.others))


def test_a_step_has_plain_items_blended_ones_and_others(backbone, picture):
    rows, make = parts_of(backbone, picture)
    with rows.installed(backbone):
        data = make()
        batch = data.draw(torch.Generator().manual_seed(0))
    assert len(batch) == 4 + 4 + 2 == QUICK.items and batch.taught == (False,) * 4 + (True,) * 6
    said = [data.prompts[index] for index in batch.prompts]
    assert all("<c>" in prompt for prompt in said[:8]) and not any("<c>" in prompt for prompt in said[8:])
    assert all(prompt in data.templates for prompt in said[:4]) and not any(p in data.templates for p in said[4:])
    for item in range(4, 10):  # with the same noises, and of the same pictures but for other things
        same_noise = [plain for plain in range(4) if torch.equal(batch.noise[item], batch.noise[plain])]
        assert len(same_noise) == 1 and batch.timesteps[item] == batch.timesteps[same_noise[0]]
        assert torch.equal(batch.latents[item], batch.latents[same_noise[0]]) == (item < 8)
    for item in (8, 9):  # these are the model's own
        shown = data.blend.others.index(said[item]) % OTHERS
        assert torch.equal(batch.latents[item], data.others[shown])
        assert (
            said[item].split()[-1] in data.blend.others[shown]
            or data.blend.others[shown].split(" of ")[1][:4] in said[item]
        )
    own = [ids.tolist() for ids in batch.ids["text_encoder"]]
    assert own == [ids.tolist() for ids in data.all_ids["text_encoder"][batch.prompts]]


def test_the_teacher_is_told_the_thing_without_its_place_and_never_the_word(backbone, picture):
    rows, make = parts_of(backbone, picture)
    with rows.installed(backbone):
        data = make()
        first = encode_all(backbone, data.teacher_ids).hidden
        for parameter in rows.rows.values():
            parameter.data += 1
        again = encode_all(backbone, make().teacher_ids).hidden
    assert torch.equal(first, again) and all((ids >= 0).all() for ids in data.teacher_ids.values())
    assert data.teacher_prompts[:3] == [
        "a photo of a striped mug on the moon",
        "a photo of a striped mug in a mug",
        "an oil painting of a striped mug",
    ]
    assert not any("<c>" in prompt for prompt in data.teacher_prompts)


def test_the_target_is_true_inside_and_the_frozen_models_outside(pipeline, backbone, picture):
    rows, make = parts_of(backbone, masked(picture))
    layers = fresh_layers(backbone.unet, ("to_q", "conv1"), 2, torch.Generator().manual_seed(0))
    layers = {name: LoraLayer(one.down, torch.ones_like(one.up), one.alpha) for name, one in layers.items()}
    _ = backbone.fingerprint  # which is taken before anything is installed
    with rows.installed(backbone), learning(backbone, layers) as adapters:
        data = make()
        objective = BlendedObjective(backbone, None, frozen=adapters.off)
        batch = data.draw(torch.Generator().manual_seed(1))
        noisy = pipeline.scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
        wanted, _ = objective.wanted(batch, noisy)
    epsilon = backbone.schedule.prediction_type == "epsilon"
    true = batch.noise if epsilon else pipeline.scheduler.get_velocity(batch.latents, batch.noise, batch.timesteps)
    inside = data.own[0, 0] == 1
    outside = data.own[0, 0] == 0
    assert inside.any() and outside.any()
    for item in range(len(batch)):
        prompt = data.prompts[batch.prompts[item]]
        if item < 4:
            assert torch.allclose(wanted[item], true[item], atol=1e-6)
            continue
        told = prompt.replace("<c>", "a striped mug")
        ids = pipeline.tokenizer([told], padding="max_length", max_length=40, return_tensors="pt").input_ids
        with torch.no_grad():
            hidden = pipeline.text_encoder(ids)[0]
            answer = pipeline.unet(noisy[item : item + 1], batch.timesteps[item : item + 1], hidden).sample[0]
        place = prompt.startswith("a photo of <c> ")
        if place:
            assert torch.allclose(wanted[item][:, inside], true[item][:, inside], atol=1e-6)
            assert torch.allclose(wanted[item][:, outside], answer[:, outside], atol=1e-5)
        else:
            assert torch.allclose(wanted[item], answer, atol=1e-5)


def test_gradient_of_a_step_equals_peft(sd1, sd1_backbone, picture):
    """Oracle: diffusers' pipeline with a table that knows the word, peft's adapters, the loss written out."""
    config = replace(QUICK, blended=0, others=0, templates=("a photo of {}",))
    rows, make = parts_of(sd1_backbone, picture, config)
    layers = fresh_layers(sd1_backbone.unet, ("to_q",), 2, torch.Generator().manual_seed(0))
    layers = {name: LoraLayer(one.down, torch.ones_like(one.up), one.alpha) for name, one in layers.items()}
    _ = sd1_backbone.fingerprint
    with rows.installed(sd1_backbone), learning(sd1_backbone, layers) as adapters:
        data = make()
        batch = data.draw(torch.Generator().manual_seed(5))
        BlendedObjective(sd1_backbone, None, frozen=adapters.off, data=data, fixed_rows=True).errors(
            batch
        ).mean().backward()
        ours = {name: parameter.grad for name, parameter in adapters.parameters.items()}
    sd1.load_textual_inversion({"<c>": word_of(sd1_backbone).rows["text_encoder"]})
    state = {f"unet.{name}.lora_A.weight": one.down for name, one in layers.items()}
    state |= {f"unet.{name}.lora_B.weight": one.up for name, one in layers.items()}
    sd1.load_lora_weights(state)
    text = sd1.maybe_convert_prompt("a photo of <c>", sd1.tokenizer)
    ids = sd1.tokenizer([text] * 4, padding="max_length", max_length=40, return_tensors="pt").input_ids
    noisy = sd1.scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
    learners = {n: p.requires_grad_(True) for n, p in sd1.unet.named_parameters() if "lora_" in n}
    torch.nn.functional.mse_loss(
        sd1.unet(noisy, batch.timesteps, sd1.text_encoder(ids)[0]).sample, batch.noise
    ).backward()
    for name, gradient in ours.items():
        module, _, part = name.rpartition(".")
        theirs = learners[f"{module}.lora_{'A' if part == 'down' else 'B'}.default_0.weight"].grad
        assert torch.allclose(gradient, theirs, rtol=1e-3, atol=1e-7)


def test_other_things_count_alike_at_every_noise_level(sd1_backbone, picture):
    rows, make = parts_of(sd1_backbone, picture)
    with rows.installed(sd1_backbone):
        data = make()
        objective = BlendedObjective(sd1_backbone, 0.05, data=data, fixed_rows=True)
        batch = data.draw(torch.Generator().manual_seed(2))
    weights = objective.weights(batch)
    assert batch.kept == (False,) * 8 + (True,) * 2 and weights[8:].tolist() == [1.0, 1.0]
    assert torch.equal(weights[:8], objective.timestep_weights[batch.timesteps[:8]])


def test_other_things_cost_the_share_of_the_guidance_direction_by_which_they_strayed(pipeline, backbone, picture):
    """Oracle: the share written out, with diffusers' own networks."""
    rows, make = parts_of(backbone, picture)
    layers = fresh_layers(backbone.unet, ("to_q", "to_v"), 2, torch.Generator().manual_seed(0))
    layers = {name: LoraLayer(one.down, torch.ones_like(one.up), one.alpha) for name, one in layers.items()}
    _ = backbone.fingerprint
    with rows.installed(backbone), learning(backbone, layers) as adapters:
        data = make()
        batch = data.draw(torch.Generator().manual_seed(1))
        losses = BlendedObjective(backbone, 0.05, frozen=adapters.off, data=data, fixed_rows=True, others_weight=0.1)(
            batch
        )
        said = [data.prompts[index] for index in batch.prompts]
        noisy = pipeline.scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)

        def predicted(item, prompt):
            ids = pipeline.tokenizer([prompt], padding="max_length", max_length=40, return_tensors="pt").input_ids
            with torch.no_grad():
                hidden = pipeline.text_encoder(ids)[0]
                return pipeline.unet(noisy[item : item + 1], batch.timesteps[item : item + 1], hidden).sample

        for item in (8, 9):
            after = predicted(item, said[item])
            with adapters.off():
                before, without = predicted(item, said[item]), predicted(item, "")
            share = (after - before).norm() / max((before - without).norm(), LEAST * before.norm())
            assert losses[item].item() == pytest.approx(0.1 * share.item() ** 2, rel=1e-3) and share > 0.01


def test_a_step_needs_no_more_memory_than_a_words(sd1_backbone, picture, monkeypatch):
    """Five items in three parts: two of a LoRA keep what four of a word do."""
    configs = TuneConfig(), TuneConfig(batch_size=8, blended=8), TrainConfig()
    assert [[one.parts(side) for side in (8, 64, 128)] for one in configs] == [[1, 3, 3], [1, 5, 5], [1, 1, 1]]
    monkeypatch.setattr("sentinv.training.config.SMALL", 1)
    learning = []

    def note(module, arguments):
        if torch.is_grad_enabled():
            learning.append(len(arguments[0]))

    config = TuneConfig(steps=1, evaluate_every=1, evaluation_timesteps=2, scenes=("on the moon", "in a mug"), rank=2)
    hook = sd1_backbone.unet.register_forward_pre_hook(note)
    tune(sd1_backbone, word_of(sd1_backbone), masked(picture), config)
    hook.remove()
    assert learning == [2, 2, 1]


def test_parts_of_a_batch_cost_what_the_whole_does(sd1_backbone, picture):
    rows, make = parts_of(sd1_backbone, picture)
    with rows.installed(sd1_backbone):
        data = make()
        objective = BlendedObjective(sd1_backbone, 0.05, data=data, fixed_rows=True)
        batch = data.draw(torch.Generator().manual_seed(2))
        whole = objective(batch)
        parts = torch.cat([objective(part) for part in batch.parts(3)])
        free = BlendedObjective(sd1_backbone, 0.05)(batch)
    assert torch.allclose(whole, parts, rtol=1e-4) and torch.allclose(whole, free, rtol=1e-4)


def test_the_word_alone_learns_from_blended_items_too(backbone, picture, tmp_path):
    config = TrainConfig(steps=6, evaluate_every=3, evaluation_timesteps=2, batch_size=2, blended=2, checkpoint_every=2)
    words = Initialization("a striped mug on the moon")
    before = snapshot(backbone)
    whole, history = train_concept(backbone, [picture], words, config)
    assert same(before, snapshot(backbone)) and len(history.records) == 6
    plain, _ = train_concept(backbone, [picture], words, replace(config, blended=0))
    assert plain.to_bytes() != whole.to_bytes()
    train_concept(backbone, [picture], words, config, checkpoints=Checkpoints(tmp_path))
    (tmp_path / "step-000006.safetensors").unlink()
    resumed, _ = train_concept(backbone, [picture], words, config, checkpoints=Checkpoints(tmp_path, resume=True))
    assert resumed.to_bytes() == whole.to_bytes()


def test_a_found_mask_has_its_share_of_the_picture(backbone):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    first, again = (thing_mask(backbone, latents, "a mug", ("on the moon", "in a cat")) for _ in range(2))
    assert torch.equal(first, again) and first.shape == (1, 1, 8, 8) and set(first.unique().tolist()) == {0.0, 1.0}
    assert first.sum().item() == round(AREA * 64)


# What is refused


def test_nobody_says_what_the_thing_is(sd1_backbone, picture):
    word = replace(word_of(sd1_backbone), metadata={})
    with pytest.raises(PromptError, match="got none"):
        tune(sd1_backbone, word, picture, QUICK, words="*")
    with pytest.warns(UserWarning, match="'an object'"):
        tune(sd1_backbone, word, picture, replace(QUICK, steps=1))
    tune(sd1_backbone, word, picture, replace(QUICK, steps=1), words="a mug")
    with pytest.raises(ValueError, match="at least one image"):
        tune(sd1_backbone, word_of(sd1_backbone), [], QUICK)


def test_a_word_of_another_model_is_refused(sd1_backbone, picture):
    word = Concept(token="<c>", rows={"text_encoder": torch.ones(1, 24)}, metadata={"sentinv.initial_text": "a mug"})
    with pytest.raises(ConceptError, match="do not fit"):
        tune(sd1_backbone, word, picture, QUICK)
    other = replace(
        word_of(sd1_backbone), metadata={"sentinv.initial_text": "a mug", "sentinv.base_model_hash": "f" * 64}
    )
    with pytest.warns(UserWarning, match="<c> was learned on another model than tiny"):
        tune(sd1_backbone, other, picture, replace(QUICK, steps=0))
    with pytest.raises(ConceptError, match="to_nothing"):
        tune(sd1_backbone, word_of(sd1_backbone), picture, replace(QUICK, targets=("to_nothing",)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 0}, {"rank": 2000}, {"blended": 5}, {"others": -1}, {"targets": ()}, {"rows_learning_rate": 0.0},
        {"others_weight": 0.0},
        {"scenes": ()}, {"styles": ("no room",)}, {"kind": "style", "blended": 1}, {"train_rows": 1},
    ],
)  # fmt: skip
def test_values_out_of_their_range(wrong):
    with pytest.raises(ValueError, match=f"TuneConfig.({next(iter(wrong))}|blended)"):
        TuneConfig(**wrong)


def test_a_words_blended_items_name_scenes_only():
    word, lora = (Blend.of(config, "a mug on the moon") for config in (TrainConfig(), TuneConfig()))
    assert word.styles == () and lora.styles == STYLES and word.scenes == lora.scenes
    assert Blend.of(TrainConfig(styles=("a print of {}",)), "a mug").styles == ("a print of {}",)


def test_items_that_nobody_asks_for_are_no_more_than_the_batch():
    """A config has numbers whether they were given or not, so that a run and its checkpoints are the same either way."""
    assert TuneConfig() == TuneConfig(blended=2, others=1) and asdict(TuneConfig())["blended"] == 2
    assert (TuneConfig(batch_size=1).blended, TuneConfig(batch_size=1).others) == (1, 1)
    assert (TuneConfig(kind="style").blended, TrainConfig().blended) == (0, 2)
    assert replace(TuneConfig(), batch_size=1, blended=None) == TuneConfig(batch_size=1)
    words = (
        TrainConfig(),
        TrainConfig(kind="style"),
        TrainConfig(blended=0),
        TrainConfig(blended=3),
        TrainConfig(batch_size=1),
    )
    assert [(one.batch_size, one.blended) for one in words] == [(2, 2), (4, 0), (4, 0), (3, 3), (1, 1)]
    with pytest.raises(ValueError, match="blended must be a whole number, got 'x'"):
        TrainConfig(blended="x")
    with pytest.raises(ValueError, match=r"blended must be in \[0, 1\]"):
        TuneConfig(batch_size=1, blended=2)
    with pytest.raises(ValueError, match="blended must be a whole number"):
        TuneConfig(blended=1.0)


def test_words_without_their_place():
    assert without_scene("a mug on the beach") == "a mug"
    assert without_scene("a cat with a hat sitting in front of a wall") == "a cat with a hat"
    assert without_scene("a striped mug") == "a striped mug"


def test_a_thing_that_nobody_has_named_is_an_object(recwarn):
    rows = {"text_encoder": torch.ones(1, 8)}
    named = Concept(token="<a>", rows=rows, metadata={"sentinv.initial_text": "a mug"})
    assert (words_of(named), words_of(named, "a jug")) == ("a mug", "a jug") and not recwarn
    unnamed = Concept(token="<a>", rows=rows, metadata={"sentinv.initial_text": "*"})
    with pytest.warns(UserWarning, match="nobody has said what <a> is.*'an object'.*--phrase.*--words"):
        assert words_of(unnamed) == "an object"
    with pytest.raises(PromptError, match="got none"):
        words_of(unnamed, " ")
