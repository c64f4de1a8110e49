"""Who may ask the page for what: this machine's own page, for the few things that it needs.

A page in a browser can be reached by every other page that is open there. So the name that the browser thinks it talks to is
checked (another one is DNS rebinding), and where the request comes from (another page is a cross-site request). What the page
doesn't use of its framework, such as fetching from the web for a visitor, isn't there.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_JSON = 2_000_000
MAX_UPLOAD = 105_000_000  # a picture of 100 MB, and what goes around it
MAX_CACHE = 1_000_000_000
_AT_ONCE = 64
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_GET = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/gradio_api/(startup-events|app_id|queue/data|theme\.css"
    r"|upload_progress|heartbeat/[\w-]{1,64})|/(assets|static)/[\w./-]{1,200}|/kept/[\w./-]{1,200}"
)
_POST = {"/gradio_api/queue/join": MAX_JSON, "/gradio_api/cancel": MAX_JSON, "/gradio_api/upload": MAX_UPLOAD}

_HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """An ASGI application in front of another.

    Args:
        app: behind it.
        host: that the page is served at; "0.0.0.0" and "::" are every address of this machine.
        port: likewise.
        cache: where uploads lie; it may grow to `MAX_CACHE`.
    """

    def __init__(self, app: App, host: str, port: int, cache: Path) -> None:
        self.app, self.port, self.cache = app, port, cache
        self.anywhere = host in ("0.0.0.0", "::", "")  # noqa: S104 - compared, not bound
        self.names = {*_LOOPBACK, host.lower()} | ({socket.gethostname().lower()} if self.anywhere else set())
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        if refusal:
            await _answer(send, *refusal)
            return
        self._open += 1
        try:
            await self._handed_on(scope, receive, send)
        finally:
            self._open -= 1

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and words, where a request is refused by its head."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path, method = scope["path"], scope["method"]
        if not self.is_own(headers.get("host", "")):
            return 421, "This page answers to its own address only."
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if origin is not None and not self._is_own_origin(origin, headers["host"]):
            return 403, "This page answers to itself only."
        arriving = path == "/" and method == "GET" and headers.get("sec-fetch-mode", "navigate") == "navigate"
        if site not in ("same-origin", "none") and not arriving:
            return 403, "This page answers to itself only."
        if ".." in path or "\\" in path or "\0" in path or "//" in path:
            return 404, "There is nothing here."
        known = _GET.fullmatch(path) if method in ("GET", "HEAD") else path in _POST if method == "POST" else None
        if not known:
            return 404, "There is nothing here."
        if self._open >= _AT_ONCE:
            return 503, "Too many requests at once."
        if method == "POST" and origin is None and site == "none" and "sec-fetch-site" in headers:
            return 403, "This page answers to itself only."
        return self._size_refusal(path, headers) if method == "POST" else None

    def _size_refusal(self, path: str, headers: MutableMapping[str, str]) -> tuple[int, str] | None:
        length = headers.get("content-length", "0")
        if not re.fullmatch(r"\d{1,12}", length) or int(length) > _POST[path]:
            return 413, f"Expected at most {_POST[path] // 1_000_000} MB."
        if path.endswith("/upload"):
            used = sum(file.stat().st_size for file in self.cache.rglob("*") if file.is_file())
            if used + int(length) > MAX_CACHE:
                return 507, "The page holds too many pictures: close it and open it again."
        return None

    def is_own(self, host: str) -> bool:
        """Whether a Host header names this page. Numbers can't be rebound, names can."""
        match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[\w.-]+)(?::(\d{1,5}))?", host.lower())
        if not match or int(match[2] or 80) != self.port:
            return False
        name = match[1].strip("[]")
        return name in self.names or (self.anywhere and _is_number(name))

    def _is_own_origin(self, origin: str, host: str) -> bool:
        scheme, _, rest = origin.partition("://")
        return scheme == "http" and rest.lower() == host.lower()

    async def _handed_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["method"] == "POST" and not path.endswith("/upload"):
            body = await _whole(receive, _POST[path])
            if body is None or not _is_plain(body):
                await _answer(send, 400, "This is no request that the page makes.")
                return
            await self.app(scope, _replayed(body, receive), _with_headers(send))
        elif scope["method"] == "POST":
            await self.app(scope, _limited(receive, _POST[path]), _with_headers(send))
        else:
            await self.app(scope, receive, _with_headers(send))


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_plain(body: bytes) -> bool:
    """Whether a body is JSON, of little depth, in which no file is one of the web."""
    try:
        return _is_local(json.loads(body), 0)
    except (ValueError, RecursionError):
        return False


def _is_local(value: Any, depth: int) -> bool:
    if depth > 20:
        return False
    if isinstance(value, dict):
        remote = any(
            isinstance(value.get(key), str) and re.match(r"\s*[a-z+.-]+:", value[key], re.I) for key in ("path", "url")
        )
        own = isinstance(value.get("url"), str) and re.match(r"http://[\w.:\[\]-]+/gradio_api/file=", value["url"])
        if remote and not (own and not re.match(r"\s*[a-z+.-]+:", str(value.get("path")), re.I)):
            return False
        return all(_is_local(one, depth + 1) for one in value.values())
    return all(_is_local(one, depth + 1) for one in value) if isinstance(value, list) else True


async def _whole(receive: Receive, limit: int) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > limit or message["type"] != "http.request":
            return None
        if not message.get("more_body"):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _limited(receive: Receive, limit: int) -> Receive:
    got = 0

    async def limited() -> Message:
        nonlocal got
        message = await receive()
        got += len(message.get("body", b""))
        return message if got <= limit else {"type": "http.disconnect"}

    return limited


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message.get("headers", []) if not pair[0].lower().startswith(b"access-control-")]
            message["headers"] = [*kept, *((name.encode(), value.encode()) for name, value in _HEADERS.items())]
        await send(message)

    return sent


async def _answer(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
