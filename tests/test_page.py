"""The page without a browser: who may ask it for what, the folder, the line, and words that are learned behind it."""

import asyncio
import io
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image

from sentinv.concepts.concept import Concept
from sentinv.errors import ModelError, SentinvError
from sentinv.files.decoding import Picture
from sentinv.models.built_in import TOYBOX
from sentinv.models.names import Place
from sentinv.training.config import TrainConfig

pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'sentinv[ui]'")

from sentinv.ui.desk import ASSETS, EXAMPLES
from sentinv.ui.drawing import Drawing, draw, words_of
from sentinv.ui.editing import Editing, Editor
from sentinv.ui.engine import Engine, Seen
from sentinv.ui.folder import Folder
from sentinv.ui.fragments import vectors
from sentinv.ui.guard import Guard
from sentinv.ui.learning import Learning, Wish, unforeseen
from sentinv.ui.line import LONGEST, Line

SHORT = TrainConfig(steps=3, batch_size=1, blended=0, evaluation_timesteps=1, evaluation_noises=1, checkpoint_every=25)


def picture():
    return Picture(image=Image.open("sentinv/ui/assets/cat.png").convert("RGB"))


def concept(token, **metadata):
    metadata = {f"sentinv.{name}": text for name, text in metadata.items()}
    return Concept(token=token, rows={"text_encoder": torch.ones(2, 64)}, base_model="toybox", metadata=metadata)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "words")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return Engine(Place(model=TOYBOX, device="cpu"), tmp_path_factory.mktemp("models"))


# The guard


async def everything(scope, receive, send):
    """An application that answers anything with what it was sent."""
    body = (await receive()).get("body", b"") if scope["method"] == "POST" else b""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"access-control-allow-origin", b"*")]})
    await send({"type": "http.response.body", "body": body})


def asked(guard, path="/", method="GET", body=b"", **headers):
    """Status and headers of what a guard answers."""
    told = {"host": "127.0.0.1:7860", "content-length": str(len(body))}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    pairs = [(name.encode(), value.encode()) for name, value in told.items() if value is not None]
    scope = {"type": "http", "path": path, "method": method, "headers": pairs}
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@pytest.fixture
def guard(tmp_path):
    return Guard(everything, "127.0.0.1", 7860, tmp_path)


def test_the_first_model_has_the_autoencoder_that_was_given(tmp_path):
    with pytest.raises(ModelError, match="expected --vae to be"):
        Engine(Place(model=TOYBOX, vae="nonsense", device="cpu"), tmp_path).backbone(TOYBOX)


def test_the_page_answers_to_its_own_name_only(guard):
    for host in ("127.0.0.1:7860", "localhost:7860", "[::1]:7860", "LOCALHOST:7860"):
        assert asked(guard, host=host)[0] == 200
    for host in ("evil.example:7860", "127.0.0.1", "127.0.0.1:80", "localhost.evil.example:7860", "", None, "a b:7860"):
        assert asked(guard, host=host)[0] == 421


def test_a_page_for_the_network_answers_to_numbers_and_not_to_names(tmp_path):
    guard = Guard(everything, "0.0.0.0", 7860, tmp_path)
    assert asked(guard, host="192.168.1.7:7860")[0] == 200
    assert asked(guard, host="evil.example:7860")[0] == 421


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:7860", "http://127.0.0.1:1", "http://localhost:7860"]
)
def test_another_pages_requests_are_refused(guard, origin):
    assert asked(guard, "/gradio_api/queue/join", "POST", b"{}", origin=origin)[0] == 403
    assert asked(guard, "/gradio_api/queue/join", "POST", b"{}", origin="http://127.0.0.1:7860")[0] == 200


def test_another_page_may_link_to_this_one_and_not_load_its_files(guard):
    assert asked(guard, "/", sec_fetch_site="cross-site", sec_fetch_mode="navigate")[0] == 200
    assert asked(guard, "/kept/cat.safetensors", sec_fetch_site="cross-site", sec_fetch_mode="no-cors")[0] == 403
    assert asked(guard, "/gradio_api/queue/join", "POST", b"{}", sec_fetch_site="same-site")[0] == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/proxy=http://example.org"),
        ("GET", "/kept/../x"),
        ("GET", "/gradio_api/info"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/"),
        ("DELETE", "/kept/cat.safetensors"),
        ("GET", "/monitoring"),
    ],
)
def test_what_the_page_does_not_need_is_not_there(guard, method, path):
    assert asked(guard, path, method)[0] == 404


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[" * 10_000,
        b'{"data": [{"path": "http://example.org/x.png"}]}',
        b'{"data": [[{"path": "x", "url": "https://example.org/x.png"}]]}',
        b'{"data": [{"path": "file:///etc/passwd"}]}',
    ],
)
def test_bodies_that_the_page_does_not_send_are_refused(guard, body):
    assert asked(guard, "/gradio_api/queue/join", "POST", body)[0] == 400


def test_large_bodies_are_refused_by_their_head_and_by_their_length(guard):
    assert asked(guard, "/gradio_api/queue/join", "POST", b"{}", content_length="9" * 10)[0] == 413
    assert asked(guard, "/gradio_api/queue/join", "POST", b" " * 3_000_000 + b"{}", content_length="2")[0] == 400
    assert asked(guard, "/gradio_api/upload", "POST", b"{}", content_length=str(10**9))[0] == 413


def test_no_other_page_may_read_what_is_answered(guard):
    status, headers = asked(guard, "/config")
    assert status == 200
    assert "access-control-allow-origin" not in headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


# The folder


def test_words_are_found_renamed_and_deleted(folder):
    concept("<cat>", initial_text="a cat").save(folder.path / "cat.safetensors")
    (folder.path / "other.safetensors").write_bytes(b"no word")
    (folder.path / "cat-run").mkdir()
    assert [(word.name, word.start) for word in folder.words()] == [("cat", "a cat")]
    assert folder.free_name("Cat!") == "cat-2"
    word = folder.rename("cat", "My Tom")
    assert (word.name, word.concept.token) == ("my-tom", "<my-tom>")
    assert [path.name for path in sorted(folder.path.iterdir())] == [
        "my-tom-run",
        "my-tom.safetensors",
        "other.safetensors",
    ]
    folder.delete("my-tom")
    assert [path.name for path in folder.path.iterdir()] == ["other.safetensors"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "", ".", "..", ".uploads", "a/b", "a\0b", "x" * 200, "link"])
def test_nothing_outside_the_folder_is_reached(folder, tmp_path, name):
    concept("<secret>").save(tmp_path / "secret.safetensors")
    (folder.path / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    assert folder.words() == []
    for work in (
        folder.word,
        folder.delete,
        lambda name: folder.rename(name, "mine"),
        lambda name: folder.served(f"{name}.safetensors"),
    ):
        with pytest.raises(SentinvError):
            work(name)
    assert (tmp_path / "secret.safetensors").exists()


def test_a_prompt_with_an_unknown_word_names_those_that_there_are(folder):
    concept("<cat>").save(folder.path / "cat.safetensors")
    assert [one.token for one in words_of("a photo of <cat> and <cat>", folder)] == ["<cat>"]
    with pytest.raises(SentinvError, match=r"no learned word <dog>.*<cat>"):
        words_of("a photo of <dog>", folder)


@pytest.mark.parametrize(
    "values", [{"count": 10**9}, {"seed": -1}, {"steps": 0}, {"guidance": 1e9}, {"prompt": " "}, {"prompt": "a" * 9999}]
)
def test_drawings_out_of_range_are_refused(values):
    with pytest.raises(SentinvError):
        Drawing(**{"prompt": "a cat", "model": TOYBOX} | values)


# The line


def test_everybody_gets_their_turn_in_the_order_of_coming():
    line, done = Line(), []

    def work(number):
        with line.join(f"job {number}") as turn:
            while not turn.ready(0.05):
                told.append(turn.told())
            done.append(number)

    told = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    with line.join("the first job"):
        for number, thread in enumerate(threads, start=2):
            thread.start()
            while len(line._turns) < number:
                time.sleep(0.01)
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert done == [0, 1, 2]
    assert any("the first job" in text and "1 more before you" in text for text in told)


def test_a_line_that_is_too_long_sends_away():
    line = Line()
    turns = [line.join("x") for _ in range(LONGEST)]
    for turn in turns:
        turn.__enter__()
    with pytest.raises(SentinvError, match="waiting"), line.join("y"):
        pass
    for turn in turns:
        turn.__exit__(None, None, None)


# Learning, drawing, editing


def wish(name, **values):
    config = values.pop("config", SHORT)
    return Wish(name=name, pictures=(picture(),), text="a cat", source="phrase", model=TOYBOX, config=config)


def wait(run):
    while not run.over:
        time.sleep(0.05)
    return run


def test_a_run_leaves_what_a_command_leaves(engine, folder):
    learning = Learning(engine, folder)
    run, second = learning.start(wish("cat")), learning.start(wish("dog"))
    assert not second.over
    assert wait(run).state == "done", run.told
    assert wait(second).state == "done", second.told
    names = {str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file()}
    assert {"cat.safetensors", "cat-run/report.html", "cat-run/metrics.jsonl"} <= names
    assert not any("checkpoint" in name or name.endswith(".lock") for name in names)
    assert Concept.load(folder.path / "cat.safetensors").token == "<cat>"
    assert run.previews[0][0] == 0
    assert learning.newest() is second
    assert run.seconds["training"] > 0 and run.seconds["pictures on the way"] > 0
    learning.forget("dog")  # it has another name by now
    assert learning.find("dog") is None and learning.newest() is run


def test_the_page_learns_what_the_command_learns(engine, folder):
    from sentinv.training.invert import invert

    wait(Learning(engine, folder).start(wish("cat")))
    learned = invert(engine.backbone(TOYBOX), [picture()], "a cat", SHORT, token="<cat>")
    rows = Concept.load(folder.path / "cat.safetensors").rows
    assert torch.equal(rows["text_encoder"], learned.rows["text_encoder"])


def test_stopping_keeps_what_is_learned(engine, folder):
    learning = Learning(engine, folder)
    run = learning.start(wish("cat", config=TrainConfig(steps=100_000, batch_size=1, blended=0, evaluate_every=10**6)))
    while run.step < 3:
        time.sleep(0.02)
    assert learning.close() == [run]
    assert run.state == "done"
    assert (folder.path / "cat.safetensors").exists()
    assert "on request" in (folder.path / "cat-run" / "report.html").read_text()


def test_a_run_that_fails_says_so_in_one_line(engine, folder):
    run = wait(Learning(engine, folder).start(wish("photo", config=TrainConfig(templates=("{} " * 200,)))))
    assert run.state == "failed"
    assert run.told.isprintable()
    assert not (folder.path / "photo.safetensors").exists()


def test_a_run_goes_on_without_the_pictures_that_memory_has_no_room_for(engine, folder, monkeypatch):
    def no_room(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("sentinv.ui.learning.drawn", no_room)
    run = wait(Learning(engine, folder).start(wish("cat")))
    assert (run.state, run.previews) == ("done", [])
    assert Concept.load(folder.path / "cat.safetensors").token == "<cat>"
    assert (folder.path / "cat-run" / "report.html").is_file()
    assert "Memory ended" in unforeseen(torch.OutOfMemoryError()) and "nobody foresaw" in unforeseen(KeyError())


def test_pictures_are_saved_as_they_are_made(engine, folder):
    made = list(draw(engine, folder, Drawing(prompt="a photo of a cat", model=TOYBOX, count=3, steps=1, seed=5)))
    assert [one.seed for one in made] == [5, 6, 7]
    assert all((folder.path / "pictures" / one.name).is_file() for one in made)


def test_one_inversion_serves_many_edits(engine, folder, monkeypatch):
    monkeypatch.setattr("sentinv.ui.editing._STEPS", 4)
    editor = Editor(engine, folder)
    own = picture()
    first = Editing(picture=own, source="a cat", prompt="a dog", model=TOYBOX, keep=0.5)
    assert not editor.known(first)
    changed = editor.change(first)
    assert editor.known(Editing(picture=picture(), source="a cat", prompt="a fox", model=TOYBOX, keep=0.2))
    assert "picture" in changed.verdict
    assert len(list((folder.path / "archives").iterdir())) == 1
    mask = Image.new("L", own.image.size)
    mask.paste(255, (0, 0, mask.width * 5 // 16, mask.height * 5 // 16))
    part = Editing(picture=own.with_mask(mask), source="a cat", prompt="a dog", model=TOYBOX, keep=0.2)
    after = editor.change(part).after
    side = changed.before.width
    corner = (side * 5 // 8, side * 5 // 8, side, side)
    assert after.crop(corner).tobytes() == changed.before.crop(corner).tobytes()


def test_models_are_chosen_from_a_list_only(engine):
    assert engine.models()[0] == TOYBOX
    for name in ("/etc", "someone/something", "../x", "sd15"):
        with pytest.raises(SentinvError, match="list"):
            engine.backbone(name)


def test_words_come_to_vectors_and_a_picture_to_words(engine):
    found = engine.plan("a cat on the beach", TOYBOX)
    assert found.tokens == ("a", "cat", "on", "the", "beach") and found.counts == (1,) * 5
    several = engine.plan("a zzqq cat", TOYBOX)  # a word of several vectors is left out as one
    assert len(several.tokens) == sum(several.counts) > 3 and len(several.counts) == 3
    assert vectors(several).count("data-without") == 3 and vectors(several).count("<span>") == len(several.tokens)
    seen = engine.seen([picture()], TOYBOX)
    assert "cat" in seen.caption
    assert seen.label == "cat" and seen.sure
    assert not Seen(caption="a fish on a wooden table", label="hat").sure
    assert Seen(caption="a red school bus", label="school bus").sure and not Seen(caption="a cat", label="").sure


# What the page is given by its visitors


needs_gradio = pytest.mark.skipif(
    find_spec("gradio") is None, reason="the page needs Gradio: pip install 'sentinv[ui]'"
)


def png(size, colour="white"):
    buffer = io.BytesIO()
    Image.new("L", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


@needs_gradio
def test_masks_are_those_that_are_painted_here():
    import base64

    from sentinv.ui.desk import painted

    own = picture()
    assert painted("", own) is own
    mask = painted("data:image/png;base64," + base64.b64encode(png((32, 32))).decode(), own).mask
    assert mask.size == own.image.size
    for address in (
        "http://example.org/x.png",
        "data:image/png;base64,???",
        "data:image/png;base64,AAAA",
        "x" * 5_000_000,
    ):
        with pytest.raises(SentinvError):
            painted(address, own)


@needs_gradio
def test_pictures_are_those_that_were_dropped_here(engine, folder, tmp_path):
    from sentinv.ui.desk import Desk

    desk = Desk.of(folder, engine)
    folder.cache.mkdir()
    (tmp_path / "secret.png").write_bytes(png((32, 32)))
    (folder.cache / "own.png").write_bytes(png((32, 32)))
    (folder.cache / "link.png").symlink_to(tmp_path / "secret.png")
    assert len(desk.pictures([str(folder.cache / "own.png")])) == 1
    for path in (tmp_path / "secret.png", folder.cache / "link.png", folder.cache / ".." / ".." / "secret.png"):
        with pytest.raises(SentinvError, match="dropped here"):
            desk.pictures([str(path)])


@needs_gradio
def test_words_in_angle_brackets_stay_in_what_is_told():
    import gradio as gr

    from sentinv.ui.desk import plainly

    with pytest.raises(gr.Error) as told, plainly():
        raise SentinvError("there is no learned word <dog>")
    assert told.value.message == "There is no learned word &lt;dog&gt;"


@needs_gradio
@pytest.mark.parametrize(
    "values",
    [(0,), (10**9,), ("x",), (10, "cat"), (10, "object", True, float("nan")), (10, "object", 1, 1, 99), (True,)],
)
def test_options_of_the_page_are_checked(values):
    from sentinv.ui.learn_tab import train_config

    defaults = (10, "object", True, 0.02, 4, 0)
    with pytest.raises(SentinvError):
        train_config(*values, *defaults[len(values) :])
    assert train_config(*defaults).steps == 10


def test_the_examples_are_pictures_of_the_project():
    root = Path(__file__).resolve().parent.parent
    places = (root / "examples").glob("*.png"), (root / "benchmarks" / "concepts").glob("*/image.png")
    own = {path.read_bytes() for place in places for path in place}
    assert all((ASSETS / name).read_bytes() in own for name in EXAMPLES)
