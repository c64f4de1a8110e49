"""Words in the files that other programs read, under a name that is no word, with the base in it.

What each program's own code takes, of which version, and how that was found out: docs/files.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

from torch import Tensor

from sentinv.concepts.concept import Concept, signed_bytes
from sentinv.concepts.layouts import ENCODER_KEYS, WIDTHS, base_of, to_tensors
from sentinv.concepts.reading import PART
from sentinv.errors import ConceptError, SentinvError
from sentinv.files.atomic import StrPath, atomic_write, is_one_of, make_folder, shown, told

Layout = Callable[[str, Mapping[str, Tensor]], list[dict[str, Tensor]]]
"""Placeholder and rows → the tensors of each file."""

ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2",
    "sdxl": "stable-diffusion-xl-v1-base",
}
"""Short name of a base → what modelspec headers call it, for words whose own header does not say."""


@dataclass(frozen=True)
class Program:
    """How a program takes words.

    Attributes:
        label: its name in sentences.
        layout: what it reads.
        place: where its files lie, or how it is told of them; ``{first}`` and ``{second}`` are the names of the files.
        prompt: what stands for the word in its prompts; ``{name}`` is the file's name without its ending, ``{token}`` the
            placeholder.
        any_base: whether it takes models of other widths than `layouts.WIDTHS` has.
        two_files: how it is told of two files; "" where it needs one only.
    """

    label: str
    layout: Layout
    place: str
    prompt: str
    any_base: bool = False
    two_files: str = ""


@dataclass(frozen=True)
class Export:
    """Files for one program, not written yet.

    Attributes:
        program: which, as in `PROGRAMS`.
        kind: what they hold: "word", "lora", or "bundle" of both.
        token: the placeholder of the word; "" for a LoRA of none.
        base: short name of the base model, which is part of the files' names.
        files: name → content.
        prompt: what to write in that program's prompt.
        place: where to put the files.
    """

    program: str
    kind: str
    token: str
    base: str
    files: Mapping[str, bytes]
    prompt: str
    place: str

    @property
    def line(self) -> str:
        """One line: where the files go and what to write."""
        told = f"; in its prompt, write {self.prompt}" if self.prompt else ""
        return f"{PROGRAMS[self.program].label}: {self.place}{told}"


def _by_name(key: str) -> Layout:
    """One tensor `[n, dim]` under a name that says nothing; two text encoders under the names that all programs use."""

    def layout(token: str, rows: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        return [{key: rows["text_encoder"]} if len(rows) == 1 else to_tensors(token, rows)]

    return layout


def _by_token(token: str, rows: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """A file for each text encoder, each with one tensor `[n, dim]` under the placeholder."""
    return [{token: rows[name]} for name in ENCODER_KEYS if name in rows]


PROGRAMS = {
    "diffusers": Program(
        "diffusers",
        _by_token,
        'pipeline.load_textual_inversion("{first}")',
        "{token}",
        any_base=True,
        two_files='pipeline.load_textual_inversion("{first}", text_encoder=pipeline.text_encoder, '
        'tokenizer=pipeline.tokenizer) and the same with "{second}", text_encoder_2, tokenizer_2',
    ),
    "a1111": Program(
        "AUTOMATIC1111 and Forge", _by_name("emb_params"), "put {first} into the folder embeddings", "{name}"
    ),
    "comfyui": Program(
        "ComfyUI", _by_name("emb_params"), "put {first} into the folder models/embeddings", "embedding:{name}"
    ),
    "invokeai": Program("InvokeAI", _by_name("emb_params"), "add {first} in its model manager", "<{name}>"),
    "kohya": Program(
        "kohya's gen_img.py", _by_name("emb_params"), "give it --textual_inversion_embeddings {first}", "{name}"
    ),
    "onetrainer": Program(
        "OneTrainer",
        _by_name("emp_params"),
        "choose {first} as the embedding's base, with the placeholder {token}",
        "{token}",
    ),
}
"""Name in `--to` → what it takes."""


def export_word(concept: Concept, program: str) -> Export:
    """Lay a word out for a program.

    Raises:
        ConceptError: If the program has no files of words for the base of this one.
        ValueError: If there is no such program.
    """
    if program not in PROGRAMS:
        raise ValueError(f"expected a program of {', '.join(PROGRAMS)}, got {program!r}")
    target = PROGRAMS[program]
    base = base_of(concept.rows) or _own_base(concept)
    _check_base(concept, target, base)
    contents = target.layout(concept.token, concept.rows)
    name = file_stem(concept.token, base)
    names = [f"{name}{'' if index == 0 else f'_{index + 1}'}.safetensors" for index in range(len(contents))]
    prompt = target.prompt.format(name=name, token=concept.token)
    headers = [_header(concept, base, prompt) for _ in contents]
    if len(contents) > 1:
        headers = [{**header, PART: f"{index} of {len(contents)}"} for index, header in enumerate(headers, start=1)]
    files = {
        file: signed_bytes(tensors, header) for file, tensors, header in zip(names, contents, headers, strict=True)
    }
    place = target.place if len(names) == 1 else target.two_files
    place = place.format(first=names[0], second=names[-1], token=concept.token)
    return Export(program, "word", concept.token, base, files, prompt, place)


def file_stem(token: str, base: str) -> str:
    """The name of a file for a word, without its ending: that of the word, and the base's, so that it is no common word."""
    return "-".join(filter(None, (re.sub(r"[^a-z0-9_]+", "-", token.replace("<", "").replace(">", "")), base)))


def write_exports(
    exports: Sequence[Export], folder: StrPath = ".", *, overwrite: bool = False, sources: Sequence[StrPath] = ()
) -> list[Path]:
    """Write the files of exports, all or none.

    Args:
        exports: what to write.
        folder: where to; it is made if it is not there.
        overwrite: replace what is there.
        sources: files, and folders of files, that the exports were read from, and that are never replaced.

    Raises:
        SentinvError: If two files have one name, a file is there already and `overwrite` is not set, or cannot be written.
    """
    targets = [(Path(folder) / name, content) for export in exports for name, content in export.files.items()]
    _check_targets([path for path, _ in targets], overwrite=overwrite, sources=sources)
    with told(Path(folder)):
        before = {path: path.read_bytes() for path, _ in targets if path.exists()}
        existed = Path(folder).exists()
    make_folder(folder)
    written: list[Path] = []
    try:
        for path, content in targets:
            written.append(atomic_write(path, content, overwrite=overwrite))
        return written
    except BaseException:
        for path in written:
            with suppress(OSError, SentinvError):
                atomic_write(path, before[path], overwrite=True) if path in before else path.unlink()
        if not existed:
            with suppress(OSError):
                Path(folder).rmdir()
        raise


def _own_base(concept: Concept) -> str:
    """A short name for a base of other widths, of the name that the word's header gives; "" if it says nothing."""
    if not concept.metadata.get("modelspec.architecture", "").startswith("stable-diffusion"):
        return ""
    return re.sub(r"[^a-z0-9]+", "-", PurePath(concept.base_model).stem.lower()).strip("-")[:40] or "custom"


def _check_base(concept: Concept, target: Program, base: str) -> None:
    if base in WIDTHS or (base and target.any_base):
        return
    widths = " and ".join(str(value.shape[1]) for value in concept.rows.values())
    family = concept.metadata.get("modelspec.architecture", "").split("/")[0] or "an unknown kind of model"
    takes = "Stable Diffusion 1, 2 and XL (768, 1024, 768 and 1280 numbers a vector)"
    raise ConceptError(
        f"{target.label}: no words there for the base of {concept.token}, {concept.base_model or 'which is not named'} "
        f"({family}, {widths} numbers a vector); expected {takes}: learn the word on one of these"
    )


def _header(concept: Concept, base: str, prompt: str) -> dict[str, str]:
    header = concept.header()
    if base in ARCHITECTURES:
        header.setdefault("modelspec.architecture", f"{ARCHITECTURES[base]}/textual-inversion")
    return header | {"modelspec.trigger_phrase": prompt}


def _check_targets(paths: Sequence[Path], *, overwrite: bool, sources: Sequence[StrPath]) -> None:
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise SentinvError(f"two of the files would be written to {shown(twice)}: export them to folders of their own")
    for path in paths:
        with told(path):
            _check_target(path, overwrite=overwrite, sources=sources)


def _check_target(path: Path, *, overwrite: bool, sources: Sequence[StrPath]) -> None:
    if is_one_of(path, sources):
        raise SentinvError(f"{shown(path)} is a file that is being exported: choose another folder with -o")
    if path.is_dir():
        raise SentinvError(f"cannot write {shown(path)}: a folder has that name; choose another folder with -o")
    if path.exists() and not overwrite:
        raise SentinvError(f"{shown(path)} exists: give --force to replace it, or choose another folder with -o")
