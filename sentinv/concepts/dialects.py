"""What prompts of other programs say in a syntax of their own, and what says it here."""

from __future__ import annotations

import re

_NAME = r"<[\w.-]+>"
_DIALECTS: tuple[tuple[str, str], ...] = (
    (rf"\(+\s*({_NAME})\s*:\s*([\d.]+)\s*\)+", "(word:weight) is text here; --weight '{0}={1}' weighs a learned word"),
    (
        r"\([^()<>]+:\s*[\d.]+\s*\)",
        "(words:weight) is text here; learned words only are weighed, by --weight '<name>=1.2'",
    ),
    (r"\(\([^()]+\)\)", "((words)) is text here; learned words only are weighed, by --weight '<name>=1.2'"),
    (rf"{_NAME}(?:\+\+|--)", "<name>++ is text here; --weight '<name>=1.2' weighs a learned word"),
    (r"<(?:lora|lyco|hypernet):[^<>]*>", "{all} is text here, and nothing is loaded"),
    (r"\bBREAK\b", "BREAK is text here: a prompt is one piece"),
    (r"\S\s+AND\s+\S", "AND is text here: a prompt is one piece; make an image of each"),
    (r"\[[^\[\]]*\|[^\[\]]*\]", "[a|b] is text here: words don't alternate; make images of both"),
    (r"\[[^\[\]]*:[^\[\]]*:\s*[\d.]+\s*\]", "[a:b:step] is text here: a prompt is the same in every step"),
    (r"\{[^{}]*\|[^{}]*\}", "{{a|b}} is text here: nothing is drawn by lot; make an image of each"),
    (r"\b__[\w/-]+__\b", "{all} is text here: there are no lists of words"),
    (
        r"\bembedding:([\w./-]+)",
        "embedding:{0} is text here: write the word that is in the file, <name>, and give it as a concept",
    ),
)
"""Pattern → what to tell, with its groups by number and all of it as {all}."""


def foreign_syntax(prompt: str) -> list[str]:
    """Say what of a prompt is the syntax of another program, which is taken as text: a line for each kind."""
    told = []
    for pattern, text in _DIALECTS:
        found = re.search(pattern, prompt)
        if found:
            told.append(text.format(*found.groups(), all=found[0]))
    return told
