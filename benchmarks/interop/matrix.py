"""Which program reads which of our files: every program's own code is run on them, and a table is written.

    python benchmarks/interop/matrix.py PEERS [--site DIR] [-o docs/files.md]

PEERS holds checkouts that you fetched yourself: a1111, forge, comfyui, invokeai, kohya, onetrainer, each a git checkout or a
folder with a file COMMIT. None of their code is in this repository. A reader runs in a process of its own, without a network,
on the CPU; what stands in for the rest of a program is said at its top.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sentinv.concepts.concept import Concept
from sentinv.concepts.export import PROGRAMS, export
from sentinv.concepts.layouts import ENCODER_KEYS, WIDTHS

HERE = Path(__file__).parent
READERS = {
    "diffusers": ("diffusers", "diffusers", ()),
    "AUTOMATIC1111": ("a1111", "a1111", ()),
    "Forge": ("a1111", "forge", ()),
    "ComfyUI": ("comfyui", "comfyui", ()),
    "InvokeAI": ("invokeai", "invokeai", ()),
    "kohya gen_img": ("kohya", "kohya", ()),
    "kohya --weights": ("kohya", "kohya", ("weights",)),
    "OneTrainer": ("onetrainer", "onetrainer", ()),
}
"""Column → program of `sentinv export`, checkout and reader, further arguments."""

COUNTS = (1, 5)
RESULTS = HERE / "results.json"
"""Program → version and answers; those that are not run again stay."""

BEGIN, END = "<!-- matrix -->", "<!-- /matrix -->"


def word(base: str, count: int) -> Concept:
    """A word with random rows, as long as those of the real vocabularies."""
    generator = torch.Generator().manual_seed(count)
    rows = {
        name: torch.randn(count, width, generator=generator) * 0.02
        for name, width in zip(ENCODER_KEYS, WIDTHS[base], strict=False)
    }
    return Concept(token="<snail>", rows=rows, base_model=base)


def cases(folder: Path, program: str, kind: str) -> list[dict[str, object]]:
    """Write the files of every base and count, each in a folder of its own."""
    made = []
    for base in WIDTHS:
        for count in COUNTS:
            concept, place = word(base, count), folder / f"{base}-{count}"
            place.mkdir(parents=True)
            save_file(dict(concept.rows), folder / f"{base}-{count}.rows")
            if kind == "export":
                written = export(concept, program, place)
                files, prompt = [place / name for name in written.files], written.prompt
            else:
                files = [concept.save(place / f"snail-{base}.safetensors")]
                prompt = PROGRAMS[program].prompt.format(name=files[0].stem, token=concept.token)
            made.append(
                {
                    "base": base,
                    "count": count,
                    "files": [str(file) for file in files],
                    "prompt": prompt,
                    "token": concept.token,
                    "rows": str(folder / f"{base}-{count}.rows"),
                }
            )
    return made


def answers(column: str, peers: Path, site: str) -> dict[str, list[str]]:
    """What became of each case in one program's hands: of the exports, and of the concepts' own files."""
    program, peer, further = READERS[column]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kinds = {kind: cases(folder / kind, program, kind) for kind in ("export", "own")}
        given = folder / "cases.json"
        given.write_text(json.dumps([case for made in kinds.values() for case in made]))
        command = [sys.executable, HERE / f"read_{peer}.py", given, peers / peer, *further]
        environment = {
            **os.environ,
            "CLIP_TOKENIZER": str(peers / "comfyui" / "comfy" / "sd1_tokenizer"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), site]),
        }
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
        if os.environ.get("SHOW") or done.returncode:
            print(done.stderr[-6000:], file=sys.stderr)
        if done.returncode:
            return {
                kind: [f"not run: {done.stderr.strip().splitlines()[-1]}"] * len(made) for kind, made in kinds.items()
            }
        told = iter(json.loads(done.stdout.splitlines()[-1]))
        return {kind: [next(told) for _ in made] for kind, made in kinds.items()}


def version(peer: Path) -> str:
    """Commit and day of a checkout."""
    if peer.name == "diffusers":
        import diffusers

        return diffusers.__version__
    if (peer / "COMMIT").is_file():
        commit, day = (peer / "COMMIT").read_text().split()[:2]
    else:
        log = ["git", "-C", peer, "log", "-1", "--format=%H %cs"]
        commit, day = subprocess.run(log, capture_output=True, text=True, check=True).stdout.split()
    return f"`{commit[:12]}` of {day}"


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown: one row for each program, kind of file, base and count in columns."""
    heads = [f"{base.upper()}, n = {count}" for base in WIDTHS for count in COUNTS]
    lines = [f"| program | version | file | {' | '.join(heads)} |", "|---|---|---|" + "---|" * len(heads)]
    notes: list[str] = []
    for column, told in results.items():
        for kind in ("export", "own"):
            cells = []
            for answer in told[kind]:
                verdict, _, reason = answer.partition(": ")
                if reason and reason not in notes:
                    notes.append(reason)
                cells.append(verdict if not reason else f"**{verdict}** ({notes.index(reason) + 1})")
            name = "`export`" if kind == "export" else "its own"
            lines.append(f"| {column} | {told['version']} | {name} | {' | '.join(cells)} |")
    numbered = [f"{number}. {note.replace('|', '/')}" for number, note in enumerate(notes, start=1)]
    return "\n".join([*lines, "", *numbered])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", type=Path)
    parser.add_argument("--site", default="", help="Folder with what the programs need and this environment lacks.")
    parser.add_argument("--only", choices=READERS, action="append")
    parser.add_argument("-o", "--output", type=Path, help=f"Markdown file with {BEGIN} and {END} in it.")
    given = parser.parse_args()
    peers = given.peers.resolve()
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for column in given.only or READERS:
        results[column] = {
            "version": version(peers / READERS[column][1]),
            **answers(column, peers, given.site),
        }
        RESULTS.write_text(json.dumps({name: results[name] for name in READERS if name in results}, indent=1) + "\n")
    text = table(json.loads(RESULTS.read_text()))
    print(text)
    if given.output:
        page = given.output.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        given.output.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
