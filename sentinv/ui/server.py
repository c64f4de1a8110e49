"""Serves the page: to this machine, from one folder, without a network of its own."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from sentinv.concepts.export import PROGRAMS
from sentinv.errors import SentinvError
from sentinv.files.atomic import make_folder
from sentinv.files.locks import lock
from sentinv.ui.folder import EXPORTS, Folder
from sentinv.ui.guard import Guard

if TYPE_CHECKING:
    from sentinv.models.names import Place
    from sentinv.ui.desk import Desk

_REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox allow-downloads"


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What is served, and where.

    Attributes:
        folder: that words, pictures and reports go to.
        place: the model that the page begins with, and where models run.
        host: address to listen at.
        port: 0 for any that is free.
    """

    folder: Path
    place: Place
    host: str = "127.0.0.1"
    port: int = 7860


def stay_offline(cache: Path) -> None:
    """Keep the libraries behind the page off the network, and in the folder; to be called before they are imported."""
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(cache),
        "GRADIO_SSR_MODE": "False",
        "GRADIO_RUN_HISTORY": "False",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MPLCONFIGDIR": str(cache),
    }


def serve(serving: Serving, ready: Callable[[str], None]) -> None:
    """Serve until somebody stops it; then words that are being learned are saved as they are.

    Args:
        serving: what, and where.
        ready: called with the page's address when it answers.

    Raises:
        SentinvError: If the folder or the port cannot be used, or the page's framework is not installed.
        KeyboardInterrupt: After Ctrl-C, when everything is saved.
    """
    folder = Folder(serving.folder)
    with lock(folder.path / ".page"):
        shutil.rmtree(folder.cache, ignore_errors=True)
        make_folder(folder.cache)
        stay_offline(folder.cache)
        try:
            _serve(serving, folder, ready)
        finally:
            shutil.rmtree(folder.cache, ignore_errors=True)


def _serve(serving: Serving, folder: Folder, ready: Callable[[str], None]) -> None:
    listening = _listening(serving.host, serving.port)
    port = listening.getsockname()[1]
    try:
        from sentinv.ui.desk import Desk
        from sentinv.ui.engine import Engine
    except ImportError as error:
        raise SentinvError("the page needs Gradio, which is not installed: pip install 'sentinv[ui]'") from error
    _quieten()
    desk = Desk.of(folder, Engine(serving.place, folder.path))
    desk.engine.checked(serving.place.model)
    app = Guard(application(desk), serving.host, port, folder.cache)
    Thread(target=desk.engine.warm, daemon=True).start()
    shown = "localhost" if serving.host in ("0.0.0.0", "::", "") else serving.host  # noqa: S104 - compared, not bound
    address = f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
    try:
        _server(app, lambda: ready(address)).run(sockets=[listening])
    finally:
        desk.learning.close()


def _quieten() -> None:
    """Keep the bars and remarks of the libraries off the terminal."""
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    for library in (diffusers, transformers):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _listening(host: str, port: int) -> socket.socket:
    """A socket at an address; whoever cannot have it learns it before anything is loaded."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(found[0], socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found[4])
    except OSError as error:
        raise SentinvError(f"cannot listen at {host}, port {port}: {error.strerror}; choose another --port") from error
    return listening


def _server(app: Any, ready: Callable[[], None]) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    config = uvicorn.Config(
        app,
        log_level="critical",
        access_log=False,
        lifespan="on",
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    return Server(config)


def application(desk: Desk) -> Any:
    """The page and the files of the folder, without the guard in front of them."""
    import gradio as gr
    from fastapi import FastAPI
    from fastapi.responses import FileResponse, PlainTextResponse

    from sentinv.ui.page import build, css, head, theme

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/kept/{path:path}")
    def kept(path: str) -> Any:
        try:
            file = desk.folder.served(*_servable(path))
        except SentinvError:
            return PlainTextResponse("There is nothing here.", 404)
        if file.suffix == ".html":
            return FileResponse(file, headers={"content-security-policy": _REPORT_POLICY})
        return FileResponse(file, filename=file.name)

    return gr.mount_gradio_app(
        app,
        build(desk),
        path="",
        server_name="127.0.0.1",
        footer_links=[],
        show_error=False,
        max_file_size="100mb",
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css=css(),
        head=head(),
    )


def _servable(path: str) -> list[str]:
    """The parts of a path, if they are those of a word, an export of one, a picture or a report.

    Raises:
        SentinvError: If they are not.
    """
    parts = path.split("/")
    word = len(parts) == 1 and parts[0].endswith(".safetensors")
    picture = len(parts) == 2 and parts[0] == "pictures" and parts[1].endswith(".png")
    report = len(parts) == 2 and parts[0].endswith("-run") and parts[1] == "report.html"
    export = len(parts) == 3 and parts[0] == EXPORTS and parts[1] in PROGRAMS and parts[2].endswith(".safetensors")
    if not (word or picture or report or export):
        raise SentinvError("there is no such file in the folder")
    return parts
