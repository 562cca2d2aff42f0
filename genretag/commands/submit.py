"""`genretag submit`: run a command on a Ray cluster once.

The submitted command line has all settings that come from flags, environment and file on this machine. A recipe (named
set of `train` settings) is submitted by its name, and the cluster reads its values.

The command and the date give the name of a job. If a job of that name runs or has succeeded, `submit` starts no other
job. If the job failed, `submit` starts another attempt. With `--wait`, `submit` follows the job until it ends.
"""

import hashlib
import logging
import os
import shlex
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from cyclopts import UNSET, App, Argument, ArgumentCollection

from genretag.errors import EXIT_TERMINATED, JobError, UsageError, one_line, quoted, redact
from genretag.runtime.job_server import JobServer
from genretag.runtime.stopping import going_on
from genretag.settings import Location, SubmitSettings
from genretag.training.settings import RECIPE_SOURCE

logger = logging.getLogger(__name__)

COMMANDS = ("tag", "train", "requantize", "calibrate", "evaluate", "compact", "retag", "bench")
RUN = ("python", "-m", "genretag")  # the Python of the cluster's nodes
NO_PLACES = ("memory", "none")  # values of --cache that are not paths
VALUE_OPTIONS = ("--address", "--submission-id", "--env", "--config")  # options of `submit` that take the next word
OWN_OPTIONS = ("--wait", "--dry-run", "--submission-id", "--env")


@dataclass(frozen=True)
class CommandLine:
    """A command with all its settings as words, and the date of the job (YYYY-MM-DD).

    If the command is `tag`, the date is also the date of its `dt` folders.
    """

    words: tuple[str, ...]
    night: str

    @property
    def entrypoint(self) -> str:
        """Return the command line for the cluster's shell."""
        return shlex.join([*RUN, *self.words])

    @property
    def submission_id(self) -> str:
        """Return the job's name on the cluster. The same command and date give the same name."""
        digest = hashlib.sha256("\0".join(self.words).encode()).hexdigest()[:8]
        return f"genretag-{self.words[0]}-{self.night}-{digest}"


def separated(words: tuple[str, ...]) -> tuple[str, ...]:
    """Insert `--` before the command among `words`, so that no word after the command belongs to `submit`.

    If there is no command, or `--` is there already, return the words unchanged.
    """
    for number, word in enumerate(words):
        if word == "--":
            break
        if word in COMMANDS and words[number - 1] not in VALUE_OPTIONS:
            return (*words[:number], "--", *words[number:])
    return words


def command_line(app: App, words: tuple[str, ...]) -> CommandLine:
    """Parse a command with this machine's settings, check it, and return it as a command line for the cluster.

    `app.config` must hold the sources of settings (environment, file, recipe). `words` are the command, its arguments
    and its options. If the command is `tag` without `--date`, add `--date`. Then `tag` uses the date in the job's name,
    even if the job begins on a later day.

    Raises `UsageError` if the first word is not a command, or if an option of `submit` stands after the command. Also
    raises `UsageError` if a setting is a relative local path, which the cluster's nodes cannot see.
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
        written.append(f"--date={night}")  # the date in the job's name, even if the job begins later
    return CommandLine((words[0], *written), night)


def _is_of_recipe(argument: Argument) -> bool:
    """Return True if a setting's value came from a recipe. The cluster gets only the recipe's name."""
    return all(token.source.startswith(RECIPE_SOURCE) for token in argument.tokens)


def _written(argument: Argument) -> Iterator[str]:
    """Yield the words that give a setting its value on the command line. `--address` gives no words."""
    if argument.name == "--address":
        return  # the job runs on the cluster that it is sent to
    for token in argument.tokens:
        if token.implicit_value is not UNSET:
            yield str(token.keyword)
        elif argument.index is not None and not token.value.startswith("-"):
            yield token.value
        else:
            yield f"{argument.name}={token.value}"


def _names_a_place(annotation: Any) -> bool:
    """Return True if a setting's type is a `Location` or a `Path`, alone, optional or in a list."""
    return annotation in (Location, Path) or any(map(_names_a_place, get_args(annotation)))


def _require_reachable(argument: Argument) -> None:
    """Raise `UsageError` if a setting names a relative path, or if `--address` stands after the command."""
    for token in argument.tokens:
        if argument.name == "--address" and token.source == "cli":
            raise UsageError(
                "--address is the cluster's: write it before the command, genretag submit --address URL ..."
            )
        place = token.value
        if (
            _names_a_place(argument.field_info.annotation)
            and place not in NO_PLACES
            and "://" not in place
            and not place.startswith("/")
        ):
            raise UsageError(
                f"{argument.name.lstrip('-')} {quoted(place)} is a path of this machine, which the cluster's nodes "
                "cannot see: name a place in a bucket, or the absolute path of a folder that all nodes share"
            )


def _value(arguments: list[Argument], name: str) -> Any:
    """Return the last value given for the setting `name`, or None if there is none."""
    return next((argument.tokens[-1].value for argument in arguments if argument.name == name), None)


STOP_WAIT = {"RAY_JOB_STOP_WAIT_TIME_S": "30"}  # so that a stopped job can release its lock; Ray's default is 3 s
UNDER_WAY = ("PENDING", "RUNNING")
ATTEMPTS_AT_MOST = 1_000
LOOK_AGAIN_S = 2.0
LOST_AFTER_S = 120.0  # without an answer from the job server
SILENT_AFTER_S = 60.0  # without a word from the job, which logs its progress every 5 s as a rule


def submit(line: CommandLine, settings: SubmitSettings) -> int:
    """Submit the command to the cluster, unless the same command is running or has succeeded. Return the exit code.

    With `settings.wait`, follow the job and return the job's exit code, otherwise return 0. With `settings.dry_run`,
    only print what would be submitted. Raises `UsageError` if a person must act, and `JobError` if a retry may help.
    """
    wanted, server_address = settings.submission_id or line.submission_id, settings.server
    if settings.dry_run:
        print(f"would submit {wanted} to {server_address}\n  {line.entrypoint}")  # noqa: T201
        print(f"  with {', '.join(settings.env) or 'no variables'} of this environment")  # noqa: T201
        return 0
    server = JobServer(server_address)
    name, status = _latest(server, wanted)
    if status == "SUCCEEDED":
        print(f"{name} has succeeded already: nothing is submitted")  # noqa: T201
        return 0
    if status in UNDER_WAY:
        print(f"{name} is {status.lower()} already: nothing is submitted", flush=True)  # noqa: T201
    else:
        name = wanted if status is None else _next(wanted, name)
        ours = server.submit(name, line.entrypoint, _variables(settings))
        print(f"{name} is {'submitted' if ours else 'there already'}", flush=True)  # noqa: T201
    return _follow(server, name) if settings.wait else 0


def _variables(settings: SubmitSettings) -> dict[str, str]:
    """Return the job's environment variables: those named by `--env`, and the time that Ray gives the job to stop."""
    return STOP_WAIT | {name: os.environ[name] for name in settings.env}


def _latest(server: JobServer, wanted: str) -> tuple[str, str | None]:
    """Return the name of the last attempt of the job `wanted`, and its status, such as `RUNNING`.

    If there was no attempt, the name is `wanted` and the status is None.
    """
    latest, status = wanted, None
    for number in range(1, ATTEMPTS_AT_MOST):
        name = wanted if number == 1 else f"{wanted}-{number}"
        info = server.info(name)
        if info is None:
            break
        latest, status = name, info.status.value
    return latest, status


def _next(wanted: str, latest: str) -> str:
    """Return the name of the attempt after `latest`, because Ray accepts each name only once.

    The attempts are `wanted`, `wanted-2`, `wanted-3` and so on.
    """
    return f"{wanted}-{int(latest.removeprefix(wanted).lstrip('-') or 1) + 1}"


def _follow(server: JobServer, name: str) -> int:
    """Print what the job prints until it ends, and return its exit code."""
    import asyncio

    with going_on(f"{name} goes on: the same command follows it again, `ray job stop {name}` ends it"):
        asyncio.run(_print_log(server, name))
    return exit_code(server.info(name), name)


async def _print_log(server: JobServer, name: str) -> None:
    """Print what the job prints until it ends. After a broken connection, continue where the output broke off.

    If nothing arrives for `SILENT_AFTER_S` seconds, connect again, because a proxy or a dead agent may have dropped the
    connection without a word. Raises `JobError` if the server does not answer for `LOST_AFTER_S` seconds.
    """
    import asyncio

    import aiohttp

    printed, heard, over = 0, time.monotonic(), False
    while True:
        passed, silent = 0, False
        try:
            async for piece in _until_silent(server.log(name)):
                print(redact(piece[max(0, printed - passed) :]), end="", flush=True)  # noqa: T201
                passed += len(piece)
                printed, heard = max(printed, passed), time.monotonic()
        except TimeoutError:
            silent = True
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            logger.warning("the connection to the job server broke off: %s", one_line(error))
        try:
            info = server.info(name)
            if info is None or (info.status.is_terminal() and (over or not silent)):
                return
            heard, over = time.monotonic(), info.status.is_terminal()  # if it has just ended, read its last lines
        except JobError:
            if time.monotonic() - heard > LOST_AFTER_S:
                raise
        await asyncio.sleep(LOOK_AGAIN_S)


async def _until_silent(pieces: AsyncIterator[str]) -> AsyncIterator[str]:
    """Yield the pieces of a log. Raises `TimeoutError` if no piece arrives for `SILENT_AFTER_S` seconds."""
    import asyncio

    with suppress(StopAsyncIteration):
        while True:
            yield await asyncio.wait_for(anext(pieces), SILENT_AFTER_S)


def exit_code(info: Any, name: str) -> int:
    """Return the exit code of the job `name`, which has ended.

    `info` is Ray's `JobDetails`, or None if the cluster no longer knows the job. A stopped job gives 143. Raises
    `UsageError` if the command could not start on the cluster, and `JobError` if the job was lost.
    """
    if info is None:
        raise JobError(f"the cluster does not know {name} any more: it was started anew; submit again")
    status, code, words = info.status.value, info.driver_exit_code, info.message or ""
    if status == "STOPPED":
        return EXIT_TERMINATED
    if code == 127 or "No module named genretag" in words:
        raise UsageError("the cluster's nodes have no `python -m genretag`: install genretag on them")
    if code is not None:
        return code if code >= 0 else 128 - code  # a signal, as a shell reports it
    if info.error_type == "RUNTIME_ENV_SETUP_FAILURE":
        raise UsageError(f"{name} could not be started: {one_line(words)}")
    raise JobError(f"{name} was lost ({info.error_type or status}): {one_line(words)}; submit again")
