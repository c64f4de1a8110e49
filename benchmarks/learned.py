"""The words that a study learned: its last rows in one file, and a concept file of any of them.

python benchmarks/learned.py pack benchmarks/results/evidence benchmarks/results/evidence/learned
python benchmarks/learned.py take benchmarks/results/evidence KEY word.safetensors

`pack` writes STUDY/rows.safetensors, in half precision: the key of each record of a word by itself → `[vectors, dim]`. It
looks for them in folders `learned` of studies, the first that has them. LoRAs, at .4 MB each, are not kept.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sentinv.bench.records import Record, read_records
from sentinv.bench.study import key_of
from sentinv.bench.trials import TOKEN, TrainingCurve
from sentinv.bench.workbench import of_learning
from sentinv.concepts.concept import Concept
from sentinv.errors import CheckpointError
from sentinv.models.built_in import TOYBOX

ENCODER = "text_encoder"


def rows_of(record: Record, folders: list[Path]) -> torch.Tensor | None:
    key = key_of(of_learning(record["settings"]))
    for folder in folders:
        try:
            curve = TrainingCurve.read(folder / f"{key}.safetensors")
        except CheckpointError:
            continue
        return curve.rows[max(curve.rows)][ENCODER].half().contiguous()
    return None


def pack(study: Path, folders: list[Path]) -> None:
    path = study / "rows.safetensors"
    kept = load_file(path) if path.is_file() else {}
    wanted = {
        key: record
        for key, record in read_records(study).items()
        if record["result"]["losses"] and "tune" not in record["settings"]
    }
    found = {key: rows for key, record in wanted.items() if (rows := rows_of(record, folders)) is not None}
    kept = {key: rows for key, rows in {**kept, **found}.items() if key in wanted}
    save_file(kept, path)
    print(f"{path}: {len(kept)} of {len(wanted)} words, {path.stat().st_size} bytes")


def word(study: Path, key: str) -> tuple[Concept, Record]:
    """A learned word, as it is used in a prompt, and the record that it is of."""
    kept, record = load_file(study / "rows.safetensors"), read_records(study).get(key)
    if record is None or key not in kept:
        raise SystemExit(
            f"expected the key of a record of a word by itself, got {key!r}: they are in {study}/records.jsonl"
        )
    said = {"sentinv.initial_text": record["settings"]["words"]}
    rows = {ENCODER: kept[key].float()}
    return Concept(token=TOKEN, rows=rows, base_model=TOYBOX, metadata=said), record


def take(study: Path, key: str, output: Path) -> None:
    concept, record = word(study, key)
    print(f"{concept.save(output)}: {TOKEN}, {record['settings']['concept']}, {record['settings']['start']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("study", type=Path)
    packing.add_argument("folders", type=Path, nargs="+")
    packing.set_defaults(run=lambda given: pack(given.study, given.folders))
    taking = commands.add_parser("take")
    taking.add_argument("study", type=Path)
    taking.add_argument("key")
    taking.add_argument("output", type=Path)
    taking.set_defaults(run=lambda given: take(given.study, given.key, given.output))
    given = parser.parse_args()
    given.run(given)


if __name__ == "__main__":
    main()
