"""Take the pictures of the page that docs/page.md shows: it is served, used as a person would, and photographed.

python benchmarks/page.py docs            # needs the extras ui and browser, and Chromium
python benchmarks/page.py OUT --all       # every step, at two widths, light and dark, to look at
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
ENOUGH = 300_000
FOR_DOCS = {("learn", 1280, "light"): "page.png"}


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a page that runs for as long as the block."""
    command = [sys.executable, "-m", "sentinv", "ui", "--folder", str(folder), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert process.stdout is not None
    told = ""
    while "}" not in told:
        told += process.stdout.readline()
    try:
        yield json.loads(told)["address"]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def walk(page: Page, example: int) -> Iterator[str]:
    """From a picture to the thing on the moon; yields the name of each moment that is worth a picture."""
    page.locator(f"[data-press='#example-{example}']").click()
    page.locator("#learn-sketch img").nth(1).wait_for()
    yield "words"
    page.locator("#learn-button").click()
    page.locator("#learn-use").wait_for()
    yield "learn"
    page.locator("#learn-use").click()
    page.locator("#draw-button").click()
    expect(page.locator("#draw-gallery img")).to_have_count(4, timeout=ENOUGH)
    yield "draw"
    page.get_by_role("tab", name="Edit").click()
    page.locator("#edit-drop input[type=file]").set_input_files(str(ROOT / "examples" / "cat.png"))
    field = page.locator("#edit-prompt textarea, #edit-prompt input").first
    page.locator("#edit-source textarea, #edit-source input").first.wait_for()
    field.fill("a photo of a cat in the snow")
    page.locator("#edit-button").click()
    page.locator("#edit-result .compare").wait_for()
    yield "edit"
    page.get_by_role("tab", name="Library").click()
    page.locator("#library-cards .card").first.wait_for()
    page.locator("#library-export button").first.click()
    yield "library"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--all", action="store_true", help="every step, at two widths, light and dark")
    parser.add_argument("--example", type=int, default=0, help="number of the example picture")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    looks = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")] if given.all else [(1280, "light")]
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for width, scheme in looks:
            with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as address:
                context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
                page = context.new_page()
                page.set_default_timeout(ENOUGH)
                page.goto(address)
                for name in walk(page, given.example):
                    file = f"{name}-{width}-{scheme}.png" if given.all else FOR_DOCS.get((name, width, scheme))
                    if file:
                        page.wait_for_timeout(500)
                        page.screenshot(path=given.folder / file, full_page=True)
                        if not given.all:  # few colours: a quarter of the bytes
                            Image.open(given.folder / file).convert("RGB").quantize(128).save(
                                given.folder / file, optimize=True
                            )
                context.close()
        browser.close()


if __name__ == "__main__":
    main()
