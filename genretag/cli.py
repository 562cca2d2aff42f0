"""The command `genretag`: read the settings, run one subcommand, and turn its errors into one line and an exit code.

Exit codes: 0 done; 1 failed, a retry may help; 2 a person must act; 3 another run holds the output's lock; 130
interrupted (Ctrl-C); 141 nobody reads the standard output any more (`| head`); 143 terminated (SIGTERM).

Flags override environment variables, and environment variables override the TOML file. The file overrides the recipe (a
named set of `train` settings). If a setting is unknown, the error names the nearest known setting, or all of them.
"""

import difflib
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from cyclopts.argument import ArgumentCollection
from cyclopts.config import Dict, Env, Toml

import genretag.cli_models  # noqa: F401 - the import adds its commands to `app`
from genretag.cli_commands import app
from genretag.commands.submit import separated
from genretag.errors import (
    EXIT_FAILED,
    EXIT_HELD,
    EXIT_INTERRUPTED,
    EXIT_NO_READER,
    EXIT_TERMINATED,
    EXIT_USAGE,
    JobError,
    OutputHeldError,
    UsageError,
    one_line,
)
from genretag.runtime import logs
from genretag.runtime.ending import leave, ray_until_the_end
from genretag.runtime.stopping import (
    Terminated,
    discard_output,
    end_on_sigterm,
    end_quietly,
    how_to_go_on,
    losing_no_signal,
)
from genretag.runtime.worker import have_a_home
from genretag.training.settings import RECIPE_SOURCE, recipe

PREFIX = "GENRETAG_"
SERVICE = re.compile(r"(.+)_SERVICE_HOST")
LINK = re.compile(r"(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


app.meta.suppress_keyboard_interrupt = False


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)], config: Path | None = None
) -> Any:
    """Read the settings file and run the command.

    Parameters
    ----------
    config
        A TOML file with one table per command, such as [tag]. Flags and GENRETAG_* variables override it.
    """
    app.config = settings_sources(app, config)
    return app(separated(tokens) if tokens[:1] == ("submit",) else tokens)


def run_and_exit(arguments: list[str] | None = None) -> None:
    """Run the command line `arguments` (None: the arguments of this process), and end this process."""
    code = 0
    try:
        main(arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
    except Exception:  # noqa: BLE001 - a bug: its traceback is shown
        code = EXIT_FAILED
        sys.excepthook(*sys.exc_info())
    leave(code)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line `arguments` (None: the arguments of this process).

    If the command fails, print one line and raise `SystemExit` with the exit code. If it succeeds, return.
    """
    with ray_until_the_end():
        _run(arguments)


def _run(arguments: list[str] | None) -> None:
    end_quietly()
    end_on_sigterm()
    have_a_home()
    try:
        with losing_no_signal():
            app.meta(arguments)
        sys.stdout.flush()  # here and not while Python ends, so that a closed pipe is noticed
    except BrokenPipeError:
        discard_output(sys.stdout.fileno())
        raise SystemExit(EXIT_NO_READER) from None
    except (CycloptsError, UsageError) as error:
        code, message = EXIT_USAGE, str(error)
    except JobError as error:
        code, message = EXIT_FAILED, str(error)
    except OutputHeldError as error:
        code, message = EXIT_HELD, str(error)
    except KeyboardInterrupt as stop:
        code = EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED
        message = f"stopped; {how_to_go_on(stop)}"
    else:
        return
    logs.tell(one_line(message, 2_000), code)
    raise SystemExit(code)


def settings_sources(app: App, file: Path | None) -> list[Callable[..., Any]]:
    """Return the sources of settings other than flags, the strongest first, for cyclopts' `app.config`.

    The sources are the variables `GENRETAG_<COMMAND>_<SETTING>`, the TOML file (None: no file) and the recipe of
    `train`. The first entry of the list is a check that refuses unknown variables. Raises `UsageError` if the file
    cannot be read, is not TOML, or has a table that is not a command.
    """
    sources: list[Callable[..., Any]] = [_refuse_unknown_variables, Env(PREFIX)]
    if file is not None:
        _check_file(file, [name for name in app if not name.startswith("-")])
        sources.append(Toml(file, must_exist=True))
    return [*sources, _fill_from_recipe]


def _check_file(file: Path, commands: list[str]) -> None:
    """Raise `UsageError` if the settings file cannot be read, is not TOML, or has a table of an unknown command."""
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
    """Raise `UsageError` if an environment variable has this command's prefix, but names none of its settings.

    The prefix is `GENRETAG_<COMMAND>_`. Variables that Kubernetes sets for services are ignored. Without a command, do
    nothing.
    """
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
    """Return the names of the variables that Kubernetes sets in a pod for services. These are no settings of genretag.

    A service `genretag-tag` makes GENRETAG_TAG_SERVICE_HOST, GENRETAG_TAG_SERVICE_PORT, GENRETAG_TAG_PORT and more. A
    name is returned only if `environment` has the `..._SERVICE_HOST` of the same service. So a misspelt setting is
    still an error. Source: Kubernetes documentation, "Service", section "Environment variables".
    """
    services = [found[1] for name in environment if (found := SERVICE.fullmatch(name))]
    return frozenset(
        name
        for name in environment
        for service in services
        if name.startswith(f"{service}_") and LINK.fullmatch(name.removeprefix(f"{service}_"))
    )


def _fill_from_recipe(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Use a recipe (a named set of `train` settings) for the settings that flags, environment and file do not set.

    The option `--recipe` names the recipe. If no flag, variable or file sets `--recipe`, change nothing.
    """
    named = arguments.get("--recipe", None)
    if named is not None and named.tokens:
        name = named.tokens[-1].value
        Dict({commands[0]: recipe(name)}, source=f"{RECIPE_SOURCE}{name}")(app, commands, arguments)


def _nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message: the known name most similar to `name`, or all `known` names if none is."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean {close[0]}?" if close else f": known are {', '.join(sorted(known))}"


if __name__ == "__main__":
    run_and_exit()
