"""The third tab: other words for a picture, all of it or a part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from sentinv.errors import SentinvError
from sentinv.ui import fragments as html
from sentinv.ui.desk import Desk, decimal, on, painted, plainly, without_mask
from sentinv.ui.editing import Editing
from sentinv.ui.learn_tab import DROP

_MASK_JS = "(...all) => { all[4] = window.sentinvMask('edit'); return all; }"


def edit_tab(desk: Desk, model: gr.Dropdown) -> gr.HTML:
    """Lay the tab out, and tie its parts to what they do; returns the chips of learned words."""
    gr.HTML('<p class="lead">Change a picture with words. What you do not change in the words stays as it is.</p>')
    with gr.Column(elem_id="edit-drop", elem_classes="drop"):
        drop = gr.UploadButton(DROP, file_count="single", file_types=None, elem_classes="dropped")
    path = gr.State("")
    mask = gr.Textbox(visible=False)
    with gr.Column(visible=False, elem_classes="tall") as fields:
        thumbnail, source, prompt, chips = _words()
        keep = gr.Slider(0, 90, 10, step=5, label="How much of the picture to keep, in percent", elem_id="edit-keep")
        with gr.Accordion("Only a part of the picture", open=False, elem_classes="fold"):
            gr.HTML('<p class="note">Paint over what may change, and the rest stays exactly as it is.</p>')
            brush = gr.HTML()
        button = gr.Button("Change it", variant="primary", elem_id="edit-button")
    state = gr.HTML(elem_id="edit-state", elem_classes="line")
    result = gr.HTML(elem_id="edit-result")

    def change(*values: Any) -> Iterator[list[Any]]:
        yield from _changed(desk, *values)

    def answer(*values: Any) -> Iterator[list[Any]]:
        yield from _changed(desk, *values, only_quick=True)

    on(
        drop.upload,
        lambda path, model: _looked(desk, path, model),
        [drop, model],
        [path, fields, thumbnail, source, prompt, brush, chips, state, result],
        show_progress="minimal",
    )
    wanted = [path, source, prompt, keep, mask, model]
    for event in (button.click, prompt.submit):
        on(event, change, wanted, [state, result], js=_MASK_JS)
    on(keep.release, answer, wanted, [state, result], js=_MASK_JS, trigger_mode="always_last")
    return chips


def _words() -> tuple[gr.HTML, gr.Textbox, gr.Textbox, gr.HTML]:
    """Lay out the picture and what it shows and is to show."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=110):
            thumbnail = gr.HTML()
        with gr.Column(scale=5, min_width=260):
            source = gr.Textbox(
                label="What it shows: correct this where it is wrong", elem_id="edit-source", max_lines=2
            )
            prompt = gr.Textbox(label="What it should show: change a word or two", elem_id="edit-prompt", max_lines=2)
            chips = gr.HTML(elem_classes="line")
    return thumbnail, source, prompt, chips


def _looked(desk: Desk, path: str, model: str) -> list[Any]:
    """What the picture shows, and the fields for what it is to show."""
    with plainly():
        pictures = desk.pictures(path)
        said = f"a photo of {desk.engine.seen(pictures, model).caption}"
        chips = html.word_chips(desk.folder.words(), html.NEW_WORDS)
        brush = html.brush("edit", pictures[0].image, "The picture, to paint on")
        return [path, gr.Column(visible=True), html.dropped(pictures, ""), said, said, brush, chips, "", ""]


def _changed(
    desk: Desk,
    path: str,
    source: str,
    prompt: str,
    keep: Any,
    mask: str,
    model: str,
    *,
    only_quick: bool = False,
) -> Iterator[list[Any]]:
    """Change a picture; where only what is quick is wanted, nothing is done that was not asked for by the button."""
    with plainly():
        picture = painted(mask, without_mask(desk.pictures(path)[0]))
        wish = Editing(
            picture=picture,
            source=source or "",
            prompt=prompt or "",
            model=desk.engine.checked(model),
            keep=decimal(keep, 10) / 100,
        )
        if not only_quick and not mask and wish.prompt.split() == wish.source.split():
            raise SentinvError("Both sentences say the same: change a word in the second.")
        known = desk.editor.known(wish)
        if only_quick and not known:
            return
        with desk.engine.line.join("changing a picture") as turn:
            while not turn.ready():
                yield [html.note(turn.told()), gr.skip()]
            first = (
                ""
                if known
                else "Finding out how the model draws the picture as it is. It takes a while, once for each picture …"
            )
            yield [html.note(first or "Changing it …"), gr.skip()]
            done = desk.editor.change(wish)
        link = f'<div class="result"><a class="button" href="{html.kept("pictures", done.name)}" download>Download</a></div>'
        yield [html.note(done.verdict), html.compare(done.before, done.after) + link]
