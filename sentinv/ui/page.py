"""The page: four tabs, and the model above them."""

from __future__ import annotations

from typing import Any

import gradio as gr

from sentinv.errors import SentinvError
from sentinv.training.config import TrainConfig
from sentinv.ui import fragments as html
from sentinv.ui.desk import ASSETS, Desk, on, plainly
from sentinv.ui.draw_tab import DrawTab, draw_tab
from sentinv.ui.edit_tab import edit_tab
from sentinv.ui.learn_tab import LearnTab, learn_tab
from sentinv.ui.library_tab import LibraryTab, library_tab

TITLE = "sentinv"
_FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Liberation Sans", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "SF Mono", "Menlo", "DejaVu Sans Mono", "monospace"]


def build(desk: Desk) -> gr.Blocks:
    """Lay the page out."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.HTML('<header class="head"><h1>sentinv</h1><p>a word for the thing in your picture</p></header>')
        model, where = _model(desk)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Learn", id="learn") as learning:
                learn = learn_tab(desk, model, page, learning)
            with gr.Tab("Draw", id="draw") as drawing:
                draw = draw_tab(desk, model)
            with gr.Tab("Edit", id="edit") as editing:
                chips = edit_tab(desk, model)
            with gr.Tab("Library", id="library") as library_part:
                library = library_tab(desk)
        on(page.load, lambda model: _where(desk, model), model, where)
        on(model.change, lambda model: _where(desk, model), model, where)
        on(drawing.select, lambda text: draw.refreshed(desk, text), draw.prompt, [draw.chips, draw.ideas])
        on(editing.select, lambda: html.word_chips(desk.folder.words(), html.NEW_WORDS), None, chips)
        on(library_part.select, lambda: library.refreshed(desk), None, [library.cards, library.choice])
        _ways(desk, tabs, learn, draw, library)
    page.queue(max_size=32, default_concurrency_limit=8, api_open=False)
    return page


def _model(desk: Desk) -> tuple[gr.Dropdown, gr.HTML]:
    """The model chooser, folded away; the first model is right for most."""
    names = desk.engine.models()
    with gr.Accordion(f"Model: {desk.engine.label(names[0])}", open=False, elem_id="model", elem_classes="fold"):
        choices = [(desk.engine.label(name), name) for name in names]
        model = gr.Dropdown(choices, value=names[0], label="Model, of those on this computer", elem_id="model-choice")
        where = gr.HTML(elem_id="model-where")
    return model, where


def _where(desk: Desk, model: str) -> str:
    """Where the model would run, and what it would take."""
    try:
        need, free = desk.engine.memory(model, TrainConfig())
    except SentinvError as error:
        return html.note(str(error))
    takes = "takes memory that cannot be told" if need is None else f"takes about {_bytes(need)} of memory"
    there = "." if free is None else f"; {_bytes(free)} are free."
    scarce = need is not None and free is not None and need > 0.9 * free
    warning = " That is more than there is: it may be slow, or end early." if scarce else ""
    return html.note(f"Runs on {desk.engine.where()}. Learning {takes}{there}{warning}")


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"


def _ways(desk: Desk, tabs: gr.Tabs, learn: LearnTab, draw: DrawTab, library: LibraryTab) -> None:
    """The buttons that lead from one tab to the next."""

    def with_prompt(prompt: str) -> list[Any]:
        return [gr.Tabs(selected="draw"), prompt, *draw.refreshed(desk, prompt)]

    def learned(name: str) -> list[Any]:
        with plainly():
            return with_prompt(f"a photo of {desk.folder.word(name).concept.token} on the moon")

    def chosen(names: list[str]) -> list[Any]:
        with plainly():
            return with_prompt(library.prompt(desk, names or []))

    there = [tabs, draw.prompt, draw.chips, draw.ideas]
    on(learn.use.click, learned, learn.run, there)
    on(library.use.click, chosen, library.choice, there)


def theme() -> gr.themes.Base:
    """Colours of the report, fonts of the system: nothing is fetched."""
    green = gr.themes.Color(
        **{f"c{step}": colour for step, colour in zip(_STEPS, _GREENS, strict=True)}, name="sentinv"
    )
    base = gr.themes.Base(primary_hue=green, neutral_hue=gr.themes.colors.zinc, font=_FONT, font_mono=_MONO)
    return base.set(**_LOOK)


_LOOK = {
    "body_background_fill": "#ffffff",
    "body_background_fill_dark": "#17171a",
    "body_text_color": "#1d1d1f",
    "body_text_color_dark": "#ececee",
    "body_text_color_subdued": "#5f5f65",
    "body_text_color_subdued_dark": "#a6a6ac",
    "block_label_text_color": "#3f3f45",
    "block_label_text_color_dark": "#c6c6cc",
    "block_title_text_color": "#3f3f45",
    "block_title_text_color_dark": "#c6c6cc",
    "block_info_text_color": "#5f5f65",
    "block_info_text_color_dark": "#a6a6ac",
    "block_border_color": "#e0e0e4",
    "block_border_color_dark": "#37373d",
    "input_background_fill": "#ffffff",
    "input_background_fill_dark": "#17171a",
    "input_border_color": "#b4b4ba",
    "input_border_color_dark": "#56565e",
    "input_placeholder_color": "#6b6b70",
    "input_placeholder_color_dark": "#9b9ba1",
    "button_primary_background_fill": "#0b6b58",
    "button_primary_background_fill_hover": "#095747",
    "button_primary_background_fill_dark": "#58c7ab",
    "button_primary_background_fill_hover_dark": "#74d4bc",
    "button_primary_text_color": "#ffffff",
    "button_primary_text_color_dark": "#0c1512",
    "button_secondary_text_color": "#1d1d1f",
    "button_secondary_text_color_dark": "#ececee",
    "block_border_width": "0px",
    "block_padding": "0px",
    "block_shadow": "none",
    "block_background_fill": "transparent",
    "block_background_fill_dark": "transparent",
    "input_border_width": "1px",
    "input_border_width_dark": "1px",
    "input_padding": "10px 12px",
    "layout_gap": "18px",
    "slider_color": "#0b6b58",
    "slider_color_dark": "#58c7ab",
}
"""Sizes and colours of the page, the latter for light and dark."""
_STEPS = (50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 950)
_GREENS = (
    "#eef8f5", "#d5efe8", "#aee0d3", "#7fcdb9", "#58c7ab", "#0b6b58", "#0b6b58", "#095747", "#08463a", "#06362d", "#04231d",
)  # fmt: skip


def css() -> str:
    """The page's own style."""
    return (ASSETS / "page.css").read_text(encoding="utf-8")


def head() -> str:
    """The page's own script."""
    return f"<script>{(ASSETS / 'page.js').read_text(encoding='utf-8')}</script>"
