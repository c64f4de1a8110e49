"""Words as they lie on disk: one file, two files for the two text encoders, or a folder with either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sentinv.concepts.concept import Concept, load_all
from sentinv.concepts.names import token_of
from sentinv.errors import ConceptError
from sentinv.files.atomic import StrPath, shown

PART = "sentinv.part"
"""The header's entry of a file that holds a word for one of two text encoders: "1 of 2", "2 of 2"."""

_SCRIPTS_NAME = "learned_embeds"
"""What diffusers' scripts call their files; the second has "_2" at its end."""


def load_concepts(paths: Sequence[StrPath], *, allow_pickle: bool = False) -> list[Concept]:
    """Read words from files and folders.

    Two files become one word where each has rows for one text encoder, of different widths, and they bear one placeholder,
    or the second has the first's name and "_2": so diffusers' script for SDXL writes a word, and `sentinv export --to
    diffusers` too.

    Args:
        paths: files as `Concept.load` reads them, LoRAs with words bundled into them, and folders that hold one word.
        allow_pickle: read `.pt` and `.bin` files too, in a limited process of their own.

    Returns:
        The words, in the order of their first files.

    Raises:
        ConceptError: If a file cannot be read, is the half of a word whose other half is not given, or a folder holds no
            word or several.
    """
    files = [file for path in paths for file in _files(Path(path), allow_pickle=allow_pickle)]
    loaded = [(file, one) for file in files for one in load_all(file, allow_pickle=allow_pickle)]
    joined: list[Concept] = []
    while loaded:
        file, concept = loaded.pop(0)
        other = next((index for index, (path, one) in enumerate(loaded) if _are_one(file, concept, path, one)), None)
        if other is not None:
            concept = _joined((file, concept), loaded.pop(other))
        if PART in concept.metadata:
            raise ConceptError(
                f"{shown(file.name)} is {concept.metadata[PART]} files of {concept.token}, for one of two text encoders: "
                f"give the other one too, {shown(_other_name(file))}"
            )
        joined.append(concept)
    return joined


def load_concept(paths: Sequence[StrPath], *, allow_pickle: bool = False) -> Concept:
    """Read one word from the file or files it is in.

    Raises:
        ConceptError: As `load_concepts` does, and if the files hold more than one word.
    """
    concepts = load_concepts(paths, allow_pickle=allow_pickle)
    if len(concepts) != 1:
        tokens = ", ".join(concept.token for concept in concepts) or "none"
        raise ConceptError(f"expected the file or files of one word, got {tokens}: name one at a time")
    return concepts[0]


def _files(path: Path, *, allow_pickle: bool) -> list[Path]:
    """The path itself, or the files of the one word in a folder."""
    if not path.is_dir():
        return [path]
    endings = (".safetensors", ".pt", ".bin") if allow_pickle else (".safetensors",)
    found = sorted(file for file in path.iterdir() if file.suffix in endings and file.is_file())
    named = [file for file in found if file.stem in (_SCRIPTS_NAME, f"{_SCRIPTS_NAME}_2")]
    stems = {file.stem for file in named or found}
    first = min(stems, key=len, default="")
    if not stems or not stems <= {first, f"{first}_2"}:
        names = shown(", ".join(file.name for file in found[:3])) or "none"
        raise ConceptError(
            f"{shown(path)} is a folder with {len(found)} files ({names}); expected the one or two files of one word: name them"
        )
    chosen = named or found  # of one name the first ending, so that a pickle beside its safetensors file is left alone
    return [next(file for ending in endings for file in chosen if file.name == stem + ending) for stem in sorted(stems)]


def _are_one(file: Path, concept: Concept, other_file: Path, other: Concept) -> bool:
    """Whether two files hold the rows of one word for two text encoders."""
    widths = {value.shape[1] for one in (concept, other) for value in one.rows.values()}
    if len(concept.rows) != 1 or len(other.rows) != 1 or len(widths) != 2:
        return False
    if concept.token == other.token:
        return True
    stems = sorted((file.stem, other_file.stem), key=len)
    nameless = {concept.token, other.token} == {token_of(stem) for stem in stems}
    ours = any(key.startswith("sentinv.") for key in (*concept.metadata, *other.metadata))
    return nameless and not ours and stems[1] == f"{stems[0]}_2"


def _joined(first: tuple[Path, Concept], second: tuple[Path, Concept]) -> Concept:
    """One word of two; the file whose name ends in "_2" is the second text encoder's, else that of the wider rows."""

    def place(part: tuple[Path, Concept]) -> tuple[bool, int]:
        return part[0].stem.endswith("_2"), part[1].rows["text_encoder"].shape[1]

    (_, one), (file, two) = sorted((first, second), key=place)
    if one.count != two.count:
        raise ConceptError(
            f"{shown(file.name)} has {two.count} vectors for the second text encoder of {one.token}, expected {one.count} as "
            "for the first: they are not of one word"
        )
    rows = {"text_encoder": one.rows["text_encoder"], "text_encoder_2": two.rows["text_encoder"]}
    return replace(one, rows=rows, metadata={key: value for key, value in one.metadata.items() if key != PART})


def _other_name(file: Path) -> str:
    stem = file.stem.removesuffix("_2") if file.stem.endswith("_2") else f"{file.stem}_2"
    return f"{stem}{file.suffix}"
