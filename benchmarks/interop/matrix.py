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

from sentinv.adapters.bases import bare_unet
from sentinv.adapters.export import BUNDLE_READERS, export
from sentinv.adapters.layouts import LoraLayer
from sentinv.adapters.lora import Lora
from sentinv.adapters.names import adaptable
from sentinv.concepts.concept import Concept
from sentinv.concepts.export import PROGRAMS, file_stem
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

LORA_READERS = {
    "diffusers": ("diffusers", "diffusers"),
    "AUTOMATIC1111": ("a1111", "a1111"),
    "Forge": ("a1111", "forge"),
    "ComfyUI": ("comfyui", "comfyui"),
    "InvokeAI": ("invokeai", "invokeai"),
    "kohya": ("kohya", "kohya"),
    "OneTrainer": ("onetrainer", "onetrainer"),
}
"""The same for LoRAs: column → program of `sentinv export`, checkout and reader."""

KINDS = {"export": "`export`", "bundle": "`export --bundle`", "own": "its own"}
"""Kind of file → what the tables call it."""

ALPHA, RANK = 3.0, 2

COUNTS = (1, 5)
RESULTS = HERE / "results.json"
"""Program → version and answers; those that are not run again stay."""

LORA_RESULTS = HERE / "results-loras.json"

MARKS = {"matrix": RESULTS, "matrix of LoRAs": LORA_RESULTS}
"""What stands in comments around a table → the results that it is of."""


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


def lora(base: str, program: str) -> Lora:
    """A LoRA with random layers on modules of every kind; for kohya's scripts inside the blocks only, as it is exported."""
    modules = adaptable(bare_unet(base))
    attention = [name for name in modules if ".to_" in name][:: 9 if base == "sdxl" else 3]  # of all eight kinds
    names = [*attention, *[name for name in modules if ".to_" not in name and "_block" in name][::7]]
    names += [name for name in modules if "_block" not in name and program != "kohya"]
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for name in names:
        shape = modules[name].weight.shape
        down = torch.randn((RANK, *shape[1:]), generator=generator).half().float()
        up = torch.randn((shape[0], RANK, *[1] * (len(shape) - 2)), generator=generator).half().float()
        layers[name] = LoraLayer(down, up, ALPHA)
    return Lora(layers=layers, token="<snail>", base_model=base)


def lora_cases(folder: Path, program: str, kind: str) -> list[dict[str, object]]:
    """Write the files of every base, each in a folder of its own, and what is wanted of them."""
    made = []
    for base in WIDTHS:
        place, own, concept = folder / base, lora(base, program), word(base, 2)
        place.mkdir(parents=True)
        bundled = kind == "bundle"
        if kind == "own":
            file = own.save(place / "snail-lora.safetensors")
        else:
            written = export(own, program, place, bundle=concept if bundled else None)
            (file,) = (place / name for name in written.files)
        wanted = {f"{name}.{part}": getattr(one, part) for name, one in own.layers.items() for part in ("down", "up")}
        wanted |= {f"word:{name}": rows for name, rows in concept.rows.items()} if bundled else {}
        save_file(wanted, folder / f"{base}.wanted")
        case = {"base": base, "file": str(file), "alpha": ALPHA, "wanted": str(folder / f"{base}.wanted")}
        made.append({**case, "word": file_stem("<snail>", base) if bundled else ""})
    return made


def answers(column: str, peers: Path, site: str) -> dict[str, list[str]]:
    """What became of each case in one program's hands: of the exports, and of the concepts' own files."""
    program, peer, further = READERS[column]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kinds = {kind: cases(folder / kind, program, kind) for kind in ("export", "own")}
        return told(folder, kinds, [f"read_{peer}.py", str(peers / peer), *further], peers, site)


def lora_answers(column: str, peers: Path, site: str) -> dict[str, list[str]]:
    """The same of LoRAs, and for those who read them of bundles."""
    program, peer = LORA_READERS[column]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        chosen = ("export", "bundle", "own") if program in BUNDLE_READERS else ("export", "own")
        kinds = {kind: lora_cases(folder / kind, program, kind) for kind in chosen}
        return told(folder, kinds, [f"read_lora_{peer}.py", str(peers / peer)], peers, site)


def told(
    folder: Path, kinds: dict[str, list[dict[str, object]]], reader: list[str], peers: Path, site: str
) -> dict[str, list[str]]:
    """Run a reader on the cases of all kinds."""
    script, *arguments = reader
    given = folder / "cases.json"
    given.write_text(json.dumps([case for made in kinds.values() for case in made]))
    environment = {
        **os.environ,
        "CLIP_TOKENIZER": str(peers / "comfyui" / "comfy" / "sd1_tokenizer"),
        "COMFYUI": str(peers / "comfyui"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), site]),
    }
    command = [sys.executable, HERE / script, given, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    if os.environ.get("SHOW") or done.returncode:
        print(done.stderr[-6000:], file=sys.stderr)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1]
        return {kind: [f"not run: {last}"] * len(made) for kind, made in kinds.items()}
    found = iter(json.loads(done.stdout.splitlines()[-1]))
    return {kind: [next(found) for _ in made] for kind, made in kinds.items()}


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


def table(results: dict[str, dict[str, Any]], heads: list[str]) -> str:
    """Markdown: a row for each program and kind of file, a column for each head."""
    lines = [f"| program | version | file | {' | '.join(heads)} |", "|---|---|---|" + "---|" * len(heads)]
    notes: list[str] = []
    for column, found in results.items():
        for kind in (kind for kind in KINDS if kind in found):
            cells = []
            for answer in found[kind]:
                verdict, _, reason = answer.partition(": ")
                if reason and reason not in notes:
                    notes.append(reason)
                cells.append(verdict if not reason else f"**{verdict}** ({notes.index(reason) + 1})")
            lines.append(f"| {column} | {found['version']} | {KINDS[kind]} | {' | '.join(cells)} |")
    numbered = [f"{number}. {note.replace('|', '/')}" for number, note in enumerate(notes, start=1)]
    return "\n".join([*lines, "", *numbered])


def texts() -> dict[str, str]:
    """The tables of all results, by the marks around them."""
    heads = {
        RESULTS: [f"{base.upper()}, n = {count}" for base in WIDTHS for count in COUNTS],
        LORA_RESULTS: [base.upper() for base in WIDTHS],
    }
    return {mark: table(read_results(path), heads[path]) for mark, path in MARKS.items()}


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    return json.loads(path.read_text()) if path.is_file() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", type=Path)
    parser.add_argument("--site", default="", help="Folder with what the programs need and this environment lacks.")
    parser.add_argument("--only", action="append", help=f"One of {', '.join({**READERS, **LORA_READERS})}; repeatable.")
    parser.add_argument("--kind", choices=("words", "loras"), help="Only these.")
    parser.add_argument("-o", "--output", type=Path, help="Markdown file with marks for the tables in it.")
    given = parser.parse_args()
    peers, columns = given.peers.resolve(), {**READERS, **LORA_READERS}
    for kind, readers, run, path in (
        ("words", READERS, answers, RESULTS),
        ("loras", LORA_READERS, lora_answers, LORA_RESULTS),
    ):
        results = read_results(path)
        for column in (given.only or columns) if given.kind in (None, kind) else ():
            if column in readers:
                found = run(column, peers, given.site)
                results[column] = {"version": version(peers / readers[column][1]), **found}
                path.write_text(
                    json.dumps({name: results[name] for name in readers if name in results}, indent=1) + "\n"
                )
    page = given.output.read_text(encoding="utf-8") if given.output else ""
    for mark, text in texts().items():
        print(text, "\n")
        if f"<!-- {mark} -->" in page:
            before, _, rest = page.partition(f"<!-- {mark} -->")
            page = f"{before}<!-- {mark} -->\n{text}\n<!-- /{mark} -->{rest.partition(f'<!-- /{mark} -->')[2]}"
    if given.output:
        given.output.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
