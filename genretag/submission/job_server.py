"""The job server of a Ray cluster: who may come in, which jobs there are, and what they say."""

import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from genretag import noise
from genretag.errors import JobError, UsageError, one_line
from genretag.ray_token import refused_token, show_a_token_where_there_is_one

CONNECT_S, ANSWER_S = 10, 30
SERVER_VARIABLE = "RAY_API_SERVER_ADDRESS"


class JobServer:
    """A connection to a job server. Raises `UsageError` where there is none, or it does not let us in."""

    def __init__(self, address: str) -> None:
        self.address = address
        show_a_token_where_there_is_one()
        noise.quieten()
        _knock(address)
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # it tells of each connection
        with _at(address), self._errors():
            self._client = JobSubmissionClient(address)
        _require_version(getattr(self._client, "_server_ray_version", None), address)

    def info(self, name: str) -> Any:
        """Ray's `JobDetails` of a job; none where there is no such job."""
        try:
            with self._errors():
                return self._client.get_job_info(name)
        except RuntimeError as error:
            if "status code 404" in str(error):
                return None
            raise self._refusal(error) from error

    def submit(self, name: str, entrypoint: str, env_vars: dict[str, str]) -> bool:
        """Sends a job; returns whether it is ours: false where another of this name came first."""
        try:
            with self._errors():
                self._client.submit_job(entrypoint=entrypoint, submission_id=name, runtime_env={"env_vars": env_vars})
        except RuntimeError as error:
            if "already exists" in str(error):
                return False
            raise self._refusal(error) from error
        return True

    def log(self, name: str) -> AsyncIterator[str]:
        """The job's output in pieces, from its beginning, as it comes."""
        return self._client.tail_job_logs(name)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise refused_token(self.address) from error
        except (ConnectionError, requests.RequestException) as error:
            raise JobError(f"the job server at {self.address} does not answer any more: {one_line(error)}") from error

    def _refusal(self, error: RuntimeError) -> JobError:
        return JobError(f"the job server at {self.address} refuses: {one_line(error)}")


def _knock(address: str) -> None:
    """Makes sure that a Ray job server answers: Ray's own client would wait for ever, and not say for what."""
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
    from importlib.metadata import version

    ours = version("ray")
    if theirs and theirs.split(".")[:2] != ours.split(".")[:2]:
        raise UsageError(
            f"the cluster at {address} runs Ray {one_line(theirs, 20)}, and here is Ray {ours}: "
            f"install the cluster's version here, or submit from its own image"
        )


@contextmanager
def _at(address: str) -> Iterator[None]:
    """Ray's client prefers the environment to the address that it is given."""
    before = os.environ.get(SERVER_VARIABLE)
    os.environ[SERVER_VARIABLE] = address
    try:
        yield
    finally:
        os.environ.pop(SERVER_VARIABLE)
        if before is not None:
            os.environ[SERVER_VARIABLE] = before
