"""R17: hostile requests to the page end in a refusal: no traceback, no file outside the folder, bounded memory.

    python benchmarks/reliability/visitors.py [--count 1000]

A page is started on a folder of its own, with files beside it that nobody may see or touch, and asked for them: by paths that
climb, by links, by names of uploads, by values of the wrong type and size, from foreign pages, by names that are rebound, and
by many at once. What it answers is read to the end.
"""

import argparse
import hashlib
import http.client
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from kit import report
from PIL import Image

CANARY = "the-canary-" + "0123456789abcdef" * 2
MEMORY = 4 * 2**30
STARTS, AT_ONCE = 180, 8


@dataclass
class Page:
    """A page that was started, and what it has answered.

    Attributes:
        root: with its folder in it, and what is not its own.
        port: where it listens.
        process: its own.
        statuses: how often which.
        wrong: answers that must not be.
    """

    root: Path
    port: int
    process: subprocess.Popen
    statuses: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def folder(self) -> Path:
        """What the page may read and write."""
        return self.root / "words"

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, limit: int = 8
    ) -> bytes:
        """Send one request, read the answer for some seconds, and judge it."""
        own = {"Host": f"127.0.0.1:{self.port}", "Content-Type": "application/json"}
        said, status = b"", "closed"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=limit)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in (own | {"Content-Length": str(len(body))} | (headers or {})).items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            status = answer.status
            until = time.monotonic() + limit
            while time.monotonic() < until and (part := answer.read1(65536)):
                said += part
                if b"process_completed" in part or b"close_stream" in part or len(said) > 20_000_000:
                    break
        except TimeoutError:
            status = "late" if status == "closed" else status
        except (OSError, http.client.HTTPException, UnicodeError, ValueError):
            pass
        connection.close()
        self.judge(method, path, status, said)
        return said

    def judge(self, method: str, path: str, status: int | str, said: bytes) -> None:
        """Whether an answer is one that must not be."""
        bad = [name for name in (b"Traceback (most", b"root:x:0", CANARY.encode(), b"site-packages") if name in said]
        with self.lock:
            self.statuses[status] += 1
            if bad or (isinstance(status, int) and status >= 500 and status not in (503, 507)):
                self.wrong.append(f"{method} {path[:120]} → {status}, {bad}: {said[:200]!r}")

    def event(self, number: int, data: object, limit: int = 8) -> bytes:
        """Do what a button of the page does, with any data."""
        session = f"hostile{random.getrandbits(40):x}"
        body = {"data": data, "fn_index": number, "session_hash": session, "trigger_id": None, "event_data": None}
        if b"event_id" not in self.ask("POST", "/gradio_api/queue/join", json.dumps(body).encode()):
            return b""
        return self.ask("GET", f"/gradio_api/queue/data?session_hash={session}", limit=limit)

    def memory(self) -> int:
        """The most that it has had, in bytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", text)[1]) * 1024

    def upload(self, name: str, content: bytes) -> str:
        """Upload a file as the page does; the path that it got, or what was said."""
        edge = "edgeofparts"
        head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode(
            errors="replace"
        )
        body = head + content + f"\r\n--{edge}--\r\n".encode()
        said = self.ask("POST", "/gradio_api/upload", body, {"Content-Type": f"multipart/form-data; boundary={edge}"})
        with suppress(ValueError, IndexError, TypeError, KeyError):
            return str(json.loads(said)[0])
        return said.decode(errors="replace")


def started(root: Path) -> Page:
    """Start a page on a folder in `root`, with canaries beside it."""
    for name in ("words", "home", "tmp", "elsewhere"):
        (root / name).mkdir()
    for place in (root / "canary.txt", root / "elsewhere" / "canary.safetensors", root / "elsewhere" / "canary.png"):
        place.write_text(CANARY)
    (root / "words" / "link.safetensors").symlink_to(root / "elsewhere" / "canary.safetensors")
    (root / "words" / "pictures").mkdir()
    (root / "words" / "pictures" / "link.png").symlink_to(root / "elsewhere" / "canary.png")
    (root / "words" / "secret-run").symlink_to(root / "elsewhere")
    environment = os.environ | {"HOME": str(root / "home"), "TMPDIR": str(root / "tmp"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sentinv", "ui", "--folder", str(root / "words"), "--port", "0", "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, cwd=root / "tmp"
    )
    said = ""
    while "}" not in said:
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the page did not start")
        said += line
    return Page(root, int(json.loads(said)["address"].rsplit(":", 1)[1]), process)


def snapshot(root: Path) -> dict[str, str]:
    """What lies beside the folder: path → digest and time."""
    return {
        str(path): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        for place in ("home", "tmp", "elsewhere", "canary.txt")
        for path in [root / place, *(root / place).rglob("*")]
        if path.is_file()
    }


def climbing(chance: random.Random, root: Path) -> str:
    """A path that leads out of the folder, in one of many spellings."""
    target = chance.choice(["etc/passwd", str(root / "canary.txt").lstrip("/"), "proc/self/environ"])
    ups = chance.choice(
        ["../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%5c", "....//", "..%252f", "%c0%ae%c0%ae/", "./../"]
    )
    start = chance.choice(
        ["/kept/", "/kept/pictures/", "/static/", "/assets/", "/gradio_api/file=", "/file=", "/", "/kept/a-run/"]
    )
    direct = chance.choice([f"{start}/{target}", f"{start}{quote('/' + target, safe='')}", f"{start}{ups * 8}{target}"])
    return chance.choice([direct, f"{start}{ups * 8}{target}%00.png", f"{start}{ups * chance.randint(1, 30)}{target}"])


OTHERS = [
    "/gradio_api/proxy=http://127.0.0.1:1/", "/gradio_api/file=http://127.0.0.1:1/x", "/gradio_api/run/predict", "/docs",
    "/gradio_api/call/x", "/gradio_api/info", "/gradio_api/openapi.json", "/monitoring", "/monitoring/summary", "/openapi.json",
    "/gradio_api/vibe-edit", "/gradio_api/vibe-code", "/gradio_api/deep_link", "/gradio_api/runs", "/login", "/token",
    "/gradio_api/custom_component/1/client/component/x.js", "/gradio_api/stream/a/b/1/playlist.m3u8", "/gradio_api/reset",
    "/svelte/../../x", "/kept/link.safetensors", "/kept/pictures/link.png", "/kept/secret-run/report.html", "/kept/.uploads/x",
]  # fmt: skip


def value(chance: random.Random, root: Path, depth: int = 0) -> object:
    """Anything that JSON can say, and a file that is not the visitor's."""
    file = chance.choice(
        ["/etc/passwd", str(root / "canary.txt"), "http://127.0.0.1:1/x.png", "../../canary.txt", "file:///etc/passwd"]
    )
    simple = [
        None, True, -1, 0, 1e308, -1e308, 2**80, float("nan"), float("inf"), "", "a" * 50_000, "<a>" * 500, "\0\ud7ff",
        "../../x",        "data:image/png;base64," + "A" * 3000, "toybox", "/etc", "a photo of <nobody>", "{}", "__class__",
        {"path": file, "meta": {"_type": "gradio.FileData"}}, {"path": file, "url": file, "orig_name": "../x"},
        [{"path": file, "meta": {"_type": "gradio.FileData"}}],
    ]  # fmt: skip
    if depth < 3 and chance.random() < 0.2:
        return chance.choice([[value(chance, root, depth + 1)] * 3, {"a": value(chance, root, depth + 1)}])
    return chance.choice(simple)


def bad_pictures() -> list[tuple[str, bytes]]:
    """Uploads that are no pictures of use."""
    header = b"\x89PNG\r\n\x1a\n"

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    side = (30_000).to_bytes(4, "big")
    bomb = (
        header
        + chunk(b"IHDR", side + side + b"\x08\x02\0\0\0")
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    return [
        ("empty.png", b""), ("../../up.png", buffer.getvalue()), ("a" * 400 + ".png", buffer.getvalue()), ("bomb.png", bomb),
        ("text.png", b"hello" * 1000), ("cut.png", buffer.getvalue()[:60]), ("\\..\\x.png", buffer.getvalue()),
        ("x.svg", b"<svg/>"),        ("x\r\nSet-Cookie: a=b.png", buffer.getvalue()), ("x.pt", b"\x80\x04."),
    ]  # fmt: skip


def one(page: Page, kind: int, chance: random.Random, events: list[tuple[int, int]]) -> None:
    """One hostile request, of one of nine kinds."""
    number, width = chance.choice(events)
    match kind:
        case 0 | 1:
            page.ask("GET", climbing(chance, page.root))
        case 2:
            page.ask(chance.choice(["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]), chance.choice(OTHERS), b"{}")
        case 3 | 4:
            page.event(number, [value(chance, page.root) for _ in range(width)])
        case 5:
            body = chance.choice([b"", b"{", b"[" * 100_000, b'{"data":' * 5000, b"\xff" * 1000, b"x" * 3_000_000])
            page.ask("POST", "/gradio_api/queue/join", body)
        case 6:
            host = chance.choice(
                ["evil.example", f"evil.example:{page.port}", "127.0.0.1:1", "", "localhost.evil.example", "a" * 5000]
            )
            page.ask("GET", "/config", headers={"Host": host})
        case 7:
            origin = chance.choice(
                ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost", "file://"]
            )
            headers = chance.choice(
                [{"Origin": origin}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}]
            )
            page.ask("POST", "/gradio_api/queue/join", b"{}", headers)
        case _:
            name, content = chance.choice(bad_pictures())
            path = page.upload(name, content)
            file = {"path": path, "meta": {"_type": "gradio.FileData"}}
            page.event(number, [[file] if chance.random() < 0.5 else file, *["toybox"] * (width - 1)])


def starts(page: Page, count: int) -> None:
    """Ask for many pictures and words at once: few are made, the others are told to wait or to come again."""
    config = json.loads(page.ask("GET", "/config"))
    wanted = [(one["id"], len(one["inputs"])) for one in config["dependencies"] if len(one["inputs"]) in (7, 12)]
    examples = {7: ["a photo of a cat", "toybox", 1, 0, 5, 0, ""]}
    with ThreadPoolExecutor(AT_ONCE * 3) as pool:
        for index in range(count):
            number, width = wanted[index % len(wanted)]
            data = examples.get(width, [[], "a cat", "", f"w{index}", "", "toybox", 10, "object", True, 0.02, 1, 0])
            pool.submit(page.event, number, data, 3)


def attack(count: int) -> tuple[Page, int, list[str], bool]:
    """Start a page, send it so many requests, and end it: what it answered, its memory, what was touched, whether it lived."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        page = started(root)
        try:
            config = json.loads(page.ask("GET", "/config", limit=60))
            events = [(one["id"], len(one["inputs"])) for one in config["dependencies"] if one["backend_fn"]]
            before = snapshot(root)
            at_once = min(STARTS, count // 5)
            with ThreadPoolExecutor(AT_ONCE) as pool:
                for index in range(count - at_once):
                    pool.submit(one, page, index % 9, random.Random(index), events)
            starts(page, at_once)
            lives = b"gradio" in page.ask("GET", "/", limit=60)
            memory = page.memory()
            after = snapshot(root)
            touched = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        finally:
            page.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                page.process.wait(60)
            page.process.kill()
        return page, memory, touched, lives


def main() -> None:
    """Send them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    count = parser.parse_args().count
    page, memory, touched, lives = attack(count)
    report(
        "visitors",
        f"{count} hostile requests: {len(page.wrong)} wrong answers, {len(touched)} files outside the folder touched, "
        f"at most {memory / 1e6:.0f} MB, the page {'lives on' if lives else 'is DEAD'}",
        statuses={str(status): number for status, number in sorted(page.statuses.items(), key=str)},
        wrong=page.wrong[:20],
        touched=touched[:20],
    )
    sys.exit(bool(page.wrong or touched or not lives or memory > MEMORY))


if __name__ == "__main__":
    main()
