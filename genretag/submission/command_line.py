"""What a submitted job runs: the command with all settings that flags, environment and file come to here."""

import hashlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cyclopts import UNSET, App, Argument, ArgumentCollection

from genretag.cli_settings import RECIPE_SOURCE
from genretag.errors import UsageError, quoted

COMMANDS = ("tag", "train", "evaluate", "compact", "retag", "bench")
RUN = ("python", "-m", "genretag")  # of the cluster's nodes
PLACES = ("--images", "--output", "--model", "--labels", "--bundle", "--against", "--checkpoints", "--cache", "--json")
NO_PLACES = ("memory", "none")  # values of --cache
VALUE_OPTIONS = ("--address", "--submission-id", "--env", "--config")  # of `submit`, which take the next word
OWN_OPTIONS = ("--wait", "--dry-run", "--submission-id", "--env")


@dataclass(frozen=True)
class CommandLine:
    """A command with its settings, and the night that it is of."""

    words: tuple[str, ...]
    night: str

    @property
    def entrypoint(self) -> str:
        """What the cluster's shell gets."""
        return shlex.join([*RUN, *self.words])

    @property
    def submission_id(self) -> str:
        """The same for the same command and night."""
        digest = hashlib.sha256("\0".join(self.words).encode()).hexdigest()[:8]
        return f"genretag-{self.words[0]}-{self.night}-{digest}"


def separated(words: tuple[str, ...]) -> tuple[str, ...]:
    """`submit`'s own words, `--`, and the command with its words: what comes after the command is the command's."""
    for number, word in enumerate(words):
        if word == "--":
            break
        if word in COMMANDS and words[number - 1] not in VALUE_OPTIONS:
            return (*words[:number], "--", *words[number:])
    return words


def command_line(app: App, words: tuple[str, ...]) -> CommandLine:
    """Reads a command as it would be read here, checks all its settings, and writes it out for the cluster.

    `app` has its sources of settings already. Raises `UsageError` for a command that is none, or that names a place
    which the cluster cannot see.
    """
    if not words or words[0] not in COMMANDS:
        given = f", not {quoted(words[0])}" if words else ""
        raise UsageError(f"name what to run{given}: genretag submit [options] {'|'.join(COMMANDS)} ...")
    for word in words[1:]:
        if word in OWN_OPTIONS and not (word == "--dry-run" and words[0] in ("compact", "retag")):
            raise UsageError(f"{word} is an option of submit: write it before {words[0]}")
    found: list[ArgumentCollection] = []
    app.config = (*app.config, lambda _app, _commands, arguments: found.append(arguments))
    app.parse_args(list(words), exit_on_error=False, print_error=False)
    arguments = [argument for argument in found[-1] if argument.tokens and not _is_of_recipe(argument)]
    for argument in arguments:
        _require_reachable(argument)
    night = _value(arguments, "--date") or f"{datetime.now(UTC):%Y-%m-%d}"
    written = [word for argument in arguments for word in _written(argument)]
    if words[0] == "tag" and not _value(arguments, "--date"):
        written.append(f"--date={night}")  # the night of its name, whenever it begins
    return CommandLine((words[0], *written), night)


def _is_of_recipe(argument: Argument) -> bool:
    """Whether a value came from a recipe, which the cluster will look up by its name again."""
    return all(token.source.startswith(RECIPE_SOURCE) for token in argument.tokens)


def _written(argument: Argument) -> Iterator[str]:
    if argument.name == "--address":
        return  # the job runs on the cluster that it is sent to
    for token in argument.tokens:
        if token.implicit_value is not UNSET:
            yield str(token.keyword)
        elif argument.index is not None and not token.value.startswith("-"):
            yield token.value
        else:
            yield f"{argument.name}={token.value}"


def _require_reachable(argument: Argument) -> None:
    for token in argument.tokens:
        if argument.name == "--address" and token.source == "cli":
            raise UsageError(
                "--address is the cluster's: write it before the command, genretag submit --address URL ..."
            )
        place = token.value
        if argument.name in PLACES and place not in NO_PLACES and "://" not in place and not place.startswith("/"):
            raise UsageError(
                f"{argument.name.lstrip('-')} {quoted(place)} is a path of this machine, which the cluster's nodes "
                "cannot see: name an s3:// place, or the absolute path of a folder that all nodes share"
            )


def _value(arguments: list[Argument], name: str) -> Any:
    return next((argument.tokens[-1].value for argument in arguments if argument.name == name), None)
