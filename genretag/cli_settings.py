"""Settings from the environment and a TOML file, after the flags; an unknown key is an error with a suggestion."""

import difflib
import os
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cyclopts import App
from cyclopts.argument import ArgumentCollection
from cyclopts.config import Env, Toml

from genretag.errors import UsageError, one_line

PREFIX = "GENRETAG_"


def settings_sources(app: App, file: Path | None) -> list[Callable[..., Any]]:
    """The sources that come after the flags, in order: `GENRETAG_<COMMAND>_<SETTING>`, then the TOML file.

    Raises `UsageError` for a file that is missing, not TOML, or has a table that is no command.
    """
    sources: list[Callable[..., Any]] = [_refuse_unknown_variables, Env(PREFIX)]
    if file is not None:
        _check_file(file, [name for name in app if not name.startswith("-")])
        sources.append(Toml(file, must_exist=True))
    return sources


def _check_file(file: Path, commands: list[str]) -> None:
    try:
        tables = tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the settings file {file}: {one_line(error)}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the settings file {file} is not TOML: {one_line(error)}") from error
    for name in tables:
        if name not in commands:
            raise UsageError(f"unknown table [{one_line(name)}] in {file}{_nearest(name, commands)}")


def _refuse_unknown_variables(_app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    if not commands:
        return
    prefix = PREFIX + "_".join(command.upper() for command in commands) + "_"
    known = {
        prefix + name.lstrip("-").upper().replace("-", "_").replace(".", "_")
        for argument in arguments
        for name in argument.names
    }
    for variable in os.environ:
        if variable.startswith(prefix) and variable not in known:
            raise UsageError(f"unknown setting {variable} in the environment{_nearest(variable, known)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean {close[0]}?" if close else f": known are {', '.join(sorted(known))}"
