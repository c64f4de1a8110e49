"""The page in a real browser: from a picture to the thing on the moon, on wide and narrow screens, light and dark."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

from sentinv.models.built_in import TOYBOX
from sentinv.models.loading import load

pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'sentinv[ui]'")
playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install 'sentinv[browser]'")

ROOT = Path(__file__).parents[1]
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
AXE = ROOT / ".cache" / "axe-core" / "package" / "axe.min.js"
ENOUGH = 60_000
playwright.expect.set_options(timeout=ENOUGH)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]


class Served:
    """A page that runs for the tests of this file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said = folder, folder.parent / "stderr.txt"
        command = [sys.executable, "-m", "sentinv", "ui", "--folder", str(folder), "--port", "0", "--json"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=self.said.open("w"),
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        told = ""
        while "}" not in told:
            line = self.process.stdout.readline()
            assert line, self.said.read_text()
            told += line
        self.address = json.loads(told)["address"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    page = Served(tmp_path_factory.mktemp("page") / "words")
    yield page
    page.process.send_signal(signal.SIGINT)
    assert page.process.wait(60) == 130
    assert page.said.read_text().splitlines()[-1] == "sentinv: stopped"
    assert not (page.folder / ".uploads").exists()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


class Visit:
    """A visitor with a screen, who notices what goes wrong behind the page."""

    def __init__(self, browser, served, width, scheme, **options):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True, **options
        )
        self.page, self.served, self.errors, self.foreign = self.context.new_page(), served, [], []
        self.page.set_default_timeout(ENOUGH)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: said.type == "error" and self.errors.append(said.text))
        self.page.on("request", lambda one: self._judge(one.url))
        self.page.goto(served.address)
        self.page.locator("#learn-drop input[type=file]").wait_for(state="attached")

    def _judge(self, url):
        if not url.startswith((self.served.address, "data:", "blob:")):
            self.foreign.append(url)

    def drop(self, where, *files):
        self.page.locator(f"#{where} input[type=file]").set_input_files(list(files))

    def tab(self, name):
        self.page.get_by_role("tab", name=name).click()

    def field(self, name):
        return self.page.locator(f"#{name} textarea, #{name} input").first

    def serious(self):
        """What axe-core finds wrong, serious or worse."""
        if not AXE.exists():
            pytest.skip("no axe-core in .cache/axe-core: npm pack axe-core there")
        if not self.page.evaluate("Boolean(window.axe)"):
            self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        return [
            f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found if one["impact"] in ("serious", "critical")
        ]

    def narrow_enough(self):
        """Whether nothing is wider than the screen."""
        return self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    def close(self):
        self.context.close()
        assert not self.foreign
        assert not self.errors


@pytest.fixture
def visit(browser, served):
    visits = []

    def arrive(width=1280, scheme="light", **options):
        visits.append(Visit(browser, served, width, scheme, **options))
        return visits[-1]

    yield arrive
    for one in visits:
        one.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_from_a_picture_to_the_thing_on_the_moon(visit, served, width, scheme, tmp_path):
    one = visit(width, scheme)
    page = one.page
    one.drop("learn-drop", ROOT / "examples" / "cat.png")
    playwright.expect(one.field("learn-text")).to_have_value("a cat on the grass")
    playwright.expect(page.locator("#learn-words .vectors")).to_contain_text("5 vectors")
    page.locator("#learn-sketch img").nth(1).wait_for()
    for word in ("grass", "the", "on"):
        page.get_by_role("button", name=f"Leave out {word}").click()
    playwright.expect(one.field("learn-text")).to_have_value("a cat")
    playwright.expect(page.locator("#learn-words .vectors")).to_contain_text("2 vectors")
    page.locator("#learn-options button").first.click()
    steps = page.locator("#learn-options input[type=number]").first
    steps.wait_for()
    page.wait_for_timeout(500)  # until the fold has opened
    steps.fill("10")
    steps.press("Tab")
    page.wait_for_timeout(500)
    page.locator("#learn-button").click()
    playwright.expect(page.locator("#learn-button")).to_be_hidden()
    page.locator("#learn-use").wait_for()
    assert page.locator("#learn-progress .strip img").count() >= 2

    with page.expect_download() as download:
        page.get_by_role("link", name="Download the word").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert_diffusers_loads(file)

    page.locator("#learn-use").click()
    token = f"<{file.stem}>"
    playwright.expect(one.field("draw-prompt")).to_have_value(f"a photo of {token} on the moon")
    count = page.locator("#draw-count input[type=number]")
    count.fill("1")
    count.press("Tab")
    page.locator("#draw-button").click()
    page.locator("#draw-gallery img").wait_for()
    page.locator("#draw-more").click()
    page.locator("#draw-gallery img[alt='Picture with seed 1']").wait_for()
    assert one.field("draw-seed").input_value() == "1"
    page.get_by_role("button", name="This seed again").click()
    page.locator("#draw-gallery img[alt='Picture with seed 1']").wait_for()
    with page.expect_download() as download:
        page.locator("#draw-gallery a[download]").click()
    download.value.save_as(tmp_path / "picture.png")
    assert Image.open(tmp_path / "picture.png").size == (load(TOYBOX).resolution,) * 2

    one.tab("Edit")
    one.drop("edit-drop", ROOT / "examples" / "cat.png")
    playwright.expect(one.field("edit-prompt")).to_have_value("a photo of a cat on the grass")
    page.locator("#edit-button").click()
    playwright.expect(page.locator(".toast-body")).to_contain_text("change a word")
    one.field("edit-prompt").fill("a photo of a cat in the snow")
    page.locator("#edit-button").click()
    page.locator("#edit-result .compare").wait_for()
    playwright.expect(page.locator("#edit-state")).to_contain_text("The picture comes back")
    one.tab("Library")
    playwright.expect(page.locator("#library-cards")).to_contain_text(token)
    page.get_by_role("button", name=f"Choose {token}", exact=True).click()
    page.locator(".card.chosen").wait_for()
    page.locator("#library-export button").first.click()
    page.locator("#library-program input").click()
    page.get_by_role("option", name="diffusers").click()
    page.locator("#library-make").click()
    with page.expect_download() as download:
        page.locator("#library-files a[download]").click()
    download.value.save_as(tmp_path / "exported.safetensors")
    assert_diffusers_loads(tmp_path / "exported.safetensors", token)
    assert one.narrow_enough()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_every_tab_can_be_read_and_used_by_everybody(visit, width, scheme):
    one = visit(width, scheme, bypass_csp=True)
    assert one.serious() == []
    one.page.locator("[data-press='#example-1']").click()
    one.field("learn-text").wait_for()
    for name in ("#learn-options", "#learn-mask", "#model"):
        one.page.locator(f"{name} button").first.click()
    one.page.wait_for_timeout(400)
    assert one.serious() == []
    for name in ("Draw", "Edit", "Library"):
        one.tab(name)
        one.page.wait_for_timeout(400)
        assert one.serious() == []
        assert one.narrow_enough()


def test_the_keyboard_is_enough(visit):
    one = visit()
    one.page.get_by_role("tab", name="Learn").focus()
    one.page.keyboard.press("Tab")
    reached = set()
    for _ in range(30):
        reached.add(one.page.evaluate("document.activeElement.innerText || document.activeElement.ariaLabel"))
        one.page.keyboard.press("Tab")
    assert any("Drop a picture" in (text or "") for text in reached)
    assert "fox" in reached


@pytest.mark.parametrize("kind", ["no picture", "huge", "empty", "climbing"])
def test_a_bad_upload_is_one_sentence_and_the_page_lives_on(visit, served, kind):
    one = visit()
    name, content, told = {
        "no picture": ("notes.png", b"these are notes", "not a picture"),
        "huge": ("huge.png", huge(), "too large"),
        "empty": ("empty.png", b"", "empty"),
        "climbing": ("../../climbing.png", b"GIF89a..", "a GIF picture"),
    }[kind]
    one.drop("learn-drop", {"name": name, "mimeType": "image/png", "buffer": content})
    said = one.page.locator(".toast-body.error, .toast-wrap").first
    playwright.expect(said).to_contain_text(told)
    assert "Traceback" not in said.inner_text() and str(served.folder) not in said.inner_text()
    assert {path.name for path in served.folder.parent.iterdir()} <= {"words", "stderr.txt"}
    buffer = io.BytesIO()
    Image.open(ROOT / "examples" / "cat.png").save(buffer, "PNG")
    one.drop("learn-drop", {"name": "good.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
    playwright.expect(one.field("learn-text")).to_have_value("a cat on the grass")


def test_a_browser_that_closes_does_not_lose_the_run(visit, served):
    one = visit()
    one.page.locator("[data-press='#example-2']").click()
    one.page.locator("#learn-sketch img").first.wait_for()
    one.field("learn-name").fill("kept")
    one.page.locator("#learn-button").click()
    playwright.expect(one.page.locator("#learn-state")).to_contain_text("Step ")
    one.page.close()
    other = visit()
    playwright.expect(other.page.locator("#learn-state")).to_contain_text("kept")
    other.page.locator("#learn-stop").click()
    other.page.locator("#learn-use").wait_for()
    assert (served.folder / "kept.safetensors").is_file()
    assert (served.folder / "kept-run" / "report.html").is_file()


def huge():
    """A PNG whose head says 30,000 × 30,000 pixels."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    side = (30_000).to_bytes(4, "big")
    head = chunk(b"IHDR", side + side + b"\x08\x02\0\0\0")
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def assert_diffusers_loads(file, token=None):
    from diffusers import StableDiffusionPipeline

    from sentinv.models.built_in import built_in

    pipeline = StableDiffusionPipeline.from_pretrained(built_in("pipeline"))
    pipeline.load_textual_inversion(file)
    assert (token or f"<{file.stem}>") in pipeline.tokenizer.get_vocab()
