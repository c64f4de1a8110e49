"""Settings from TOML files: flags win over the environment, that over the project's file, that over the user's.

A file holds options for every command at its top and for one command in a table of that name:

    model = "sd15"

    [invert]
    steps = 200
    max-vectors = 8

    [bench.convergence]
    steps = 50
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from sentinv.errors import SentinvError
from sentinv.files.atomic import shown

PROJECT_FILE = "sentinv.toml"


def user_file() -> Path | None:
    """Where a user's settings lie; None where there is no home, or it is closed, as in containers with another user."""
    try:
        base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        path = Path(base) / "sentinv" / "config.toml"
        path.stat()
    except (RuntimeError, PermissionError):
        return None
    except OSError:
        pass
    return path


def parameters(command: click.Command) -> dict[str, str]:
    """What a command's options are called on the command line ("lr") → what the program calls them ("learning_rate")."""
    return {
        name.removeprefix("--"): str(param.name)
        for param in command.params
        if isinstance(param, click.Option)
        for name in param.opts
        if name.startswith("--")
    }


def read_environment(prefix: str, command: click.Command) -> None:
    """Let the environment name an option as the command line does: SENTINV_INVERT_LR for `sentinv invert --lr`."""
    called = {parameter: name for name, parameter in parameters(command).items()}
    for param in command.params:
        if param.name in called and param.envvar is None:
            param.envvar = f"{prefix}_{called[param.name].upper().replace('-', '_')}"


def defaults_of(name: str, command: click.Command) -> dict[str, Any]:
    """Collect what the files say about the options of a command; for a group, of each command in it.

    Raises:
        SentinvError: If a file cannot be read or names something that does not exist.
    """
    if isinstance(command, click.Group):
        context = click.Context(command)
        found = {sub: command.get_command(context, sub) for sub in command.list_commands(context)}
        return {sub: defaults_of(f"{name}.{sub}", one) for sub, one in found.items() if one is not None}
    defaults: dict[str, Any] = {}
    for path in filter(None, (user_file(), Path(PROJECT_FILE))):
        defaults |= _of_file(path, name, command)
    return defaults


def _of_file(path: Path, name: str, command: click.Command) -> dict[str, Any]:
    from sentinv.cli.options import SHARED

    settings = _read(path)
    known = parameters(command)
    everywhere = {key: value for key, value in settings.items() if not isinstance(value, Mapping)}
    _check(path, "", everywhere, SHARED)
    own: Any = settings
    for part in name.split("."):
        own = own.get(part, {}) if isinstance(own, Mapping) else {}
    own = own if isinstance(own, Mapping) else {}
    _check(path, f" in [{name}]", own, list(known))
    several = {param.name for param in command.params if isinstance(param, click.Option) and param.multiple}
    values = {known[_setting(key)]: value for key, value in {**everywhere, **own}.items() if _setting(key) in known}
    return {
        name: [value] if name in several and not isinstance(value, list) else value for name, value in values.items()
    }


def _read(path: Path) -> dict[str, Any]:
    from sentinv.cli.main import COMMANDS

    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise SentinvError(f"cannot read the settings in {shown(path)}: {error.strerror}; check the file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SentinvError(f"{shown(path)} is not valid TOML: {error}; correct it or remove the file") from error
    for key, value in settings.items():
        if isinstance(value, Mapping) and key not in COMMANDS:
            raise SentinvError(f"{shown(path)}: there is no command {key!r}; tables are {', '.join(COMMANDS)}")
    _check_studies(path, settings.get("bench", {}))
    return settings


def _check_studies(path: Path, bench: Any) -> None:
    """[bench] holds nothing but a table for each study."""
    from sentinv.cli.bench import STUDIES

    for key, value in bench.items() if isinstance(bench, Mapping) else ():
        if key not in STUDIES or not isinstance(value, Mapping):
            tables = ", ".join(f"[bench.{name}]" for name in STUDIES)
            raise SentinvError(f"{shown(path)}: there is no setting {key!r} in [bench]; its tables are {tables}")


def _check(path: Path, where: str, settings: Mapping[str, Any], known: list[str]) -> None:
    unknown = [key for key in settings if _setting(key) not in known]
    if unknown:
        names = ", ".join(known)
        raise SentinvError(f"{shown(path)}: there is no setting {unknown[0]!r}{where}; settings are {names}")


def _setting(key: str) -> str:
    return key.replace("_", "-")
