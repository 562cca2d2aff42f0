"""A limit of time for calls that have none.

boto3's limits each read, not the whole answer: one that dribbles would never end.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

from genretag.storage.objects import StorageError

Result = TypeVar("Result")


def within(seconds: float, uri: str, call: Callable[[], Result]) -> Result:
    """Returns what a call returns, or raises what it raises; what takes longer is left to itself in its thread.

    Raises `StorageError`, `timeout`, then.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again where the caller waits
            errors.append(error)

    thread = threading.Thread(target=run, name="within", daemon=True)  # a daemon: it must not hold up the end
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if results:
        return results[0]
    raise StorageError("timeout", f"{uri}: the store did not answer in time, or not with all of it")
