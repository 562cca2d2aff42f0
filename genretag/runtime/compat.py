"""All code that depends on internals of Ray and pyiceberg: private modules, and the text of error messages.

`pyproject.toml` sets upper bounds for both versions, and `tests/test_compat.py` fails if these internals change.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from genretag.errors import JobError, UsageError
from genretag.runtime.cluster import Ask, RoomWatch

OTHER_VERSION, SLOW_START = "ersion mismatch", "timed out during startup"  # in what `ray.init` raises
UNKNOWN_JOB, KNOWN_JOB = "status code 404", "already exists"  # in what Ray's job client raises


def is_other_version(error: BaseException) -> bool:
    """Return whether `ray.init` failed because the cluster runs another version of Ray or Python."""
    return OTHER_VERSION in str(error)


def is_slow_start(error: BaseException) -> bool:
    """Return whether `ray.init` failed because a local Ray did not start in time."""
    return SLOW_START in str(error)


def is_refused_token(error: BaseException) -> bool:
    """Return whether `error` means that Ray refused a missing or wrong token.

    `ray.init` retries for a while, and then quotes the refusal in the text of another error. Such an error counts too.
    """
    from ray.exceptions import AuthenticationError

    name = AuthenticationError.__name__
    return isinstance(error, AuthenticationError) or name in str(error) or name in str(error.__cause__)


def is_unknown_job(error: BaseException) -> bool:
    """Return whether an error of Ray's job client means that the job server has no job with the requested name."""
    return UNKNOWN_JOB in str(error)


def is_known_job(error: BaseException) -> bool:
    """Return whether an error of Ray's job client means that the server already has a job with the submitted name."""
    return KNOWN_JOB in str(error)


def ending_without_nodes(asks: Sequence[Ask], wait_s: float, begun: Callable[[], bool]) -> type:
    """Return a class that ends a Ray Data execution if the cluster has no room for `asks` for `wait_s` seconds.

    The class is for a dataset's `custom_execution_callback_classes`. Ray Data alone would wait for half an hour. Once
    `begun` returns true because posters are done, the class only warns. Run the dataset within
    `explaining_lost_nodes`, which translates the exception of the class.
    """
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    settings = {"asks": asks, "wait_s": wait_s, "begun": staticmethod(begun)}
    return type("EndWithoutNodes", (_EndWithoutNodes, ExecutionCallback), settings)


@contextmanager
def explaining_lost_nodes() -> Iterator[None]:
    """Translate Ray Data's timeout of an execution in the block.

    Raises `UsageError` if the cluster had no room for the execution, and `JobError` if the execution stalled.
    """
    from ray.data.exceptions import ExecutionTimeoutError

    try:
        yield
    except ExecutionTimeoutError as error:
        if getattr(error, "lost_nodes", False):
            raise UsageError(str(error)) from error
        raise JobError("nothing moved for half an hour: see `ray status`, and run the same command again") from error


class _EndWithoutNodes:
    """A callback that Ray Data makes once per execution and calls in a loop. An exception ends the execution."""

    asks: Sequence[Ask]
    wait_s: float
    begun: Callable[[], bool]

    def before_execution_starts(self, _executor: Any) -> None:
        self._watch = RoomWatch(self.asks, self.wait_s)

    def on_execution_step(self, _executor: Any) -> None:
        from ray.data.exceptions import ExecutionTimeoutError

        try:
            self._watch.look(self.begun)
        except UsageError as error:
            # Ray Data's own timeout error, because Ray Data prints a stack trace for other exceptions.
            timeout = ExecutionTimeoutError(str(error))
            timeout.lost_nodes = True  # type: ignore[attr-defined]
            raise timeout from error


def require_iceberg_types(schema: Any) -> None:
    """Raise pyiceberg's error if an Arrow schema has a column type that Iceberg lacks.

    pyiceberg's public converter cannot be used, because it needs field ids.
    """
    from pyiceberg.io.pyarrow import _pyarrow_to_schema_without_ids

    _pyarrow_to_schema_without_ids(schema)
