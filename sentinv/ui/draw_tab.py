"""The second tab: pictures from a prompt with learned words in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from sentinv.ui import fragments as html
from sentinv.ui.desk import Desk, decimal, on, plainly, whole
from sentinv.ui.drawing import MOST_PICTURES, MOST_SEEDS, MOST_STEPS, Drawing, Drawn, draw
from sentinv.ui.folder import PICTURES


@dataclass(frozen=True, eq=False)
class DrawTab:
    """What other tabs need of it.

    Attributes:
        prompt: the field.
        chips: the learned words.
        ideas: prompts to try.
    """

    prompt: gr.Textbox
    chips: gr.HTML
    ideas: gr.HTML

    def refreshed(self, desk: Desk, prompt: str) -> list[str]:
        """Chips and ideas, as the folder is now."""
        words = desk.folder.words()
        named = next((word for word in reversed(words) if word.concept.token in prompt), None)
        token = (named or words[-1]).concept.token if words else ""
        return [html.word_chips(words, html.PROMPT), html.suggestions(token, html.PROMPT) if token else ""]


def draw_tab(desk: Desk, model: gr.Dropdown) -> DrawTab:
    """Lay the tab out, and tie its parts to what they do."""
    gr.HTML('<p class="lead">Say what to draw. A learned word stands for its thing: press it to write it.</p>')
    chips = gr.HTML(elem_classes="line")
    prompt = gr.Textbox(
        label="What to draw", placeholder="a photo of <cat> on the moon", elem_id="draw-prompt", max_lines=3
    )
    ideas = gr.HTML(elem_classes="line")
    with gr.Row():
        count = gr.Slider(1, MOST_PICTURES, 4, step=1, label="How many", elem_id="draw-count", min_width=280)
        seed = gr.Number(
            0,
            label="Seed: the same number gives the same picture",
            precision=0,
            minimum=0,
            maximum=MOST_SEEDS,
            elem_id="draw-seed",
            min_width=280,
        )
    with gr.Accordion("More options", open=False, elem_classes="fold"):
        steps = gr.Slider(5, MOST_STEPS, 25, step=1, label="Steps: more is finer and takes longer")
        guidance = gr.Slider(0, 20, 0, step=0.5, label="How strongly the words lead (0 leaves it to the model)")
        negative = gr.Textbox(label="What not to draw", max_lines=2)
    button = gr.Button("Draw", variant="primary", elem_id="draw-button")
    state = gr.HTML(elem_id="draw-state", elem_classes="line")
    gallery = gr.HTML(elem_id="draw-gallery")
    more = gr.Button("Draw other ones", visible=False, elem_id="draw-more")

    def work(*values: Any) -> Iterator[list[Any]]:
        yield from _drawn(desk, *values)

    wanted = [prompt, model, count, seed, steps, guidance, negative]
    shown = [state, gallery, more]
    for event in (button.click, prompt.submit):
        on(event, work, wanted, shown)
    on(on(more.click, _next, [seed, count], seed).success, work, wanted, shown)
    tab = DrawTab(prompt, chips, ideas)
    on(prompt.blur, lambda text: tab.refreshed(desk, text)[1], prompt, ideas)
    return tab


def _next(seed: Any, count: Any) -> int:
    """The first seed that is not drawn yet."""
    with plainly():
        return min(whole(seed, 0) + whole(count, 4), MOST_SEEDS)


def _drawn(
    desk: Desk, prompt: str, model: str, count: Any, seed: Any, steps: Any, guidance: Any, negative: str
) -> Iterator[list[Any]]:
    with plainly():
        wish = Drawing(
            prompt=prompt or "",
            model=desk.engine.checked(model),
            count=whole(count, 4),
            seed=whole(seed, 0),
            steps=whole(steps, 25),
            guidance=decimal(guidance, 0) or None,
            negative=negative or "",
        )
        made: list[Drawn] = []
        with desk.engine.line.join("drawing") as turn:
            while not turn.ready():
                yield [html.note(turn.told()), gr.skip(), gr.skip()]
            yield [html.note(f"Drawing 1 of {wish.count} …"), gr.skip(), gr.Button(visible=False)]
            for one in draw(desk.engine, desk.folder, wish):
                made.append(one)
                told = f"Drawing {len(made) + 1} of {wish.count} …" if len(made) < wish.count else "Saving …"
                yield [html.note(told), html.gallery(made), gr.skip()]
        told = f"Done. They are kept in {desk.folder.path.name}/{PICTURES}, too."
        yield [html.note(told), html.gallery(made), gr.Button(visible=True)]
