"""The training loop of the built-in model's parts: resumed to the step, moved to another batch, carried in pieces."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from toybox import captioner, eyes, fit, judge, lessons, pieces, tower

PLAN = fit.Plan(steps=6, batch=8, lr=1e-2, matrix_lr=1e-2, warmup=2, seed=3, save_every=3)


def train(steps: int, plan: fit.Plan = PLAN) -> nn.Module:
    """Fit a line, up to a step."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2)

    def loss(step, generator):
        x = torch.randn(plan.batch, 4, generator=generator)
        return (model(x) - x[:, :2]).pow(2).mean(), {}

    fit.fit("line", {"line": model}, loss, replace(plan, steps=steps) if steps != plan.steps else plan)
    return model


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "RUNS", tmp_path)
    monkeypatch.setattr(pieces, "RUNS", tmp_path)
    monkeypatch.setattr(pieces, "PARTS", ("line",))
    return tmp_path


def test_a_run_that_was_stopped_goes_on_to_the_bit(runs, monkeypatch):
    whole = train(6)
    (runs / "line" / "state.safetensors").unlink()
    monkeypatch.setenv("TOYBOX_MINUTES", "0")  # every call does one step
    for _ in range(5):
        train(6)
    monkeypatch.delenv("TOYBOX_MINUTES")
    resumed = train(6)
    assert torch.equal(whole.weight, resumed.weight)
    assert torch.equal(whole.bias, resumed.bias)


def test_a_gpu_does_the_same_pictures_in_fewer_steps():
    plan = replace(PLAN, steps=24000, batch=64, gpu_batch=512, warmup=200)
    assert plan.on("cpu") is plan
    there = plan.on("cuda:0")
    assert (there.steps, there.batch, there.warmup) == (3000, 512, 200)
    assert there.rate(1500) == plan.rate(12000)
    assert there.rate(2900) == pytest.approx(plan.rate(23200))


def test_a_state_travels_in_small_files(runs, tmp_path, monkeypatch):
    model = train(6)
    monkeypatch.setattr(pieces, "LARGEST", 8)
    out = tmp_path / "out"
    out.mkdir()
    pieces.pack_state("line", out)
    assert len(list(out.iterdir())) == 3  # ten numbers of two bytes
    (runs / "line" / "state.safetensors").unlink()
    assert pieces.take_state("line", out)
    weights = fit.Weights({"line": nn.Linear(4, 2)}, replace(PLAN, batch=4), fit.workers())
    assert fit.load_checkpoint(runs / "line" / "state.safetensors", weights) == 12  # six steps of eight
    weights.use_average()
    travelled = dict(zip(weights.keys, weights.values, strict=True))
    assert torch.allclose(travelled["line.weight"], model.weight, atol=1e-3)


def test_nothing_travels_of_a_training_that_has_not_begun(tmp_path):
    pieces.pack_state("line", tmp_path)
    assert not list(tmp_path.iterdir())
    assert not pieces.take_state("line", tmp_path)


def test_where_there_is_no_autoencoder_it_is_trained_first_and_comes_back(runs, tmp_path, monkeypatch):
    there, asked = runs / "vae" / "model", []
    monkeypatch.setattr(pieces.vae, "FOLDER", there)
    monkeypatch.setattr(pieces.art, "TRAINING", runs / "sprites")
    (runs / "sprites").mkdir()
    (runs / "sprites" / "index.json").write_text("[]")

    def program(name, *options, minutes):
        asked.append((name, *options))
        if name == "vae":
            there.mkdir(parents=True)
            (there / "config.json").write_text("{}")

    monkeypatch.setattr(pieces, "_program", program)
    command = ["run", str(tmp_path), "--out", str(tmp_path / "out"), "--vae-steps", "7", "--pictures", "9"]
    for _ in range(2):
        pieces.main(command, standalone_mode=False)
    assert asked == [("vae", "--steps", "7"), *[("latents", "--pictures", "9"), ("diffusion",)] * 2]
    pieces.main([*command, "--part", "judge"], standalone_mode=False)
    assert asked[-2:] == [("lessons",), ("judge",)]
    (there / "config.json").unlink()
    pieces.main(["take", str(tmp_path / "out")], standalone_mode=False)
    assert (there / "config.json").read_text() == "{}"


def test_how_far_the_trainings_are_can_be_kept_without_the_sprites(runs, tmp_path, monkeypatch):
    words = runs / "tokenizer"
    monkeypatch.setattr(pieces.vae, "FOLDER", runs / "vae" / "model")
    monkeypatch.setattr(pieces, "FOLDERS", (words,))
    words.mkdir()
    (words / "vocab.json").write_text("[]")
    model = train(4)
    states = tmp_path / "states"
    pieces.main(["pack", str(states), "--no-sprites"], standalone_mode=False)
    assert {path.name for path in states.iterdir()} == {"small.zip", "line-0.safetensors"}
    (words / "vocab.json").unlink()
    (runs / "line" / "state.safetensors").unlink()
    (states / "pipeline" / "unet").mkdir(parents=True)
    (states / "pipeline" / "unet" / "config.json").write_text("{}")
    monkeypatch.setattr(pieces.vocabulary, "JUDGE_FOLDER", runs / "judge-tokenizer")
    (states / "clip").mkdir()
    for name in ("vocab.json", "model.safetensors"):
        (states / "clip" / name).write_text("{}")
    pieces.main(["take", str(states)], standalone_mode=False)
    assert [path.name for path in (runs / "judge-tokenizer").iterdir()] == ["vocab.json"]
    assert (words / "vocab.json").read_text() == "[]"
    assert (runs / "diffusion" / "pipeline" / "unet" / "config.json").read_text() == "{}"
    again = fit.Weights({"line": nn.Linear(4, 2)}, PLAN, fit.workers())
    assert fit.load_checkpoint(runs / "line" / "state.safetensors", again) == 4
    average = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert torch.allclose(again.average, average, atol=1e-3)


def test_eyes_are_handed_over(tmp_path, monkeypatch):
    torch.manual_seed(3)
    taught = eyes.new_resnet({0: "a", 1: "b"}).eval()
    monkeypatch.setattr(eyes, "TAUGHT", tmp_path)
    taught.save_pretrained(tmp_path)
    pictures = torch.randn(2, 3, 128, 128)
    wanted = taught.resnet(pictures).last_hidden_state

    blip = captioner.new_captioner(SimpleTokens())
    eyes.hand_over(blip.vision_model.resnet)
    assert torch.allclose(blip.eval().vision_model(pictures).last_hidden_state, wanted.flatten(2).mT, atol=1e-5)
    image_tower = tower.new_tower(32)
    eyes.hand_over(image_tower.resnet)
    assert torch.allclose(image_tower.eval().resnet(pictures).last_hidden_state, wanted, atol=1e-5)
    assert image_tower(pictures).logits.shape == (2, 32)


def test_normalisations_are_settled_over_all_batches():
    network = eyes.new_resnet({0: "a", 1: "b"})
    first = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    batches = []

    def draw(chance):
        batches.append(torch.rand(2, 3, 128, 128, generator=chance))
        return batches[-1]

    eyes.settle(network, draw, "cpu")
    convolution = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    means = torch.stack([convolution(eyes.pixels(batch)).mean((0, 2, 3)) for batch in batches]).mean(0)
    assert torch.allclose(first.running_mean, means, atol=1e-5) and not network.training


def test_what_was_learned_in_whitened_space_is_put_out_in_the_encoders_own():
    torch.manual_seed(0)
    encoded = torch.randn(4000, 6) @ torch.randn(6, 6) + 10
    space, layer, pictures = tower.WhitenedSpace(encoded), nn.Linear(4, 6), torch.randn(9, 4)
    assert torch.allclose(torch.cov(space.whiten(encoded).T), torch.eye(6), atol=0.5)
    whitened = layer(pictures)
    space.fold(layer, 2.0)
    assert torch.allclose(space.whiten(layer(pictures)), 2 * whitened, atol=1e-3)


def test_a_judge_learns_things_that_it_is_told():
    torch.manual_seed(0)
    model = judge.Judge(judge.new_judge(SimpleTokens()), things=8)
    pictures, ids = torch.rand(8, 3, 128, 128), torch.randint(3, 40, (8, 12))
    label, thing = torch.tensor([1, 2, 1, 2]), torch.tensor([1, 2, 1, 2, 5, 6, -1, 7])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    told = []
    for _ in range(8):
        losses = model.losses(pictures, ids, label, thing)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        told.append({name: value.item() for name, value in losses.items()})
    assert set(told[0]) == {"words", "likeness", "things"}
    assert all(told[-1][name] < told[0][name] for name in told[0])


class SimpleTokens:
    """As much of a tokenizer as a config needs."""

    model_max_length, pad_token_id, bos_token_id, eos_token_id = 12, 0, 1, 2

    def __len__(self) -> int:
        return 50

    def convert_tokens_to_ids(self, _: list[str]) -> list[int]:
        return [1, 2]


def test_pictures_are_jostled_and_stay_what_they_are():
    pictures = torch.zeros(6, 3, 128, 128)
    pictures[:, :, 48:80, 48:80] = 1.0
    moved = lessons.jostle(pictures, torch.Generator().manual_seed(0))
    assert moved.shape == pictures.shape and not torch.allclose(moved, pictures)
    assert ((moved > 0.5).float().mean((1, 2, 3)) / (pictures > 0.5).float().mean((1, 2, 3)) - 1).abs().max() < 0.5
