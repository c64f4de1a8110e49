"""How one part of a model is loaded: checked where it is built in, and every way in which it can fail as one line."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from sentinv.errors import ModelError
from sentinv.models.built_in import TOYBOX
from sentinv.models.network import why_out_of_reach


def local_path(name: str | Path) -> Path:
    """What a name is as a path, with ``~`` for the home folder; one of an unknown user stays as it is."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def load_part(name: str, part: str, loader: Callable[[], Any]) -> Any:
    """Load one part of a model; every way in which that can fail becomes one line."""
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    local = name == TOYBOX or local_path(name).exists()
    if not local:
        _go_offline_if_unreachable()
    try:
        return loader()
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"no model named {name} on the hub, or it needs a login: check the spelling or log in"
        ) from error
    except (RemoteEntryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(
            f"{name} on the hub has no {part}: expected a model in the layout of diffusers; name another"
        ) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        raise ModelError(f"cannot download {part} of {name}: {_out_of_reach()}; go online, or give a folder") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        if not local and is_offline_mode():
            raise ModelError(
                f"cannot download {part} of {name}: {_out_of_reach()}; go online, or give a folder"
            ) from error
        raise ModelError(
            f"cannot load {part} of {name}: {one_line(error)}; the model is incomplete or damaged"
        ) from error


@lru_cache(maxsize=1)
def _go_offline_if_unreachable() -> None:
    """Ask the hub once. Where it does not answer, load from the cache: the libraries would retry for minutes."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as error:  # which errors there are depends on the client that the hub's library uses
        _why[:] = [why_out_of_reach(error)]
        constants.HF_HUB_OFFLINE = True


_why: list[str] = []


def _out_of_reach() -> str:
    return f"the hub is out of reach ({_why[0]})" if any(_why) else "the hub is out of reach"


def one_line(error: BaseException) -> str:
    """What an error says, in a line."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:199] + "…"
