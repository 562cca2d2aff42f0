"""Deadlines and retries for requests to a store."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from genretag.errors import UsageError, one_line
from genretag.storage.objects import StorageError

Result = TypeVar("Result")

ATTEMPT_S = 20.0  # for one request and its complete answer; after this time, the connection counts as dead
TOTAL_S = 80.0  # for all attempts at one object: three that hang, and longer than most outages
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0  # between attempts: doubled each time, minus a random part of up to half

TRANSIENT = frozenset({"unavailable", "timeout", "throttled"})
"""Reasons of temporary errors, for which a retry may help."""


@dataclass(frozen=True)
class RetryPolicy:
    """The time limits for requests about one object, in seconds: for each attempt, and in total."""

    attempt_s: float
    total_s: float

    @staticmethod
    def of_environment() -> "RetryPolicy":
        """Read GENRETAG_STORE_ATTEMPT_S (default 20 s) and GENRETAG_STORE_TOTAL_S (default 80 s).

        Raises `UsageError` if a value is no number of seconds above 0 and below 86,400.
        """
        return RetryPolicy(_seconds("GENRETAG_STORE_ATTEMPT_S", ATTEMPT_S), _seconds("GENRETAG_STORE_TOTAL_S", TOTAL_S))

    @property
    def retry_s(self) -> float:
        """The number of seconds within which the pause before a retry may begin, at least 0.

        `retry_s` is `total_s` minus the time of one attempt and of the longest pause.
        """
        return max(0.0, self.total_s - self.attempt_s - LONGEST_PAUSE_S)

    def pauses(self) -> Iterator[float]:
        """Return the seconds to wait before each retry. They end when `retry_s` seconds have passed since this call."""
        return self._pauses(time.monotonic() + self.retry_s)

    @staticmethod
    def _pauses(deadline: float) -> Iterator[float]:
        pause = FIRST_PAUSE_S
        while time.monotonic() <= deadline:
            yield random.uniform(pause / 2, pause)  # noqa: S311 - jitter, so that many clients do not retry at once
            pause = min(2 * pause, LONGEST_PAUSE_S)


def _seconds(variable: str, default: float) -> float:
    """Return the number of seconds in an environment variable, or `default` if the variable is unset or empty.

    Raises `UsageError` if the value is no number above 0 and below 86,400.
    """
    text = os.environ.get(variable, "")
    try:
        seconds = float(text or default)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 86_400:
        raise UsageError(f"{variable} is a number of seconds, not {one_line(text, 40)!r}")
    return seconds


def retry(attempt: Callable[[], Result], policy: RetryPolicy) -> Result:
    """Call `attempt` and return its result. If it raises a temporary `StorageError`, call it again after a pause.

    A `StorageError` is temporary if its reason is in `TRANSIENT`. If the error is not temporary, or if the time of
    `policy` is over, raise the error. If the error says how long to wait, the pause is at least as long, and the error
    is raised at once if that is longer than the time that is left.
    """
    pauses, deadline = policy.pauses(), time.monotonic() + policy.retry_s
    while True:
        try:
            return attempt()
        except StorageError as error:
            pause = next(pauses, None) if error.reason in TRANSIENT else None
            pause = max(pause or 0.0, error.retry_after_s or 0.0) if pause is not None else None
            if pause is None or pause > max(LONGEST_PAUSE_S, deadline - time.monotonic()):
                raise
        time.sleep(pause)


def within(seconds: float, uri: str, call: Callable[[], Result]) -> Result:
    """Run `call` in a thread, and return its result or raise its exception.

    If the call takes longer than `seconds`, raise `StorageError` with the reason `timeout` and a message that names
    `uri`. The call then goes on in its thread, and its result is dropped.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread of the caller
            errors.append(error)

    thread = threading.Thread(target=run, name="within", daemon=True)  # a daemon: it must not delay the exit
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if results:
        return results[0]
    raise StorageError("timeout", f"{uri}: the store did not send its whole answer in time")
