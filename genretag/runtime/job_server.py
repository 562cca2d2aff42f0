"""Client of the job server of a Ray cluster: connects, submits a job, and reads its state and its output."""

import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from genretag.errors import JobError, UsageError, one_line
from genretag.runtime import logs
from genretag.runtime.compat import is_known_job, is_unknown_job, job_client
from genretag.runtime.ray_session import refused_token, show_a_token_where_there_is_one

CONNECT_S, ANSWER_S = 10, 60
SERVER_VARIABLE = "RAY_API_SERVER_ADDRESS"


class JobServer:
    """A connection to the job server of a Ray cluster at `address`, an HTTP URL.

    The constructor raises `UsageError` if no server answers, if the server runs another Ray version, or if it refuses
    the token. `info` and `submit` raise `JobError` if the server stops answering or refuses a request.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        show_a_token_where_there_is_one()
        logs.quieten_libraries()
        _knock(address)
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # it logs every connection
        with _at(address), self._errors():
            self._client = job_client(address, (CONNECT_S, ANSWER_S))
        _require_version(getattr(self._client, "_server_ray_version", None), address)

    def info(self, name: str) -> Any:
        """Return Ray's `JobDetails` of the job `name`, or None if there is no such job."""
        try:
            with self._errors():
                return self._client.get_job_info(name)
        except RuntimeError as error:
            if is_unknown_job(error):
                return None
            raise self._refusal(error) from error

    def submit(self, name: str, entrypoint: str, env_vars: dict[str, str]) -> bool:
        """Start the command `entrypoint` as the job `name`, with the environment variables `env_vars`.

        Return True if this call started the job, and False if a job of this name exists already.
        """
        try:
            with self._errors():
                self._client.submit_job(entrypoint=entrypoint, submission_id=name, runtime_env={"env_vars": env_vars})
        except RuntimeError as error:
            if is_known_job(error):
                return False
            raise self._refusal(error) from error
        return True

    def log(self, name: str) -> AsyncIterator[str]:
        """Yield the text that the job prints, in pieces, from the beginning and as it arrives."""
        return self._client.tail_job_logs(name)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise `JobError` if the connection fails in the block, and `UsageError` if the server refuses the token."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise refused_token(self.address) from error
        except (ConnectionError, requests.RequestException) as error:
            raise JobError(f"the job server at {self.address} does not answer any more: {one_line(error)}") from error

    def _refusal(self, error: RuntimeError) -> JobError:
        """Return the error for a request that the job server refused. `error` is that of Ray's client."""
        return JobError(f"the job server at {self.address} refuses: {one_line(error)}")


def _knock(address: str) -> None:
    """Check that a Ray job server of a compatible version answers at `address`. Raises `UsageError` if not.

    Ray's own client would wait for ever without saying why.
    """
    import requests

    try:
        answer = requests.get(f"{address}/api/version", timeout=(CONNECT_S, ANSWER_S))
        version = answer.json().get("ray_version") if answer.ok else None
    except (requests.RequestException, ValueError, AttributeError) as error:
        raise UsageError(
            f"no Ray job server answers at {address}: check --address (the dashboard's, port 8265 mostly), "
            "and that the head node runs"
        ) from error
    if not answer.ok and answer.status_code not in (401, 403):
        raise UsageError(f"what answers at {address} is no Ray job server (status {answer.status_code})")
    _require_version(version, address)


def _require_version(theirs: str | None, address: str) -> None:
    """Raise `UsageError` if `theirs`, the cluster's Ray version, has another major or minor number than Ray here.

    If the cluster's version is unknown (None), accept it.
    """
    from importlib.metadata import version

    ours = version("ray")
    if theirs and theirs.split(".")[:2] != ours.split(".")[:2]:
        raise UsageError(
            f"the cluster at {address} runs Ray {one_line(theirs, 20)}, and here is Ray {ours}: "
            f"install the cluster's version here, or submit from its own image"
        )


@contextmanager
def _at(address: str) -> Iterator[None]:
    """Set RAY_API_SERVER_ADDRESS during the block, because Ray's client prefers this variable to its argument."""
    before = os.environ.get(SERVER_VARIABLE)
    os.environ[SERVER_VARIABLE] = address
    try:
        yield
    finally:
        os.environ.pop(SERVER_VARIABLE)
        if before is not None:
            os.environ[SERVER_VARIABLE] = before
