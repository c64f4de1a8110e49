"""The fourth tab: the learned words of the folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from sentinv.concepts.export import PROGRAMS, export_word, write_exports
from sentinv.errors import SentinvError
from sentinv.ui import fragments as html
from sentinv.ui.desk import Desk, on, plainly
from sentinv.ui.folder import EXPORTS


@dataclass(frozen=True, eq=False)
class LibraryTab:
    """What other tabs need of it.

    Attributes:
        cards: the words.
        choice: those that are chosen.
        use: the button that takes them to a prompt.
    """

    cards: gr.HTML
    choice: gr.Dropdown
    use: gr.Button

    def refreshed(self, desk: Desk) -> list[Any]:
        """Cards and choices, as the folder is now."""
        words = desk.folder.words()
        choices = [(word.concept.token, word.name) for word in words]
        return [html.cards(words), gr.Dropdown(choices=choices, value=[])]

    def shown(self, desk: Desk, chosen: list[str]) -> str:
        """Cards, those that are chosen marked."""
        return html.cards(desk.folder.words(), chosen or [])

    def prompt(self, desk: Desk, names: list[str]) -> str:
        """A prompt with all of the chosen words in it."""
        tokens = [desk.folder.word(name).concept.token for name in names[:8]]
        if not tokens:
            raise SentinvError("Choose a word first.")
        return f"a photo of {' and '.join(tokens)}"


def library_tab(desk: Desk) -> LibraryTab:
    """Lay the tab out, and tie its parts to what they do."""
    gr.HTML(
        '<p class="lead">The learned words of your folder. Each is one small file that other programs read too.</p>'
    )
    cards = gr.HTML(elem_id="library-cards")
    choice = gr.Dropdown(
        [], label="Chosen: one word, or several to draw together", multiselect=True, elem_id="library-choice"
    )
    pick = gr.Textbox(visible="hidden", elem_id="library-pick", label="Word to choose")
    use = gr.Button("Draw with it", variant="primary", elem_id="library-use")
    _export_part(desk, choice)
    with gr.Accordion("Rename or delete", open=False, elem_classes="fold", elem_id="library-more"):
        name = gr.Textbox(label="New name", max_lines=1, elem_id="library-name")
        rename = gr.Button("Rename the chosen word", elem_id="library-rename")
        delete = gr.Button("Delete the chosen words …", elem_id="library-delete")
        with gr.Row(visible=False) as asked:
            question = gr.HTML(elem_id="library-question")
            sure = gr.Button("Yes, delete", variant="stop", elem_id="library-sure")
            keep = gr.Button("No, keep", elem_id="library-keep")
    tab = LibraryTab(cards, choice, use)

    # `change`, not `input`: Gradio tells of what a person types only
    on(pick.change, lambda name, names: _toggled(desk, name, names), [pick, choice], [pick, choice])
    on(choice.change, lambda names: tab.shown(desk, names), choice, cards)
    on(rename.click, lambda names, name: _renamed(desk, tab, names, name), [choice, name], [cards, choice, name])
    on(delete.click, lambda names: _question(desk, names), choice, [asked, question])
    on(keep.click, lambda: gr.Row(visible=False), None, asked)
    on(sure.click, lambda names: _deleted(desk, tab, names), choice, [cards, choice, asked])
    return tab


def _toggled(desk: Desk, name: str, names: list[str]) -> list[Any]:
    """Choose a word, or choose it no more."""
    if name not in {word.name for word in desk.folder.words()}:
        return ["", gr.skip()]
    chosen = [one for one in names or [] if one != name]
    return ["", chosen if name in (names or []) else [*chosen, name]]


def _renamed(desk: Desk, tab: LibraryTab, names: list[str], wanted: str) -> list[Any]:
    """Give the chosen word another name."""
    with plainly():
        if len(names or []) != 1:
            raise SentinvError("Choose the one word that is to have another name.")
        desk.folder.rename(names[0], wanted or "")
        desk.learning.forget(names[0])
        return [*tab.refreshed(desk), ""]


def _deleted(desk: Desk, tab: LibraryTab, names: list[str]) -> list[Any]:
    """Delete the chosen words, which has been asked."""
    with plainly():
        for one in names or []:
            desk.folder.delete(one)
            desk.learning.forget(one)
        return [*tab.refreshed(desk), gr.Row(visible=False)]


def _export_part(desk: Desk, choice: gr.Dropdown) -> None:
    """Lay out what makes files for other programs."""
    with gr.Accordion("Use it in another program", open=False, elem_classes="fold", elem_id="library-export"):
        programs = [(one.label, name) for name, one in PROGRAMS.items()]
        program = gr.Dropdown(programs, value="a1111", label="Program", elem_id="library-program")
        export = gr.Button("Make the files for it", elem_id="library-make")
        files = gr.HTML(elem_id="library-files")
    on(export.click, lambda names, program: _exported(desk, names, program), [choice, program], files)


def _exported(desk: Desk, names: list[str], program: str) -> str:
    """Write the chosen words as another program reads them, into a folder of that program's name."""
    with plainly():
        if not names:
            raise SentinvError("Choose a word first.")
        if program not in PROGRAMS:
            raise SentinvError("Choose a program of the list.")
        made = [export_word(desk.folder.word(one).concept, program) for one in names]
        write_exports(made, desk.folder.inside(EXPORTS, program), overwrite=True)
        return html.exported(made, (EXPORTS, program))


def _question(desk: Desk, names: list[str]) -> list[Any]:
    """Ask before anything is deleted."""
    with plainly():
        if not names:
            raise SentinvError("Choose a word first.")
        tokens = ", ".join(desk.folder.word(one).concept.token for one in names)
        return [gr.Row(visible=True), html.note(f"Delete {tokens} and what its training left? This cannot be undone.")]
