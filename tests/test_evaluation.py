import json
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import build_pipeline
from judging import build_judge, random_picture
from PIL import Image
from transformers import CLIPModel

from sentinv.cli.main import cli
from sentinv.concepts.concept import Concept
from sentinv.concepts.initialization import Initialization, starting_rows
from sentinv.evaluation.evaluate import EvaluateConfig, Evaluator, describe, evaluate, image_only, without_placeholder
from sentinv.evaluation.judges import ClipJudge, DinoJudge, LpipsJudge, Unavailable
from sentinv.evaluation.metrics import mean_embedding_cosine, pairwise_cosine, psnr, ssim
from sentinv.generation.generate import GenerateConfig, generate

QUICK = EvaluateConfig(
    count=3, prompts=("a photo of {} on the moon", "a painting of {}"), sampling=GenerateConfig(steps=2)
)


@pytest.fixture(scope="module")
def judge(tokenizer):
    return build_judge(tokenizer)


def unit(*vectors):
    return torch.nn.functional.normalize(torch.tensor(vectors, dtype=torch.float32), dim=-1)


def test_reconstruction_by_hand():
    """cos 0°, 90° and 45°, 45° → means 0.5 and 0.7071."""
    values = pairwise_cosine(unit((1, 0), (1, 1)), unit((2, 0), (0, 3)))
    assert values.tolist() == pytest.approx([0.5, math.sqrt(0.5)])


def test_editability_takes_the_mean_embedding_not_the_mean_cosine():
    """Two pictures at ±60° of the text: each has cosine 0.5, their mean points at the text."""
    images = unit((0.5, math.sqrt(0.75)), (0.5, -math.sqrt(0.75)))
    assert mean_embedding_cosine(images, unit((1, 0))[0]) == pytest.approx(1)


def test_prompt_without_placeholder():
    assert without_placeholder("a photo of {} on the moon") == "a photo of on the moon"


def test_psnr_by_hand():
    """A difference of 0.2 in [-1, 1] is 0.1 in [0, 1]: MSE 0.01, 20 dB."""
    first = torch.zeros(2, 3, 4, 4)
    assert psnr(first, first + 0.2).tolist() == pytest.approx([20, 20], rel=1e-5)
    assert psnr(first, first).tolist() == [100, 100]


def test_ssim_against_windows_written_out():
    """Oracle: Wang et al.'s equation 13, window by window in numpy."""
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(1, 3, 13, 12, generator=generator) * 2 - 1
    second = (first + 0.3 * torch.randn(first.shape, generator=generator)).clamp(-1, 1)
    weights = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(weights, weights) / weights.sum() ** 2
    values = []
    for x, y in zip((first[0].double().numpy() + 1) / 2, (second[0].double().numpy() + 1) / 2, strict=True):
        for top in range(3):
            for left in range(2):
                a, b = (part[top : top + 11, left : left + 11] for part in (x, y))
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                variance_a, variance_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
                covariance = (window * (a - mean_a) * (b - mean_b)).sum()
                luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
                values.append(luminance * (2 * covariance + 9e-4) / (variance_a + variance_b + 9e-4))
    assert ssim(first, second).item() == pytest.approx(np.mean(values), rel=1e-9)
    assert ssim(first, first).item() == pytest.approx(1)


def test_judge_gives_what_transformers_gives(judge, tokenizer):
    """Oracle: the logits of a whole forward pass are the scaled cosines."""
    images, texts = [random_picture(1), random_picture(2).resize((24, 24))], ["a red mug", "cat"]
    inputs = judge.processor(text=texts, images=images, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = judge.model(**inputs).logits_per_image
    ours = judge.images(images) @ judge.texts(texts).T * judge.model.logit_scale.exp()
    assert torch.allclose(ours, logits, atol=1e-4)
    assert torch.allclose(judge.images(images).norm(dim=1), torch.ones(2))


def test_digest_tells_judges_apart(judge, tokenizer):
    same = build_judge(tokenizer)
    assert same.digest == judge.digest
    other = build_judge(tokenizer)
    with torch.no_grad():
        other.model.visual_projection.weight[0, 0] += 1
    assert other.digest != judge.digest


def test_a_measure_without_weights_says_so_and_has_no_number(judge, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(Unavailable, match="AlexNet's weights are not in torch's cache"):
        LpipsJudge()
    evaluator = Evaluator([random_picture(1)], judge, (16, 16), dino=str(tmp_path))
    scores = {score.metric: score for score in evaluator.reconstruction([random_picture(2), random_picture(3)])}
    assert set(scores) == {"reconstruction", "dino", "lpips", "psnr", "ssim"}
    for metric in ("lpips", "dino"):
        assert scores[metric].value is None and scores[metric].note.startswith("unavailable: ")
    assert scores["psnr"].value is not None and scores["psnr"].low <= scores["psnr"].value <= scores["psnr"].high


def test_evaluate_equals_the_formulas_on_the_same_images(judge, sd1_backbone):
    start = starting_rows(Initialization("a mug"), sd1_backbone)
    concept = Concept(token="<c>", rows=start.rows)
    real = [random_picture(1), random_picture(2)]
    evaluator = Evaluator(real, judge, (16, 16), perceptual=False)
    scores = evaluate(sd1_backbone, concept, evaluator, QUICK, human="a red mug")
    found = {(score.subject, score.metric, score.prompt): score.value for score in scores}

    made = generate(sd1_backbone, "a photo of <c>", [concept], count=3, seed=0, config=QUICK.sampling)
    expected = np.mean([[(a @ b).item() for b in judge.images(real)] for a in judge.images(made)])
    assert found["concept", "reconstruction", "a photo of {}"] == pytest.approx(expected, rel=1e-5)

    made = generate(sd1_backbone, "a painting of a red mug", count=3, seed=0, config=QUICK.sampling)
    text = judge.texts(["a painting of"])[0]
    expected = torch.cosine_similarity(judge.images(made).mean(dim=0), text, dim=0).item()
    assert found["human caption", "editability", "a painting of {}"] == pytest.approx(expected, rel=1e-5)
    prompts = [found["concept", "editability", prompt] for prompt in QUICK.prompts]
    assert found["concept", "editability", "mean"] == pytest.approx(np.mean(prompts))
    assert {score.subject for score in scores} == {"concept", "prompt only", "human caption", "image only"}
    assert evaluate(sd1_backbone, concept, evaluator, QUICK, human="a red mug") == scores


def test_image_only_does_not_compare_a_picture_with_itself(judge):
    first, second = random_picture(1), random_picture(2)
    both = Evaluator([first, second], judge, (16, 16), perceptual=False)
    cosine = (judge.images([first]) @ judge.images([second]).T).item()
    assert image_only(both, QUICK.prompts)[0].value == pytest.approx(cosine)
    one = Evaluator([first], judge, (16, 16), perceptual=False)
    assert image_only(one, QUICK.prompts)[0].value == 1 and image_only(one, QUICK.prompts)[0].low is None


def test_description_names_all_that_is_needed(judge):
    evaluator = Evaluator([random_picture(1)], judge, (16, 16))
    facts = describe(evaluator.reconstruction([random_picture(2)]), QUICK)
    assert facts["seeds"] == "0 to 2" and facts["images per prompt"] == 3 and "bootstrap" in facts["interval"]
    assert set(facts["formulas"]) == {"reconstruction", "dino", "lpips", "psnr", "ssim"}
    assert facts["scores"][0]["judge"] == "tiny CLIP"


@pytest.mark.parametrize("broken", [{"count": 0}, {"prompts": ("no placeholder",)}, {"prompts": ()}])
def test_config_refuses(broken):
    with pytest.raises(ValueError, match="expected"):
        EvaluateConfig(**broken)


def test_command(tmp_path, tokenizer, judge):
    build_pipeline(tokenizer, 16, "epsilon").save_pretrained(tmp_path / "model")
    judge.model.save_pretrained(tmp_path / "clip")
    judge.processor.save_pretrained(tmp_path / "clip")
    Concept(token="<c>", rows={"text_encoder": torch.ones(1, 16)}).save(tmp_path / "c.safetensors")
    random_picture(1).save(tmp_path / "real.png")
    command = ["evaluate", str(tmp_path / "c.safetensors"), "--images", str(tmp_path / "real.png"), "--count", "2"]
    command += ["--model", str(tmp_path / "model"), "--clip", str(tmp_path / "clip"), "--steps", "1"]
    result = CliRunner().invoke(cli, [*command, "--json", "--prompt", "a painting of {}"])
    assert result.exit_code == 0, result.stderr
    scores = json.loads(result.stdout)["scores"]
    assert {score["subject"] for score in scores} == {"concept", "prompt only", "image only"}
    result = CliRunner().invoke(cli, [*command, "--caption", "a red mug"])
    assert result.exit_code == 0 and "human caption" in result.stdout and "unavailable" in result.stdout
    assert CliRunner().invoke(cli, [*command, "--prompt", "nothing"]).exit_code == 2
    missing = CliRunner().invoke(cli, [*command[:-3], str(tmp_path / "none"), "--steps", "1"])
    assert missing.exit_code == 1 and missing.stderr.count("\n") == 1


def test_load_reads_a_folder(tmp_path, judge):
    judge.model.save_pretrained(tmp_path)
    judge.processor.save_pretrained(tmp_path)
    again = ClipJudge.load(str(tmp_path))
    assert isinstance(again.model, CLIPModel) and again.digest == judge.digest
    picture = Image.new("RGB", (20, 30), "red")
    assert torch.allclose(again.images([picture]), judge.images([picture]), atol=1e-6)


def test_dino_is_looked_for_here_and_nobody_is_asked(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *where, **how: asked.append(where) or [])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(Unavailable, match="the weights of facebook/dino-vits16 are not here"):
        DinoJudge()
    assert asked == []
