"""Holds an output for a command that writes to it; one that loses it stops writing at once."""

import _thread
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from genretag.errors import JobError, OutputHeldError, UsageError
from genretag.stopping import going_on
from genretag.storage import Storage, StorageError
from genretag.tagging.lock import output_lock, require_held


@contextmanager
def only_writer(output: str, run_id: str, storage: Storage, *, break_lock: bool = False) -> Iterator[None]:
    """Holds the output's lock in the block, which must run in the main thread.

    Raises `OutputHeldError` where another run holds the output or took it over, `UsageError` where it cannot be
    written, and makes a `StorageError` of the block a `JobError`.
    """
    lost: list[str] = []
    held = False

    def stop(why: str) -> None:
        lost.append(why)
        _thread.interrupt_main()

    try:
        with output_lock(output, run_id, storage, stop, break_lock=break_lock):
            held = True
            try:
                with going_on("what was finished is kept, the same command goes on from there"):
                    yield
            except OutputHeldError:
                raise
            except Exception as error:  # whatever it is: a run that lost the output meets what others made of it
                _explain_by_loss(output, run_id, storage, error)
                raise
    except StorageError as error:
        if held:  # it could be written a while ago
            raise JobError(f"cannot write to {output} any more: {error}; run the same command again") from error
        raise UsageError(f"cannot write to the output {output}: {error}") from error
    except KeyboardInterrupt:
        if lost:
            raise OutputHeldError(lost[0]) from None
        raise


def _explain_by_loss(output: str, run_id: str, storage: Storage, error: Exception) -> None:
    """Raises `OutputHeldError` where the output was lost; says nothing where that cannot be found out."""
    with suppress(StorageError):
        try:
            require_held(output, run_id, storage)
        except OutputHeldError as held:
            raise held from error
