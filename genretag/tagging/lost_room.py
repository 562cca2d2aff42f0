"""Ends a night that has lost all its nodes before the first poster was done: Ray Data would wait for half an hour."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.exceptions import ExecutionTimeoutError

from genretag.cluster_checks import Ask, RoomWatch
from genretag.errors import JobError, UsageError
from genretag.progress import read_board


class _LostRoom(ExecutionTimeoutError):
    """A timeout, as Ray Data knows it: for what it does not know it prints a stack trace of its own."""


class _EndWithoutRoom(ExecutionCallback):
    """Ray Data makes one for each execution, and calls it in its loop; what is raised there ends the execution."""

    asks: Sequence[Ask]
    wait_s: float
    board: Any

    def before_execution_starts(self, _executor: Any) -> None:
        self._watch = RoomWatch(self.asks, self.wait_s)

    def on_execution_step(self, _executor: Any) -> None:
        try:
            self._watch.look(self._begun)
        except UsageError as error:
            raise _LostRoom(str(error)) from error

    def _begun(self) -> bool:
        """Whether posters are done; a board that does not answer ends no job."""
        answer = read_board(self.board)
        return answer is None or "scored" in answer[0]


def ending_without_room(asks: Sequence[Ask], wait_s: float, board: Any) -> type[ExecutionCallback]:
    """For a dataset's `custom_execution_callback_classes`; `waiting_explained` tells of what they raise."""
    return type("EndWithoutRoom", (_EndWithoutRoom,), {"asks": asks, "wait_s": wait_s, "board": board})


@contextmanager
def waiting_explained() -> Iterator[None]:
    """Around an execution: raises `UsageError` where it never had room, `JobError` where nothing moved any more."""
    try:
        yield
    except _LostRoom as error:
        raise UsageError(str(error)) from error
    except ExecutionTimeoutError as error:
        raise JobError("nothing moved for half an hour: see `ray status`, and run the same command again") from error
