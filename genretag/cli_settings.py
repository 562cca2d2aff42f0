"""Settings from the environment, a TOML file and a recipe, after the flags; an unknown key is an error that helps."""

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cyclopts import App
from cyclopts.argument import ArgumentCollection
from cyclopts.config import Dict, Env, Toml

from genretag.errors import UsageError, one_line
from genretag.training.recipes import recipe

PREFIX = "GENRETAG_"
RECIPE_SOURCE = "recipe "
SERVICE = re.compile(r"(.+)_SERVICE_HOST")
LINK = re.compile(r"(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


def settings_sources(app: App, file: Path | None) -> list[Callable[..., Any]]:
    """The sources that come after the flags, in order: `GENRETAG_<COMMAND>_<SETTING>`, the TOML file, the recipe.

    Raises `UsageError` for a file that is missing, not TOML, or has a table that is no command.
    """
    sources: list[Callable[..., Any]] = [_refuse_unknown_variables, Env(PREFIX)]
    if file is not None:
        _check_file(file, [name for name in app if not name.startswith("-")])
        sources.append(Toml(file, must_exist=True))
    return [*sources, _fill_from_recipe]


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
    made_by_kubernetes = service_links(os.environ)
    for variable in os.environ:
        if variable.startswith(prefix) and variable not in known and variable not in made_by_kubernetes:
            raise UsageError(f"unknown setting {variable} in the environment{_nearest(variable, known)}")


def service_links(environment: Mapping[str, str]) -> frozenset[str]:
    """Return the variables by which Kubernetes tells a pod of the services in its namespace; they are no settings.

    A service `genretag-tag` makes GENRETAG_TAG_SERVICE_HOST, GENRETAG_TAG_SERVICE_PORT, GENRETAG_TAG_PORT and more:
    Kubernetes documentation, "Service", section "Environment variables". Only names that belong to a
    `..._SERVICE_HOST` count, so that a misspelt setting is still an error.
    """
    services = [found[1] for name in environment if (found := SERVICE.fullmatch(name))]
    return frozenset(
        name
        for name in environment
        for service in services
        if name.startswith(f"{service}_") and LINK.fullmatch(name.removeprefix(f"{service}_"))
    )


def _fill_from_recipe(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """What the sources before this one left unset; the recipe's own name comes from one of them."""
    named = arguments.get("--recipe", None)
    if named is not None and named.tokens:
        name = named.tokens[-1].value
        Dict({commands[0]: recipe(name)}, source=f"{RECIPE_SOURCE}{name}")(app, commands, arguments)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean {close[0]}?" if close else f": known are {', '.join(sorted(known))}"
