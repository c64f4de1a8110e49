"""Take the pictures of the page that docs/page.md shows, and its times: it is served, and used as a person would.

python benchmarks/page.py docs            # needs the extras ui and browser, and Chromium
python benchmarks/page.py OUT --all       # every step, at two widths, light and dark, to look at
python benchmarks/page.py --times 3       # how soon there are words and a preview, and a word's time beside the command's
"""

import argparse
import json
import os
import re
import resource
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
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
ENOUGH = 1_200_000
FOR_DOCS = {
    ("learn", 1280, "light"): "page-learn.png",
    ("draw", 1280, "light"): "page-draw.png",
    ("edit", 1280, "light"): "page-edit.png",
    ("library", 1280, "dark"): "page-dark.png",
    ("draw", 390, "light"): "page-narrow.png",
}
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, int]]:
    """Address and process of a page that runs for as long as the block."""
    command = [sys.executable, "-m", "sentinv", "ui", "--folder", str(folder), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert process.stdout is not None
    told = ""
    while "}" not in told:
        told += process.stdout.readline()
    try:
        yield json.loads(told)["address"], process.pid
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
    page.get_by_role("button", name="Choose <", exact=False).first.click()
    page.locator("#library-cards .card.chosen").wait_for()
    yield "library"


def pictures(browser: Browser, given: argparse.Namespace) -> None:
    """Photograph the page at every moment of one walk, as wide and as light as is wanted."""
    looks = [(width, scheme) for width in (390, 1280) for scheme in ("dark", "light")]
    with tempfile.TemporaryDirectory() as folder, served(Path(folder) / "words") as (address, _):
        page = opened(browser, address)
        for name in walk(page, given.example):
            for width, scheme in looks:
                file = f"{name}-{width}-{scheme}.png" if given.all else FOR_DOCS.get((name, width, scheme))
                if file:
                    photograph(page, width, scheme, given.folder / file, few=not given.all)
            page.set_viewport_size({"width": 1280, "height": 900})
        page.context.close()


def photograph(page: Page, width: int, scheme: Any, path: Path, *, few: bool) -> None:
    """The whole page as it is now; with few colours it has a quarter of the bytes."""
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.mouse.move(0, 0)
    page.wait_for_timeout(800)
    page.screenshot(path=path, full_page=True)
    if few:
        Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def opened(browser: Browser, address: str) -> Page:
    """The page in a window of its own."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(ENOUGH)
    page.goto(address)
    page.locator("#learn-drop input[type=file]").wait_for(state="attached")
    return page


def times(browser: Browser, given: argparse.Namespace) -> None:
    """Learn the same word on the page and by the command, in turn, and print what took how long.

    Seconds of the clock, and of the processor: the latter are the same on a machine that has other things to do.
    """
    picture, rows = ROOT / "examples" / "cat.png", []
    for _ in range(given.times):
        with tempfile.TemporaryDirectory() as folder:
            with served(Path(folder) / "words") as (address, process):
                rows.append(on_the_page(opened(browser, address), process, Path(folder) / "words", picture))
            rows[-1] |= by_the_command(Path(folder), picture)
        rows[-1]["page / command"] = rows[-1]["page"] / rows[-1]["command"]
        rows[-1]["page / command, processor"] = rows[-1]["page, processor"] / rows[-1]["command, processor"]
        print(json.dumps(rows[-1]), flush=True)
    print(json.dumps({"median": {part: statistics.median(row[part] for row in rows) for part in rows[0]}}))


class Clock:
    """Seconds since it was made, of the clock and of a process."""

    def __init__(self, process: int) -> None:
        self.process = process
        self.begun = (time.perf_counter(), self._worked())

    def _worked(self) -> float:
        fields = Path(f"/proc/{self.process}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def told(self, name: str) -> dict[str, float]:
        """Both, by name."""
        return {
            name: time.perf_counter() - self.begun[0],
            f"{name}, processor": self._worked() - self.begun[1],
        }


def on_the_page(page: Page, process: int, folder: Path, picture: Path) -> dict[str, float]:
    """From the drop to words and preview, and from the button to the end; its parts as the run's report has them.

    The first picture is dropped as soon as the page is there, while models are still being loaded; the other one later.
    """
    words, sketch = page.locator("#learn-text textarea, #learn-text input").first, page.locator("#learn-sketch img")
    found, before = dict[str, float](), ""
    for name, dropped in (("first, ", ROOT / "examples" / "teapot.png"), ("", picture)):
        clock = Clock(process)
        page.locator("#learn-drop input[type=file]").set_input_files(str(dropped))
        expect(words).not_to_have_value(before, timeout=ENOUGH)
        found |= clock.told(f"{name}words")
        old, before = sketch.evaluate_all("all => all.map(one => one.src).join()"), words.input_value()
        page.wait_for_function(
            "old => { const now = [...document.querySelectorAll('#learn-sketch img')].map(one => one.src); "
            "return now.length > 1 && now.join() !== old; }",
            arg=old,
        )
        found |= clock.told(f"{name}preview")
    clock = Clock(process)
    page.locator("#learn-button").click()
    page.locator("#learn-use").wait_for()
    found |= clock.told("page")
    page.context.close()
    report = next(folder.glob("*-run/report.html")).read_text(encoding="utf-8")
    for part in ("training", "pictures on the way"):
        found[f"page, {part}"] = float(re.search(rf"<td>{part}</td><td[^>]*>([\d.]+) s", report)[1])  # type: ignore[index]
    return found


def by_the_command(folder: Path, picture: Path) -> dict[str, float]:
    """From the command's start to its end, and its training as it tells it."""
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
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT).stdout)
    whole, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"command": whole, "command, processor": worked, "command, training": told["seconds"]["training"]}


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
