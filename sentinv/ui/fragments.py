"""Pieces of the page as HTML. Whatever comes from outside is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import quote

from sentinv.report.chart import loss_chart
from sentinv.report.html import image
from sentinv.ui.learning import SEEDS

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.concepts.export import Export
    from sentinv.concepts.initialization import Plan
    from sentinv.files.decoding import Picture
    from sentinv.ui.drawing import Drawn
    from sentinv.ui.folder import Word
    from sentinv.ui.learning import Run

_SHOWN, _LONGEST = 512, 200
SUGGESTIONS = (
    "a photo of {} on the moon",
    "a photo of {} in the snow",
    "a watercolor of {}",
    "a photo of {} on the beach",
)
TEXT, PROMPT, NEW_WORDS = "#learn-text", "#draw-prompt", "#edit-prompt"


def small(picture: Image.Image, side: int = _SHOWN) -> Image.Image:
    """A picture as it is shown."""
    shown = picture.convert("RGB")
    shown.thumbnail((side, side))
    return shown


def note(text: str) -> str:
    """A sentence in passing; "" stays empty."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def figures(pictures: Sequence[tuple[Image.Image, str]], kind: str = "pictures few") -> str:
    """Pictures with a caption each."""
    cells = "".join(
        f"<figure>{image(small(one), text)}<figcaption>{escape(text)}</figcaption></figure>" for one, text in pictures
    )
    return f'<div class="{kind}">{cells}</div>' if cells else ""


def examples(pictures: Sequence[tuple[str, Image.Image]]) -> str:
    """Buttons for pictures to try; each presses a hidden one of the page."""
    chips = "".join(
        f'<button type="button" class="chip" data-press="#example-{number}">{image(small(one, 64), "")}{escape(name)}</button>'
        for number, (name, one) in enumerate(pictures)
    )
    return f'<div class="row chips" role="group" aria-label="Pictures to try"><span class="note">Or try</span>{chips}</div>'


def vectors(found: Plan) -> str:
    """The vectors that words come to: "5 vectors: a · cat · on · the · beach"; a press on a word leaves it out."""
    count = "1 vector" if len(found.tokens) == 1 else f"{len(found.tokens)} vectors"
    tokens, parts = iter(found.tokens), ""
    for word, own in zip(found.text.split(), found.counts, strict=True):
        pieces = "".join(f"<span>{escape(token)}</span>" for token in islice(tokens, own))
        parts += (
            f'<button type="button" data-without="{escape(word)}" data-into="{TEXT}" title="Leave “{escape(word)}” out" '
            f'aria-label="Leave out {escape(word)}">{pieces}<i aria-hidden="true">&times;</i></button>'
        )
    cut = f"<b>No room for “{escape(found.dropped)}”.</b>" if found.dropped else ""
    return f'<div class="vectors">{count}: {parts}{cut}<span class="soft">Press a word to leave it out.</span></div>'


def word_chips(words: Sequence[Word], into: str) -> str:
    """A button for each learned word, that puts it into a prompt."""
    if not words:
        return note("There are no learned words in the folder yet. Learn one first, or say anything without.")
    chips = "".join(
        f'<button type="button" class="chip" data-add="{escape(word.concept.token)}" data-into="{into}" '
        f'title="{escape(word.start)}">{_thumbnail(word)}<code>{escape(word.concept.token)}</code></button>'
        for word in words[:40]
    )
    return f'<div class="row chips" role="group" aria-label="Your learned words">{chips}</div>'


def _thumbnail(word: Word) -> str:
    return f'<img src="{escape(word.thumbnail)}" alt="">' if word.thumbnail else ""


def suggestions(token: str, into: str) -> str:
    """Prompts that somebody may want to try."""
    chips = "".join(
        f'<button type="button" class="chip" data-fill="{escape(text.replace("{}", token))}" data-into="{into}">'
        f"{escape(text.replace('{}', '…').removeprefix('a photo of … ')).replace(' of …', '')}</button>"
        for text in SUGGESTIONS
    )
    return f'<div class="row chips" role="group" aria-label="Ideas">{chips}</div>'


def kept(*parts: str) -> str:
    """The address of a file of the folder."""
    return "kept/" + "/".join(quote(part) for part in parts)


def gallery(drawn: Sequence[Drawn]) -> str:
    """What was drawn, each with its seed, to be had and to be drawn again."""
    cells = "".join(
        f"<figure>{image(small(one.image), f'Picture with seed {one.seed}')}<figcaption>Seed {one.seed}<br>"
        f'<a class="act" href="{kept("pictures", one.name)}" download aria-label="Download, seed {one.seed}">'
        f'Download</a><button type="button" class="act" data-fill="{one.seed}" data-into="#draw-seed" data-only="#draw-count" '
        f'aria-label="This seed again: {one.seed}">This seed again</button></figcaption></figure>'
        for one in drawn
    )
    return f'<div class="pictures">{cells}</div>' if cells else ""


def dropped(pictures: Sequence[Picture], cut: str = "A square of it is learned: the middle, or what you paint.") -> str:
    """What was dropped, and what will be left out of it: `cut`, where one is not square."""
    one = len(pictures) == 1
    shown = figures([(each.image, "Your picture" if one else f"Picture {n}") for n, each in enumerate(pictures, 1)])
    notes = [text for each in pictures for text in each.notices]
    if any(max(each.image.size) > 1.05 * min(each.image.size) for each in pictures):
        notes.append(cut if one else "Of each the middle is learned.")
    return shown + "".join(map(note, notes))


def sketch(told: str, made: Sequence[Image.Image] = ()) -> str:
    """First looks at the words, or the room that they will take."""
    room = '<div class="pictures few">' + '<figure><div class="blank"></div></figure>' * 2 + "</div>"
    tries = figures([(one, text) for one, text in zip(made, ("One try", "Another"), strict=False)])
    return f'<p class="label" role="status">{escape(told)}</p>{tries or room}'


def brush(name: str, picture: Image.Image, label: str) -> str:
    """A picture to paint on."""
    shown = small(picture)
    return (
        f'<div class="brush" data-name="{name}"><div class="canvas">{image(shown, label)}'
        f'<canvas width="{shown.width}" height="{shown.height}" role="img" aria-label="{escape(label)}"></canvas></div>'
        f'<div class="row"><label>Brush <input type="range" min="2" max="40" value="12" aria-label="Size of the brush">'
        f'</label><button type="button" class="chip" data-clear>Wipe</button></div></div>'
    )


def compare(before: Image.Image, after: Image.Image) -> str:
    """Two pictures, one over the other, and a slider between them."""
    return (
        f'<div class="compare">{image(small(before), "The picture as it was")}<div class="over">'
        f'{image(small(after), "The picture as it is now")}</div><div class="edge"></div>'
        f'<input type="range" min="0" max="100" value="50" aria-label="How much of the picture as it was is shown">'
        f'<div class="names"><span>before</span><span>after</span></div></div>'
    )


def progress(run: Run) -> str:
    """How far a run is, in words."""
    steps, token = run.wish.config.steps, escape(run.wish.token)
    if run.state == "failed":
        return f'<p class="big"><b>It did not work.</b> {escape(run.told)}</p>'
    if run.state == "done":
        return _done(run)
    said = {"waiting": run.told, "loading": "Loading the model …", "finishing": "Saving what is learned …"}.get(
        run.state
    )
    if said is None:
        left = run.left()
        rest = "" if left is None else f" · {in_words(left)} left"
        said = f"Step {run.step} of {steps}{rest}"
        said = "Stopping after this step …" if run.stopping.is_set() else said
    share = 100 * run.step / max(1, steps) if run.state != "finishing" else 100
    return (
        f'<div class="progress"><p class="big">Learning <code class="token">{token}</code></p>'
        f'<div class="bar" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{share:.0f}"><i style="width:{share:.1f}%"></i></div><p class="note">{escape(said)}</p></div>'
    )


def _done(run: Run) -> str:
    token, name = escape(run.wish.token), run.wish.name
    evaluations = run.evaluations
    better = evaluations and run.best_step > 0
    word = "learned" if better else "kept as it started: no step made it better"
    early = f" (stopped at step {run.step})" if run.stopping.is_set() and run.step < run.wish.config.steps else ""
    return (
        f'<p class="big"><b><code class="token">{token}</code></b> is {word}{early}.</p>'
        f'<p class="note">It is in your library from now on. Write {token} where you would name the thing.</p>'
        f'<div class="result"><a class="button" href="{kept(f"{name}.safetensors")}" download>Download the word</a>'
        f'<a class="button" href="{kept(f"{name}-run", "report.html")}" target="_blank">Open the report</a></div>'
    )


def in_words(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 50:
        return f"about {max(5, 5 * round(seconds / 5))} s"
    minutes = seconds / 60
    return f"about {max(1, round(minutes))} min" if minutes < 90 else f"about {minutes / 60:.1f} hours"


def arrival(run: Run) -> str:
    """The same seeds, drawn on the way: one column a look."""
    if not run.previews:
        return ""
    own = "".join(image(small(one.image, 256), "Your picture") for one in run.wish.pictures[:SEEDS])
    columns = [f'<figure><div class="pair">{own}</div><figcaption>your picture</figcaption></figure>']
    for step, pictures in run.previews:
        last = run.state == "done" and step == run.previews[-1][0]
        text = "before" if step == 0 else f"learned, step {step}" if last else f"step {step}"
        shown = "".join(
            image(small(one, 256), f"{text}, picture {index}") for index, one in enumerate(pictures, start=1)
        )
        columns.append(f'<figure><div class="pair">{shown}</div><figcaption>{text}</figcaption></figure>')
    return f'<div class="strip">{"".join(columns)}</div>'


def curve(run: Run) -> str:
    """The loss on the way."""
    chart = loss_chart(run.losses, run.evaluations, run.best_step)
    return f'<div class="curve">{chart}</div>' if chart else note("The curve begins with the first steps.")


def cards(words: Sequence[Word], chosen: Sequence[str] = ()) -> str:
    """The learned words of the folder, to be chosen by a press."""
    if not words:
        return '<p class="lead">There are no learned words here yet. Learn one on the first tab.</p>'
    return f'<div class="cards">{"".join(_card(word, word.name in chosen) for word in words)}</div>'


def exported(made: Sequence[Export], folders: Sequence[str]) -> str:
    """Files for another program, to be had, and what to do with them."""
    parts = []
    for one in made:
        links = "".join(
            f'<a class="button" href="{kept(*folders, name)}" download>Download {escape(name)}</a>'
            for name in one.files
        )
        parts.append(f'<p class="big">{escape(one.line)}.</p><div class="result">{links}</div>')
    return "".join(parts)


def _card(word: Word, chosen: bool) -> str:
    concept, name = word.concept, word.name
    picture = f'<img src="{escape(word.thumbnail)}" alt="">' if word.thumbnail else '<div class="blank"></div>'
    count = "1 vector" if concept.count == 1 else f"{concept.count} vectors"
    start = f"from “{escape(word.start[:_LONGEST])}”" if word.start else "start words unknown"
    model = escape((concept.base_model or "unknown").rsplit("/", 1)[-1][:60])
    token, pressed = escape(concept.token), str(chosen).lower()
    return (
        f'<div class="card{" chosen" if chosen else ""}" data-choose="{escape(name)}" data-into="#library-pick">{picture}<div>'
        f'<p><code class="token">{token}</code></p><p class="soft">{count} {start}</p><p class="soft">Model: {model}</p>'
        f'<button type="button" class="act" aria-pressed="{pressed}" aria-label="Choose {token}">'
        f"{'Chosen' if chosen else 'Choose'}</button>"
        f'<a class="act" href="{kept(f"{name}.safetensors")}" download aria-label="Download {token}">Download</a></div></div>'
    )
