"""How well a learned word works: reconstruction and editability (Gal et al. 2022, arXiv:2208.01618, section 5.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sentinv.adapters.install import adapted
from sentinv.concepts.prompts import fill
from sentinv.evaluation.judges import ClipJudge, DinoJudge, LpipsJudge, Unavailable
from sentinv.evaluation.metrics import mean_embedding_cosine, pairwise_cosine, psnr, ssim
from sentinv.evaluation.statistics import RESAMPLES, bootstrap
from sentinv.files.images import prepare
from sentinv.generation.generate import GenerateConfig, generate

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.adapters.lora import Lora
    from sentinv.concepts.concept import Concept
    from sentinv.models.backbone import Backbone

RECONSTRUCTION_PROMPT = "a photo of {}"
EDITING_PROMPTS = (
    "a photo of {} on the moon",
    "a photo of {} on the beach",
    "a pencil sketch of {}",
    "a watercolor of {}",
    "a photo of {} next to a tree",
)
"""Background, style and composition."""

FORMULAS = {
    "reconstruction": "mean over pairs of cos(CLIP(generated), CLIP(image))",
    "editability": "cos(mean over generated of CLIP(generated), CLIP(prompt without placeholder))",
    "dino": "mean over pairs of cos(DINO(generated), DINO(image))",
    "lpips": "mean over pairs of LPIPS(generated, image)",
    "psnr": "mean over pairs of 10 log10(1 / MSE), values in [0, 1]",
    "ssim": "mean over pairs of SSIM, Gaussian window of 11 by 11, sigma 1.5",
}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How much is generated, and how.

    Attributes:
        count: images per prompt, ≥ 1.
        prompts: editing prompts, each with ``{}``.
        sampling: how images are sampled.
        seed: of the first image of each prompt.

    Raises:
        ValueError: If count is below 1, or a prompt has no ``{}``.
    """

    count: int = 64
    prompts: tuple[str, ...] = EDITING_PROMPTS
    sampling: GenerateConfig = field(default_factory=GenerateConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or not self.prompts or not all("{}" in prompt for prompt in self.prompts):
            raise ValueError("expected a count of at least 1 and prompts with {} where the placeholder goes")


@dataclass(frozen=True, kw_only=True)
class Score:
    """One measured figure, or why there is none.

    Attributes:
        subject: what was measured: "concept", "image only", "prompt only", "human caption".
        metric: key of `FORMULAS`.
        prompt: what was generated; "mean" for the mean over the editing prompts, "" where nothing was generated.
        value: the figure; None if unavailable.
        low: lower end of its 95 % bootstrap interval over images (over prompts for "mean"); None if there is none.
        high: upper end.
        n: images, or prompts for "mean".
        judge: the model that measured it.
        note: why it is unavailable.
    """

    subject: str
    metric: str
    prompt: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    judge: str = ""
    note: str = ""


def without_placeholder(prompt: str) -> str:
    """The prompt with nothing where the placeholder was, as editability compares with."""
    return " ".join(fill(prompt, "").split())


class Evaluator:
    """Scores pictures of one concept.

    Args:
        real: the concept's pictures, ≥ 1.
        clip: the judge.
        size: (height, width) in pixels of what is generated; real pictures are cropped to it for LPIPS, PSNR and SSIM.
        dino: name of a DINO model; None for the well-known one if it is here.
        perceptual: whether to take LPIPS, PSNR, SSIM and DINO too.
    """

    def __init__(
        self,
        real: Sequence[Image.Image],
        clip: ClipJudge,
        size: tuple[int, int],
        *,
        dino: str | None = None,
        perceptual: bool = True,
    ) -> None:
        self.clip, self.size, self.perceptual = clip, size, perceptual
        self.real = list(real)
        self.real_embeddings = clip.images(self.real)
        self._dino = _or_why(lambda: DinoJudge(dino)) if perceptual else None
        self._lpips = _or_why(LpipsJudge) if perceptual else None

    def reconstruction(self, generated: Sequence[Image.Image], subject: str = "concept") -> list[Score]:
        """How close pictures are to the concept's: CLIP, and unless turned off DINO, LPIPS, PSNR, SSIM."""
        prompt = RECONSTRUCTION_PROMPT
        values = pairwise_cosine(self.clip.images(generated), self.real_embeddings)
        scores = [_score(subject, "reconstruction", prompt, values, self.clip.name)]
        if not self.perceptual:
            return scores
        dino: Any = self._dino
        lpips: Any = self._lpips
        measures: tuple[tuple[str, Any, Callable[[], Tensor]], ...] = (
            ("dino", dino, lambda: pairwise_cosine(dino.images(generated), dino.images(self.real))),
            ("lpips", lpips, lambda: self._compare(lpips.distance, generated)),
            ("psnr", None, lambda: self._compare(psnr, generated)),
            ("ssim", None, lambda: self._compare(ssim, generated)),
        )
        for metric, judge, measure in measures:
            if isinstance(judge, Unavailable):
                scores.append(Score(subject=subject, metric=metric, prompt=prompt, note=f"unavailable: {judge}"))
            else:
                scores.append(_score(subject, metric, prompt, measure(), judge.name if judge else ""))
        return scores

    def editability(
        self, generated: Sequence[Sequence[Image.Image]], prompts: Sequence[str], subject: str = "concept"
    ) -> list[Score]:
        """How well pictures follow their prompts: one score per prompt, and their mean."""
        texts = self.clip.texts([without_placeholder(prompt) for prompt in prompts])
        scores = []
        for images, prompt, text in zip(generated, prompts, texts, strict=True):
            embeddings = self.clip.images(images)
            low, high = _resampled(embeddings, text)
            value = mean_embedding_cosine(embeddings, text)
            score = Score(subject=subject, metric="editability", prompt=prompt, value=value, judge=self.clip.name)
            scores.append(replace(score, low=low, high=high, n=len(images)))
        values = torch.tensor([score.value for score in scores], dtype=torch.float64)
        return [*scores, _score(subject, "editability", "mean", values, self.clip.name)]

    def _compare(self, measure: Callable[[Tensor, Tensor], Tensor], generated: Sequence[Image.Image]) -> Tensor:
        """Mean of a pixel-wise measure of each generated picture with all real ones, `[N]`."""
        real = torch.cat([prepare(image, self.size, multiple=1) for image in self.real])
        own = (prepare(image, self.size, multiple=1) for image in generated)
        return torch.stack([measure(one.expand_as(real), real).mean() for one in own])


def evaluate(
    backbone: Backbone,
    concept: Concept,
    evaluator: Evaluator,
    config: EvaluateConfig | None = None,
    *,
    loras: Sequence[Lora | tuple[Lora, float]] = (),
    human: str | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> list[Score]:
    """Measure a concept, between the reference rows "image only" and "prompt only".

    Args:
        backbone: generates.
        concept: the learned word.
        evaluator: holds the concept's pictures and the judges.
        config: how much is generated.
        loras: what is on while the concept is measured, as `adapted` takes them; reference rows are of the model as it is.
        human: a person's caption of the concept, for a third reference row.
        on_step: called with (prompts done, prompts in all).

    Raises:
        SentinvError: As `generate`.
    """
    config = config or EvaluateConfig()
    subjects: list[tuple[str, str, Sequence[Concept]]] = [
        ("concept", concept.token, [concept]),
        ("prompt only", "", []),
    ]
    if human is not None:
        subjects.append(("human caption", human, []))
    total = len(subjects) * (1 + len(config.prompts))
    done = 0

    def images(prompt: str, words: str, concepts: Sequence[Concept]) -> list[Image.Image]:
        nonlocal done
        text = " ".join(fill(prompt, words).split())
        made = generate(backbone, text, concepts, count=config.count, seed=config.seed, config=config.sampling)
        done += 1
        if on_step is not None:
            on_step(done, total)
        return made

    scores: list[Score] = []
    for subject, words, concepts in subjects:
        with adapted(backbone, loras) if loras and concepts else nullcontext():
            first = images(RECONSTRUCTION_PROMPT, words, concepts)
            made = [images(prompt, words, concepts) for prompt in config.prompts]
        scores += evaluator.reconstruction(first, subject)
        scores += evaluator.editability(made, config.prompts, subject)
    return [*scores, *image_only(evaluator, config.prompts)]


def image_only(evaluator: Evaluator, prompts: Sequence[str]) -> list[Score]:
    """The reference of a copier: the concept's own pictures in the place of generated ones."""
    count = len(evaluator.real)
    same = evaluator.real_embeddings @ evaluator.real_embeddings.T
    if count > 1:  # a picture is not compared with itself
        values = (same.sum(dim=1) - same.diagonal()) / (count - 1)
        first = _score("image only", "reconstruction", "", values, evaluator.clip.name)
    else:
        first = Score(
            subject="image only", metric="reconstruction", prompt="", value=1.0, n=1, judge=evaluator.clip.name
        )
    return [first, *evaluator.editability([evaluator.real] * len(prompts), prompts, "image only")]


def describe(scores: Sequence[Score], config: EvaluateConfig) -> dict[str, Any]:
    """All that a reader needs to read the figures, as JSON can say it."""
    used = {score.metric for score in scores}
    sampling = config.sampling
    guidance = "the model's own" if sampling.guidance_scale is None else f"{sampling.guidance_scale:g}"
    return {
        "scores": [asdict(score) for score in scores],
        "formulas": {metric: formula for metric, formula in FORMULAS.items() if metric in used},
        "images per prompt": config.count,
        "seeds": f"{config.seed} to {config.seed + config.count - 1}",
        "sampling": f"{sampling.steps} DDIM steps, guidance {guidance}",
        "interval": f"95 % percentile bootstrap over images (over prompts for the mean), {RESAMPLES} resamples, seed 0",
    }


def _score(subject: str, metric: str, prompt: str, values: Tensor, judge: str) -> Score:
    interval = bootstrap(values.tolist())
    score = Score(subject=subject, metric=metric, prompt=prompt, value=interval.mean, n=interval.n, judge=judge)
    return replace(score, low=interval.low, high=interval.high) if interval.n > 1 else score


def _resampled(embeddings: Tensor, text: Tensor) -> tuple[float | None, float | None]:
    """Bootstrap interval of `mean_embedding_cosine` over images; none for a single one."""
    count = len(embeddings)
    if count < 2:
        return None, None
    drawn = torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(0))
    often = torch.zeros(RESAMPLES, count).scatter_add_(1, drawn, torch.ones(RESAMPLES, count))
    cosines = torch.cosine_similarity(often @ embeddings, text[None], dim=1)
    low, high = cosines.quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high


def _or_why(judge: Callable[[], Any]) -> Any:
    """The judge, or the `Unavailable` that says why there is none."""
    try:
        return judge()
    except Unavailable as why:
        return why
