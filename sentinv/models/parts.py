"""How one part of a model is loaded: checked where it is built in, and every way in which it can fail as one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from sentinv.errors import ModelError, SentinvError
from sentinv.models.built_in import TOYBOX
from sentinv.models.network import why_out_of_reach, without_surroundings


def local_path(name: str | Path) -> Path:
    """What a name is as a path, with ``~`` for the home folder; one of an unknown user stays as it is."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def load_part(name: str, part: str, loader: Callable[[], Any], *, needs: str = "", otherwise: str = "") -> Any:
    """Load one part of a model; every way in which that can fail becomes one line.

    Args:
        name: of the model.
        part: what is loaded.
        loader: loads it.
        needs: what it takes from the hub although the model lies here; "" for nothing.
        otherwise: what else one can do where the hub is out of reach.

    Raises:
        ModelError: If it cannot be loaded. What a `SentinvError` says, and the end of memory, are passed on.
    """
    local = not needs and (name == TOYBOX or local_path(name).exists())
    if not local:
        _go_offline_if_unreachable()
    wanted = f"cannot load {name} without {needs}" if needs else f"cannot download {part} of {name}"
    advice = otherwise or ("go online once" if needs else "go online, or give a folder")
    try:
        return loader()
    except (SentinvError, MemoryError):
        raise
    except Exception as error:  # which errors there are depends on the libraries and on what is broken
        from sentinv.models.memory import is_out_of_memory

        if is_out_of_memory(error):
            raise
        offline = f"{wanted}: {_out_of_reach()}; {advice}"
        raise ModelError(_explained(error, name, part, offline, all_from_hub=not (local or needs))) from error


def _explained(error: Exception, name: str, part: str, offline: str, *, all_from_hub: bool) -> str:
    """Why a part could not be loaded, and what to do.

    Args:
        error: what its loader raised.
        name: of the model.
        part: what was loaded.
        offline: what to say where the hub is out of reach.
        all_from_hub: whether nothing of the model lies here.
    """
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    match error:
        case RepositoryNotFoundError():
            return f"no model named {name} on the hub, or it needs a login: check the spelling or log in"
        case RemoteEntryNotFoundError() | RevisionNotFoundError():
            return f"{name} on the hub has no {part}: expected a model in the layout of diffusers; name another"
        case OfflineModeIsEnabled() | LocalEntryNotFoundError() | HfHubHTTPError() | ConnectionError():
            return offline
    if all_from_hub and is_offline_mode():
        return offline
    for said, meant in _SAID.items():
        if found := re.search(said, str(error), re.DOTALL):
            return f"cannot load {part} of {name}: {found.expand(meant)}"
    why = one_line(error) or type(error).__name__
    return f"cannot load {part} of {name}: {why}; the model is incomplete or damaged"


_SAID = {
    r"does not appear to have a file named (\S+?)\.?(\s|$)": r"there is no \1 in its folder; get the model again",
    r"(\S+) expected shape torch.Size\((.*?)\), but got torch.Size\((.*?)\)": (
        r"\1 has the shape \3, where its config says \2; the two do not belong together"
    ),
    r"appear to be missing in the checkpoint|does not seem to contain a valid CLIP": (
        r"its text encoder is missing, or has names that are not known; the checkpoint is incomplete or of another layout"
    ),
}
"""What libraries say, with advice for programmers → what it means."""


@lru_cache(maxsize=1)
def _go_offline_if_unreachable() -> None:
    """Ask the hub once. Where it does not answer, load from the cache: the libraries would retry for minutes."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as error:  # which errors there are depends on the client that the hub's library uses
        _why[:] = [why_out_of_reach(error)]
        constants.HF_HUB_OFFLINE = True
        with without_surroundings():
            get_session()  # it is kept, and asks nobody from now on


_why: list[str] = []


def _out_of_reach() -> str:
    return f"the hub is out of reach ({_why[0]})" if any(_why) else "the hub is out of reach"


def one_line(error: BaseException) -> str:
    """What an error says, in a line."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:199] + "…"
