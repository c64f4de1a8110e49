"""The report of a run: one page that says what went in, what was learned and how it looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from sentinv.files.images import crop_resize
from sentinv.report.chart import loss_chart
from sentinv.report.html import image, page, table
from sentinv.training.provenance import row_statistics
from sentinv.training.tune import Tuned
from sentinv.version import __version__

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.concepts.initialization import Start
    from sentinv.training.invert import Learned
    from sentinv.training.samples import Samples

_MINUS = "\u2212"
_SHOWN = 512  # pixels, the largest side of an image on the page
_UNTOLD = {"evaluation_timesteps", "evaluation_noises", "checkpoint_every", "patience", "min_improvement", "betas"}
_STOPS = {
    "auto": "the loss no longer fell",
    "not finite": "the loss was not finite",
    "runaway": "a vector grew beyond all use",
    "asked": "on request",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """A run that is over.

    Attributes:
        learned: the word, and how it came about; or a word with a LoRA around it.
        samples: images without the training and with it.
        seconds: what took how long.
    """

    learned: Learned | Tuned
    samples: Samples
    seconds: Mapping[str, float]


def render(report: Report) -> str:
    """Make the page, as HTML that needs nothing else."""
    rows = "" if isinstance(report.learned, Tuned) else _rows(report.learned)
    parts = [_top(report), _strips(report), _curve(report), rows, _settings(report), _use(report)]
    return page(f"{report.learned.concept.token} · sentinv", "\n".join(part for part in parts if part))


def _top(report: Report) -> str:
    history = report.learned.history
    pictures = [
        image(_small(one.image), f"input {number}") for number, one in enumerate(report.learned.pictures, start=1)
    ]
    lead, origin = _lead(report)
    many = " many" if len(pictures) > 1 else ""
    change = (history.best_loss / history.start_loss - 1) * 100
    figures = [
        (f"{change:+.1f} %".replace("-", _MINUS), f"loss, {history.start_loss:.4f} → {history.best_loss:.4f}"),
        (f"{history.best_step}", f"best step of {history.evaluations[-1][0]}"),
        (f"{history.seconds:.0f} s", "of training"),
    ]
    cells = "".join(f"<div><b>{escape(value)}</b><span>{escape(label)}</span></div>" for value, label in figures)
    return (
        f'<div class="top"><div class="inputs{many}">{"".join(pictures)}</div><div>'
        f"<h1>{escape(report.learned.concept.token)}</h1>"
        f'<p class="lead">{escape(lead)}</p><p class="soft">{escape(origin)}</p>'
        f'<div class="figures">{cells}</div>{_verdict(report)}</div></div>'
    )


def _lead(report: Report) -> tuple[str, str]:
    """What was learned from what, and on which model."""
    learned = report.learned
    if isinstance(learned, Tuned):
        lora = learned.lora
        rows = "the word learned too" if learned.config.train_rows else "the word stays as it is"
        return f"LoRA of rank {lora.rank} on {len(lora.layers)} layers", f"{rows} · learned on {_model(report)}"
    start = learned.start
    vectors = "1 vector" if start.count == 1 else f"{start.count} vectors"
    return f"{vectors}, started from “{start.text}”", f"{_origin(start)} · learned on {_model(report)}"


def _origin(start: Start) -> str:
    said = {
        "caption": "said by the captioner",
        "class": "said by the classifier",
        "word": "a word of yours",
        "phrase": "a phrase of yours",
        "vanilla": "the start of plain textual inversion",
        "random": "a word drawn from the vocabulary",
        "concept": "continued from a concept",
    }
    source = start.initialization.source
    cut = f"; “{start.dropped}” was cut" if start.dropped else ""
    return f"{said.get(source, source)}{cut}"


def _model(report: Report) -> str:
    """The model's name, without the folders that it lies in on somebody's disk."""
    learned = report.learned
    name = learned.lora.base_model if isinstance(learned, Tuned) else learned.concept.base_model
    return Path(name).name if Path(name).is_absolute() else name


def _verdict(report: Report) -> str:
    if report.learned.config.steps and not report.learned.history.learned:
        return '<p style="margin-top:18px"><b>Nothing was learned:</b> no step was better than the start.</p>'
    stop = _STOPS.get(report.learned.history.stop)
    return f'<p class="soft" style="margin-top:18px">Stopped early: {stop}.</p>' if stop else ""


def _strips(report: Report) -> str:
    samples, seed = report.samples, report.learned.config.seed
    if not samples.after:
        return ""
    columns = min(len(samples.after), 8)
    strips = []
    for label, pictures in zip(_labels(report), (samples.before, samples.after), strict=True):
        cells = "".join(
            f"<figure>{image(_small(one), f'{label}, seed {number}')}</figure>"
            for number, one in enumerate(pictures, start=seed)
        )
        strips.append(f'<div class="strip"><p>{label}</p><div style="--columns:{columns}">{cells}</div></div>')
    seeds_text = f"seeds {seed} to {seed + len(samples.after) - 1}, the same in both rows"
    note = f'<p class="soft">“{escape(samples.prompt)}”, {seeds_text}</p>'
    return f"<h2>Before and after</h2>{note}{''.join(strips)}"


def _labels(report: Report) -> tuple[str, str]:
    return ("the word", "word + LoRA") if isinstance(report.learned, Tuned) else ("start words", "learned")


def _curve(report: Report) -> str:
    training = [(record.step, record.loss) for record in report.learned.history.records]
    chart = loss_chart(training, report.learned.history.evaluations, report.learned.history.best_step)
    legend = (
        '<p class="soft legend"><span><i style="background:var(--accent)"></i>fixed grid of timesteps and noises; the ring '
        'marks what was kept</span><span><i style="background:var(--second)"></i>training batches, running mean'
        "</span></p>"
    )
    return f"<h2>Loss</h2>{legend}<figure>{chart}</figure>"


def _rows(word: Learned) -> str:
    concept, start = word.concept, word.start
    learned, before = row_statistics(concept.rows, start.rows), row_statistics(start.rows, start.rows)
    lines = []
    for encoder, statistics in learned.items():
        for index, (norm, cosine) in enumerate(statistics):
            lines.append(
                [
                    f"<code>{escape(concept.vector_names[index])}</code>",
                    f"<code>{escape(start.tokens[index])}</code>",
                    *([escape(encoder)] if len(learned) > 1 else []),
                    f"{before[encoder][index][0]:.3f} → {norm:.3f}",
                    f"{cosine:.3f}".replace("-", _MINUS),
                    f'<div class="bar"><i style="width:{100 * max(0.0, min(1.0, cosine)):.0f}%"></i></div>',
                ]
            )
    extra = ["text encoder"] if len(learned) > 1 else []
    head = ["vector", "started as", *extra, "norm", "cosine to start", ""]
    return f"<h2>Vectors</h2>{table(head, lines, (2 + len(extra), 3 + len(extra)))}"


def _settings(report: Report) -> str:
    values = {
        "model": _model(report),
        "device": f"{report.learned.device}, {report.learned.dtype}",
        **{
            key.replace("_", " "): _told(value)
            for key, value in asdict(report.learned.config).items()
            if key == "seed"
            or (key not in _UNTOLD and (value or value != getattr(type(report.learned.config), key, value)))
        },
    }
    settings = table([], [[escape(key), f"<code>{escape(value)}</code>"] for key, value in values.items()])
    lines = [[escape(part), f"{seconds:.1f} s"] for part, seconds in report.seconds.items()]
    lines.append(["<b>together</b>", f"<b>{sum(report.seconds.values()):.1f} s</b>"])
    times = table([], lines, (1,))
    return f'<div class="columns"><div><h2>Settings</h2>{settings}</div><div><h2>Time</h2>{times}</div></div>'


def _use(report: Report) -> str:
    token = report.learned.concept.token
    option, call = "", ""
    if isinstance(report.learned, Tuned):
        option, call = " --lora FILE", " and <code>load_lora_weights(FILE)</code>"
    return (
        f'<h2>In use</h2><pre>sentinv generate "a photo of {escape(token)} on the moon" --concept FILE{option}</pre>'
        f'<p class="soft">In diffusers, after <code>load_textual_inversion(FILE)</code>{call}: '
        f"<code>{escape(token)}</code>, for "
        "which its pipelines put in all vectors. In AUTOMATIC1111's web UI: the file's name; in ComfyUI: that after "
        "<code>embedding:</code>.</p>"
        f"<footer>sentinv {escape(__version__)}</footer>"
    )


def _told(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "yes" if value else "no" if value is False else "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _small(picture: Image.Image) -> Image.Image:
    """The square that is trained on, not larger than it is shown."""
    from PIL import Image

    side = min(*picture.size, _SHOWN)
    return crop_resize(picture.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
