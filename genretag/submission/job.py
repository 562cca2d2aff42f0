"""Submits a command once: what runs already is followed, what is done stays done, what failed is tried again."""

import asyncio
import logging
import os
import time
from typing import Any

from genretag.errors import JobError, UsageError, one_line
from genretag.redaction import redact
from genretag.stopping import going_on
from genretag.submission.command_line import CommandLine
from genretag.submission.job_server import JobServer
from genretag.submission.settings import SubmitSettings

STOP_WAIT = {"RAY_JOB_STOP_WAIT_TIME_S": "30"}  # for a stopped job to give its lock back; Ray itself waits 3 s
UNDER_WAY = ("PENDING", "RUNNING")
ATTEMPTS_AT_MOST = 1_000
LOOK_AGAIN_S = 2.0
LOST_AFTER_S = 120.0  # without a word from the job server
EXIT_TERMINATED = 143

logger = logging.getLogger(__name__)


def submit(line: CommandLine, settings: SubmitSettings) -> int:
    """Sends the command to the cluster, where the same was not sent before; returns the exit code.

    With `wait` that is the job's own, else 0. Raises `UsageError` and `JobError`.
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
    return STOP_WAIT | {name: os.environ[name] for name in settings.env}


def _latest(server: JobServer, wanted: str) -> tuple[str, str | None]:
    """The last attempt of this name, and its status; none where there was none."""
    latest, status = wanted, None
    for number in range(1, ATTEMPTS_AT_MOST):
        name = wanted if number == 1 else f"{wanted}-{number}"
        info = server.info(name)
        if info is None:
            break
        latest, status = name, info.status.value
    return latest, status


def _next(wanted: str, latest: str) -> str:
    """Ray lets no name be used twice: `night`, `night-2`, `night-3`."""
    return f"{wanted}-{int(latest.removeprefix(wanted).lstrip('-') or 1) + 1}"


def _follow(server: JobServer, name: str) -> int:
    """Prints the job's output until it ends, and returns its exit code."""
    with going_on(f"{name} goes on: the same command follows it again, `ray job stop {name}` ends it"):
        asyncio.run(_print_log(server, name))
    return exit_code(server.info(name), name)


async def _print_log(server: JobServer, name: str) -> None:
    """Prints what the job says; after a broken connection from where that broke off."""
    import aiohttp

    printed, heard = 0, time.monotonic()
    while True:
        passed = 0
        try:
            async for piece in server.log(name):
                print(redact(piece[max(0, printed - passed) :]), end="", flush=True)  # noqa: T201
                passed += len(piece)
                printed, heard = max(printed, passed), time.monotonic()
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            logger.warning("the connection to the job server broke off: %s", one_line(error))
        try:
            info = server.info(name)
            if info is None or info.status.is_terminal():
                return
            heard = time.monotonic()
        except JobError:
            if time.monotonic() - heard > LOST_AFTER_S:
                raise
        await asyncio.sleep(LOOK_AGAIN_S)


def exit_code(info: Any, name: str) -> int:
    """The exit code of a job that has ended, by Ray's `JobDetails`.

    Raises `UsageError` or `JobError` where its command could not run at all.
    """
    if info is None:
        raise JobError(f"the cluster does not know {name} any more: it was started anew; submit again")
    status, code, words = info.status.value, info.driver_exit_code, info.message or ""
    if status == "STOPPED":
        return EXIT_TERMINATED
    if code == 127 or "No module named genretag" in words:
        raise UsageError("the cluster's nodes have no `python -m genretag`: install genretag on them")
    if code is not None:
        return code if code >= 0 else 128 - code  # a signal, as a shell has it
    if info.error_type == "RUNTIME_ENV_SETUP_FAILURE":
        raise UsageError(f"{name} could not be started: {one_line(words)}")
    raise JobError(f"{name} was lost ({info.error_type or status}): {one_line(words)}; submit again")
