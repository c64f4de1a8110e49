"""Take the pictures of the page that docs/page.md shows, and its times: it is served, and used as a person would.

python benchmarks/page.py docs            # needs the extras ui and browser, and Chromium
python benchmarks/page.py OUT --all       # every step, at two widths, light and dark, to look at
python benchmarks/page.py --times 3       # how soon there are words and a preview, and a word's time beside the command's
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
ENOUGH = 300_000
FOR_DOCS = {
    ("learn", 1280, "light"): "page-learn.png",
    ("draw", 1280, "light"): "page-draw.png",
    ("edit", 1280, "light"): "page-edit.png",
    ("library", 1280, "dark"): "page-dark.png",
    ("draw", 390, "light"): "page-narrow.png",
}
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a page that runs for as long as the block."""
    command = [sys.executable, "-m", "sentinv", "ui", "--folder", str(folder), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
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


def pictures(browser: Browser, given: argparse.Namespace) -> None:
    """Photograph the page at every moment of the walk."""
    looks = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
    for width, scheme in looks if given.all else dict.fromkeys(look[1:] for look in FOR_DOCS):
        with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as address:
            page = opened(browser, address, width, scheme)
            for name in walk(page, given.example):
                file = f"{name}-{width}-{scheme}.png" if given.all else FOR_DOCS.get((name, width, scheme))
                if file:
                    page.mouse.move(0, 0)
                    page.wait_for_timeout(500)
                    page.screenshot(path=given.folder / file, full_page=True)
                    if not given.all:  # few colours: a quarter of the bytes
                        few = Image.open(given.folder / file).convert("RGB").quantize(128, dither=Image.Dither.NONE)
                        few.save(given.folder / file, optimize=True)
            page.context.close()


def opened(browser: Browser, address: str, width: int, scheme: str) -> Page:
    """The page in a window of its own."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(ENOUGH)
    page.goto(address)
    page.locator("#learn-drop input[type=file]").wait_for(state="attached")
    return page


def times(browser: Browser, given: argparse.Namespace) -> None:
    """Learn the same word on the page and by the command, in turn, and print what took how long, in seconds."""
    picture, rows = ROOT / "examples" / "cat.png", []
    for _ in range(given.times):
        with tempfile.TemporaryDirectory() as folder:
            with served(Path(folder) / "words") as address:
                rows.append(on_the_page(opened(browser, address, 1280, "light"), Path(folder) / "words", picture))
            rows[-1] |= by_the_command(Path(folder), picture)
        print(json.dumps(rows[-1]), flush=True)
    middle = {part: statistics.median(row[part] for row in rows) for part in rows[0]}
    middle["page / command"] = statistics.median(row["page"] / row["command"] for row in rows)
    print(json.dumps({"median": {part: round(value, 3) for part, value in middle.items()}}))


def on_the_page(page: Page, folder: Path, picture: Path) -> dict[str, float]:
    """Seconds from the drop to words and preview, and from the button to the end; the parts as the run's report has them."""
    begun = time.perf_counter()
    page.locator("#learn-drop input[type=file]").set_input_files(str(picture))
    expect(page.locator("#learn-text textarea, #learn-text input").first).not_to_have_value("", timeout=ENOUGH)
    found = {"words": time.perf_counter() - begun}
    page.locator("#learn-sketch img").nth(1).wait_for()
    found["preview"] = time.perf_counter() - begun
    begun = time.perf_counter()
    page.locator("#learn-button").click()
    page.locator("#learn-use").wait_for()
    found["page"] = time.perf_counter() - begun
    page.context.close()
    report = next(folder.glob("*-run/report.html")).read_text(encoding="utf-8")
    for part, name in (("training", "page, training"), ("pictures on the way", "page, pictures on the way")):
        found[name] = float(re.search(rf"<td>{part}</td><td[^>]*>([\d.]+) s", report)[1])  # type: ignore[index]
    return {name: round(value, 2) for name, value in found.items()}


def by_the_command(folder: Path, picture: Path) -> dict[str, float]:
    """Seconds that the command takes, from its start to its end, and its training as it reports it."""
    command = [
        sys.executable,
        "-m",
        "sentinv",
        "invert",
        str(picture),
        "-o",
        str(folder / "cat.safetensors"),
        "--json",
        "-q",
    ]
    begun = time.perf_counter()
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT).stdout)
    whole = time.perf_counter() - begun
    parts = told["seconds"]
    return {"command": round(whole, 2), "command, training": round(parts["training"], 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "docs")
    parser.add_argument("--all", action="store_true", help="every step, at two widths, light and dark")
    parser.add_argument("--example", type=int, default=1, help="number of the example picture")
    parser.add_argument("--times", type=int, default=0, help="take no pictures but times, so often, beside the command")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        (times if given.times else pictures)(browser, given)
        browser.close()


if __name__ == "__main__":
    main()
