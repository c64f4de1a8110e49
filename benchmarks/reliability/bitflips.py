"""R5: of every single flipped bit in our own concept files, none may pass unseen.

    python benchmarks/reliability/bitflips.py [--count 5000]

Half of the flips hit the header, half the rows. Besides refusal, one end is right: the very same concept, for a flip
that changes how a file is written but not what it says, such as the case of a letter in an escape.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
from kit import report
from PIL import Image

from sentinv.concepts.concept import Concept
from sentinv.errors import SentinvError


def concepts() -> list[Concept]:
    """One of each shape of file: one vector, several, two text encoders, with a thumbnail and odd characters."""
    chance = torch.Generator().manual_seed(5)
    several = {"text_encoder": torch.randn(5, 768, generator=chance)}
    single = {"text_encoder": torch.randn(1, 64, generator=chance)}
    both = {**several, "text_encoder_2": torch.randn(5, 1280, generator=chance)}
    said = {"sentinv.initial_text": "a schöner „cat“ 猫\n\t\x01", "modelspec.date": "2026-11-20"}
    found = [Concept(token="<cat>", rows=rows, metadata=said) for rows in (several, single, both)]
    return [*found, found[1].with_thumbnail(Image.effect_mandelbrot((64, 64), (-2, -2, 2, 2), 9).convert("RGB"))]


def same(one: Concept, other: Concept) -> bool:
    """Whether two concepts are the same, bit by bit."""
    return one.to_bytes() == other.to_bytes()


def main() -> None:
    """Flip, read, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    count = parser.parse_args().count
    chance, ends = random.Random(5), Counter[str]()
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cat.safetensors"
        files = []
        for concept in concepts():
            files.append((concept, concept.to_bytes()))
            path.write_bytes(files[-1][1])
            if not same(Concept.load(path), concept):
                raise SystemExit(f"an undamaged file does not read back: {concept.token}")
        for number in range(count):
            concept, whole = files[number % len(files)]
            header = 8 + int.from_bytes(whole[:8], "little")
            at = chance.randrange(header) if number // len(files) % 2 else chance.randrange(header, len(whole))
            data = bytearray(whole)
            data[at] ^= 1 << (bit := chance.randrange(8))
            path.write_bytes(data)
            try:
                end = "same concept" if same(Concept.load(path), concept) else "missed"
            except SentinvError as error:
                end = "by sha256" if "sha256" in str(error) else "by structure"
            ends[end] += 1
            if end == "missed":
                missed.append(f"bit {bit} of byte {at} in {whole[max(at - 20, 0) : at + 20]!r}")
                print(missed[-1], file=sys.stderr)
    found = count - ends["missed"]
    report("bitflips", f"{found} of {count} bit flips found or harmless", ends=dict(ends), missed=missed[:20])
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
