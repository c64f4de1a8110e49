"""The first tab: a picture in, its words, a word learned of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gradio as gr

from sentinv.errors import SentinvError
from sentinv.files.decoding import Picture
from sentinv.training.config import TrainConfig
from sentinv.ui import fragments as html
from sentinv.ui.desk import ASSETS, EXAMPLES, Desk, decimal, on, painted, plainly, whole
from sentinv.ui.drawing import sketch
from sentinv.ui.learning import Run, Wish

_MOST_STEPS, _MOST_BATCH = 2000, 16
DROP = "Drop a picture here, paste it, or click to choose one"
STOP = "Stop and keep what is learned"
_MASK_JS = "(...all) => { all[4] = window.sentinvMask('learn'); return all; }"


@dataclass(frozen=True, eq=False)
class LearnTab:
    """What other tabs need of it.

    Attributes:
        use: the button that takes the word to the next tab.
        run: name of the run that is looked at.
    """

    use: gr.Button
    run: gr.State


def learn_tab(desk: Desk, model: gr.Dropdown, page: gr.Blocks, tab: gr.Tab) -> LearnTab:
    """Lay the tab out, and tie its parts to what they do."""
    gr.HTML(
        '<p class="lead">Drop a picture of <b>one thing</b>, or several of the same thing. The model learns a word for it, '
        "and with that word draws it elsewhere: on the moon, in the snow.</p>"
    )
    with gr.Column(elem_id="learn-drop", elem_classes="drop"):
        drop = gr.UploadButton(DROP, file_count="multiple", file_types=None, elem_classes="dropped")
    gr.HTML(html.examples(desk.examples()))
    parts = _Parts(desk, model)
    looked = [on(drop.upload, parts.look, [drop, model, parts.run], parts.seen, show_progress="minimal")]
    for number, name in enumerate(EXAMPLES):
        hidden = gr.Button(name, visible="hidden", elem_id=f"example-{number}")
        paths = [str(ASSETS / name)]
        looked.append(on(hidden.click, partial(parts.look, paths), [model, parts.run], parts.seen))
    for event in looked:
        on(event.success, parts.sketched, [parts.words, model], parts.sketch)
    on(parts.words.change, parts.count, [parts.words, model], parts.vectors, trigger_mode="always_last")
    on(parts.label_button.click, lambda label: label, parts.label, parts.words)
    on(parts.again.click, parts.sketched, [parts.words, model], parts.sketch)
    wanted = [parts.paths, parts.words, parts.caption, parts.name, parts.mask, model, *parts.options]
    begun = on(parts.button.click, parts.begin, wanted, [parts.run, parts.found, *parts.shown], js=_MASK_JS)
    on(begun.success, None, js="() => document.querySelector('#learn-progress')?.scrollIntoView({block: 'center'})")
    known = [parts.run, parts.drawn, parts.paths]
    on(parts.timer.tick, parts.tick, known, [parts.drawn, *parts.shown], concurrency_limit=16)
    on(parts.stop.click, parts.end, parts.run, [parts.progress, parts.stop])
    on(parts.back.click, lambda: [gr.Column(visible=True), gr.Column(visible=False)], None, [parts.found, parts.going])
    on(page.load, parts.resume, None, [parts.run, *parts.shown])
    on(tab.select, parts.settle, parts.run, [parts.run, parts.going])
    return LearnTab(parts.use, parts.run)


class _Parts:
    """The fields of the tab below the picture, and what happens in them."""

    def __init__(self, desk: Desk, model: gr.Dropdown) -> None:
        self.desk = desk
        self.paths = gr.State([])
        self.caption, self.label, self.run, self.drawn = gr.State(""), gr.State(""), gr.State(""), gr.State(-1)
        self.mask = gr.Textbox(visible=False)
        with gr.Column(visible=False, elem_id="learn-words", elem_classes="tall") as self.found:
            self._lay_words()
            self._lay_options()
            self.button = gr.Button("Learn this thing", variant="primary", elem_id="learn-button")
        with gr.Column(visible=False, elem_id="learn-progress") as self.going:
            self.progress = gr.HTML(elem_id="learn-state")
            self.stop = gr.Button(STOP, elem_id="learn-stop")
            self.use = gr.Button("Draw it", variant="primary", visible=False, elem_id="learn-use")
            self.arrival = gr.HTML()
            with gr.Accordion("The learning curve", open=False, elem_classes="fold"):
                self.curve = gr.HTML()
            self.back = gr.Button("Change the words and learn again", visible=False, elem_id="learn-back")
        self.timer = gr.Timer(1, active=False)
        self.seen = [
            self.paths,
            self.found,
            self.thumbnails,
            self.words,
            self.caption,
            self.label,
            self.label_button,
            self.name,
            self.brush,
            self.going,
        ]
        self.shown = [self.going, self.progress, self.arrival, self.curve, self.stop, self.use, self.back, self.timer]

    def _lay_words(self) -> None:
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=260):
                self.words = gr.Textbox(
                    label="What it shows: correct this where it is wrong",
                    elem_id="learn-text",
                    max_lines=2,
                )
                self.vectors = gr.HTML(elem_classes="line")
                with gr.Row():
                    self.label_button = gr.Button("", size="sm", elem_id="learn-label")
                    self.again = gr.Button("Draw these words again", size="sm", elem_id="learn-again")
                self.name = gr.Textbox(label="What to call it", elem_id="learn-name", max_lines=1)
            with gr.Column(scale=2, min_width=260):
                self.thumbnails = gr.HTML()
                self.sketch = gr.HTML(elem_id="learn-sketch")

    def _lay_options(self) -> None:
        with gr.Row(equal_height=False):
            with gr.Column(min_width=280), _fold("Only a part of the picture", "learn-mask"):
                self.brush = gr.HTML()
            with gr.Column(min_width=280), _fold("More options", "learn-options"):
                self._lay_settings()

    def _lay_settings(self) -> None:
        default = TrainConfig()
        self.steps = gr.Slider(
            10, 500, default.steps, step=10, label="Steps: more takes longer, and is not always better"
        )
        kinds = [("a thing", "object"), ("a style", "style")]
        self.kind = gr.Radio(kinds, value=default.kind, label="What is learned")
        self.flip = gr.Checkbox(default.flip, label="Learn from the mirrored picture too (not for lettering or faces)")
        self.rate = gr.Number(0, label="Learning rate (0 leaves it to the model)", minimum=0, maximum=10, step=0.05)
        self.batch = gr.Slider(1, _MOST_BATCH, default.batch_size, step=1, label="Noises for each step")
        self.seed = gr.Number(default.seed, label="Seed", precision=0, minimum=0, maximum=2**53 - 1)
        self.options = [self.steps, self.kind, self.flip, self.rate, self.batch, self.seed]

    # Before

    def look(self, paths: list[str] | None, model: str, name: str) -> list[Any]:
        """Look at what was dropped: its words, its class, a name for it. A run that is over makes room."""
        with plainly():
            pictures = self.desk.pictures(paths)
            seen = self.desk.engine.seen(pictures, model)
            free = self.desk.folder.free_name(seen.label if seen.sure else "thing")
            label = f"Only “{seen.label}”" if seen.sure else f"Or is it “{seen.label}”?"
            run = self.desk.learning.find(name)
            return [
                paths,
                gr.Column(visible=True),
                html.dropped(pictures),
                seen.caption,
                seen.caption,
                seen.label,
                gr.Button(label, visible=bool(seen.label)),
                free,
                html.note(_PAINT_SEVERAL if len(pictures) > 1 else _PAINT)
                + html.brush("learn", pictures[0].image, "The first picture, to paint on"),
                gr.Column(visible=run is not None and not run.over),
            ]

    def count(self, words: str, model: str) -> str:
        """Say how many vectors the words come to."""
        try:
            return html.vectors(self.desk.engine.plan(words, model))
        except SentinvError as error:
            return html.note(str(error))

    def sketched(self, words: str, model: str) -> Iterator[str]:
        """Draw what the model makes of the words as they are."""
        if not words.strip():
            return
        with plainly():
            self.desk.engine.plan(words, model)
            with self.desk.engine.line.join("drawing a first look") as turn:
                while not turn.ready():
                    yield html.sketch(turn.told())
                yield html.sketch("Drawing these words …")
                made = sketch(self.desk.engine, words, model, 2)
            yield html.sketch("Drawn from these words, before learning", made)

    # The run

    def begin(
        self, paths: list[str] | None, words: str, caption: str, name: str, mask: str, model: str, *options: Any
    ) -> list[Any]:
        """Start learning, or stand in line for it."""
        with plainly():
            pictures = self.desk.pictures(paths)
            pictures[0] = painted(mask, pictures[0])
            self.desk.engine.plan(words, model)
            run = self.desk.learning.start(
                Wish(
                    name=self.desk.folder.free_name(name),
                    pictures=tuple(map(_smaller, pictures)),
                    text=words,
                    source="caption" if words == caption else "phrase",
                    model=self.desk.engine.checked(model),
                    config=train_config(*options),
                )
            )
            return [run.wish.name, gr.Column(visible=False), *self._state(run)]

    def tick(self, name: str, drawn: int, paths: list[str]) -> list[Any]:
        """Look how far the run is; pictures that are on the page already are not sent again."""
        run = self.desk.learning.find(name)
        if run is None:
            return [drawn, *[gr.skip()] * (len(self.shown) - 1), gr.Timer(active=False)]
        count = len(run.previews)
        return [count, *self._state(run, fresh=count != drawn or run.over, again=bool(paths))]

    def _state(self, run: Run, *, fresh: bool = True, again: bool = False) -> list[Any]:
        over, done = run.over, run.state == "done"  # read once: the run goes on meanwhile
        run.seen = run.seen or over
        return [
            gr.Column(visible=True),
            html.progress(run),
            html.arrival(run) if fresh else gr.skip(),
            html.curve(run),
            _stop_button(run, over),
            gr.Button(f"Draw {run.wish.token} on the moon", visible=done),
            gr.Button(visible=over and again),
            gr.Timer(active=not over),
        ]

    def end(self, name: str) -> list[Any]:
        """Let the run end after its step, and say so."""
        run = self.desk.learning.find(name)
        if run is None:
            return [gr.skip(), gr.skip()]
        run.stopping.set()
        return [html.progress(run), _stop_button(run, run.over)]

    def settle(self, name: str) -> list[Any]:
        """Show nothing of a run whose word was renamed or deleted meanwhile."""
        if not name or self.desk.learning.find(name):
            return [gr.skip(), gr.skip()]
        return ["", gr.Column(visible=False)]

    def resume(self) -> list[Any]:
        """Show whoever opens the page the run that goes on, or the last one."""
        run = self.desk.learning.newest()
        return ["", *[gr.skip()] * len(self.shown)] if run is None else [run.wish.name, *self._state(run)]


def _fold(title: str, name: str) -> gr.Accordion:
    return gr.Accordion(title, open=False, elem_classes="fold", elem_id=name)


def _stop_button(run: Run, over: bool) -> gr.Button:
    stopping = run.stopping.is_set()
    return gr.Button("Stopping …" if stopping else STOP, visible=not over, interactive=not stopping)


def train_config(steps: Any, kind: Any, flip: Any, rate: Any, batch: Any, seed: Any) -> TrainConfig:
    """What the options of the tab come to.

    Raises:
        SentinvError: If a value is out of its range.
    """
    default = TrainConfig()
    steps, batch = whole(steps, default.steps), whole(batch, default.batch_size)
    if not 1 <= steps <= _MOST_STEPS or not 1 <= batch <= _MOST_BATCH:
        raise SentinvError(f"Expected 1 to {_MOST_STEPS} steps and 1 to {_MOST_BATCH} noises for each.")
    try:
        return replace(
            default,
            steps=steps,
            kind=kind,
            flip=bool(flip),
            relative_learning_rate=decimal(rate, 0) or None,
            batch_size=batch,
            seed=whole(seed, default.seed),
            checkpoint_every=25,
        )
    except (TypeError, ValueError) as error:
        raise SentinvError(str(error).removeprefix("TrainConfig.")) from error


def _smaller(picture: Picture) -> Picture:
    """The picture, not much larger than any model's: many may wait in memory."""
    if max(picture.image.size) <= _ENOUGH:
        return picture
    share = _ENOUGH / max(picture.image.size)
    size = (max(16, round(picture.image.width * share)), max(16, round(picture.image.height * share)))
    mask = picture.mask.resize(size) if picture.mask is not None else None
    return replace(picture, image=picture.image.resize(size), mask=mask)


_ENOUGH = 2048
_PAINT = "Paint over the thing, and only what is painted is learned. Without paint all of it is."
_PAINT_SEVERAL = f"{_PAINT} This is the first picture; of the others all is learned."
