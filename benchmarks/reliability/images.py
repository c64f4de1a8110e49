"""R1, R2: corrupted and odd pictures end in a picture or one line; the golden set of meanings is read right.

    python benchmarks/reliability/images.py [--count 10000] [CORPUS_FOLDER ...]

Every file of the corpora is read once, then mutations of generated pictures in all modes, until `--count` are done.
"""

import argparse
import io
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from kit import Outcome, report, watched
from PIL import Image

from sentinv.files.images import read_image

MODES = {"JPEG": ["1", "L", "RGB", "CMYK", "YCbCr"], "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]}
MODES["WEBP"] = ["RGB", "RGBA", "L"]
GOLDEN = Path(__file__).parents[2] / "tests" / "test_images.py"


def seeds() -> list[bytes]:
    """Valid pictures in every format, mode and variant that can be written here."""
    noise = np.random.default_rng(0)
    found = []
    for kind, modes in MODES.items():
        for mode in modes:
            for side in (17, 64):
                colours = noise.integers(0, 256, (side, side + 5, 4), "u1")
                image = Image.fromarray(colours) if mode != "I;16" else Image.fromarray(colours.view("u2")[:, :, 0])
                image = image.convert("RGB").convert(mode) if mode != "I;16" else image
                exif = Image.Exif()
                exif[0x0112], exif[0x010E] = 6, "text"
                variants: list[dict[str, object]] = [{}, {"exif": exif}]
                variants += {
                    "JPEG": [{"progressive": True}, {"quality": 5, "optimize": True}],
                    "PNG": [{"save_all": True, "append_images": [image.copy()]}, {"dpi": (9, 9)}],
                    "WEBP": [{"save_all": True, "append_images": [image.copy()]}, {"lossless": True}],
                }[kind]
                for options in variants:
                    buffer = io.BytesIO()
                    image.save(buffer, kind, **options)
                    found.append(buffer.getvalue())
    return found


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Cut, flip, overwrite, repeat, splice: one to six times, near the start more often than not."""
    content = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = int(len(content) * chance.random() ** chance.choice([1, 3]))
        length = chance.choice([1, 1, 2, 4, 16, 200])
        match chance.randrange(6):
            case 0:
                content[at:] = b"" if chance.random() < 0.3 else content[at:]
            case 1 if at < len(content):
                content[at] ^= 1 << chance.randrange(8)
            case 2:
                content[at : at + length] = chance.randbytes(min(length, max(len(content) - at, 0)))
            case 3:
                content[at:at] = content[at : at + length]
            case 4:
                del content[at : at + length]
            case _:
                content[at : at + 4] = chance.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
    return bytes(content)


def generated() -> Iterator[bytes]:
    """Without end."""
    chance, valid = random.Random(6), seeds()
    while True:
        yield mutated(chance.choice(valid), chance)


def wrong(outcome: Outcome) -> bool:
    """Whether an outcome is one that must not be."""
    return outcome.kind not in ("ok", "refused") or outcome.memory > 1.5e9


def main() -> None:
    """Read them all, one child each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", nargs="*", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    arguments = parser.parse_args()
    files = sorted(path for folder in arguments.corpora for path in folder.rglob("*") if path.is_file())
    kinds: Counter[str] = Counter()
    slowest, largest, failures = 0.0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture"

        def made() -> Iterator[Path]:
            for data in islice(generated(), max(arguments.count - len(files), 0)):
                picture.write_bytes(data)
                yield picture

        for path in [*files, *[None]]:
            for one in [path] if path else made():
                outcome = watched(lambda: read_image(one).image.size)  # noqa: B023 - called at once
                kinds[outcome.kind] += 1
                slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.memory)
                if wrong(outcome):
                    kept = Path(tempfile.mkdtemp()) / one.name
                    kept.write_bytes(one.read_bytes())
                    failures.append(f"{one.name} ({kept}): {outcome.kind} {outcome.memory >> 20} MiB {outcome.message}")
                    print(failures[-1], file=sys.stderr)
    golden = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(GOLDEN), "-k", "not any_"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()[-1]
    clean = kinds["ok"] + kinds["refused"]
    report(
        "images",
        f"{clean} of {kinds.total()} pictures clean, {len(failures)} wrong, slowest {slowest:.1f} s of CPU, "
        f"largest {largest / 1e6:.0f} MB; golden set: {golden.strip('= ')}",
        outcomes=dict(kinds),
        from_corpora=len(files),
        corpora=[folder.name for folder in arguments.corpora],
        failures=[failure[:300] for failure in failures[:20]],
    )
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
