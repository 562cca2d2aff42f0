"""Holds an output for a command that writes to it; one that loses it stops writing at once."""

import _thread
from collections.abc import Iterator
from contextlib import contextmanager

from genretag.errors import JobError, OutputHeldError, UsageError
from genretag.stopping import going_on
from genretag.storage import Storage, StorageError
from genretag.tagging.lock import output_lock


@contextmanager
def only_writer(output: str, run_id: str, storage: Storage, *, break_lock: bool = False) -> Iterator[None]:
    """Holds the output's lock in the block, which must run in the main thread.

    Raises `OutputHeldError` where another run holds the output or took it over, `UsageError` where it cannot be
    written, and makes a `StorageError` of the block a `JobError`.
    """
    lost: list[str] = []
    held = False

    def stop(reason: str) -> None:
        lost.append(reason)
        _thread.interrupt_main()

    try:
        with output_lock(output, run_id, storage, stop, break_lock=break_lock):
            held = True
            with going_on("what was finished is kept, the same command goes on from there"):
                yield
    except StorageError as error:
        if held:  # it could be written a while ago
            raise JobError(f"cannot write to {output} any more: {error}; run the same command again") from error
        raise UsageError(f"cannot write to the output {output}: {error}") from error
    except KeyboardInterrupt:
        if lost:
            raise OutputHeldError(f"{output} was taken over, this run stops: {lost[0]}") from None
        raise
