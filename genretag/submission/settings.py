"""The settings of `genretag submit`."""

import os
import re
from dataclasses import dataclass

from genretag.errors import UsageError, quoted
from genretag.redaction import has_credentials

DEFAULT_ADDRESS = "http://127.0.0.1:8265"  # where `ray dashboard` and `kubectl port-forward` leave it
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class SubmitSettings:
    """Where to, and whether to wait."""

    address: str | None = None
    """The cluster's job server, as RAY_API_SERVER_ADDRESS, or RAY_ADDRESS where that is the dashboard's URL;
    http://127.0.0.1:8265 when not given."""
    wait: bool = False
    """Follow the job's log until it ends, and end with its exit code."""
    dry_run: bool = False
    """Print what would be sent, and send nothing."""
    submission_id: str | None = None
    """What the job is called on the cluster. By default the same for the same command on the same day (UTC)."""
    env: tuple[str, ...] = ()
    """Names of variables of this environment that the job gets too. Whoever has the cluster's token can read them
    there: a role of the nodes is better."""

    def __post_init__(self) -> None:
        if self.submission_id is not None and not NAME.fullmatch(self.submission_id):
            raise UsageError(f"a submission id is of letters, digits, - and _, not {quoted(self.submission_id)}")
        for name in self.env:
            if name not in os.environ:
                raise UsageError(f"--env {quoted(name)} is not set here")

    @property
    def server(self) -> str:
        """The address of the job server. Raises `UsageError` for one that is none."""
        of_ray = os.environ.get("RAY_ADDRESS", "")  # `ray job submit` takes it where it is a URL of the dashboard
        dashboard = of_ray if of_ray.startswith(("http://", "https://")) else ""
        address = self.address or os.environ.get("RAY_API_SERVER_ADDRESS") or dashboard or DEFAULT_ADDRESS
        if has_credentials(address):
            raise UsageError("the job server's address carries a user name or password: set RAY_AUTH_TOKEN instead")
        if not address.startswith(("http://", "https://")):
            raise UsageError(
                f"{quoted(address)} is no job server: write http://HEAD:8265, the address of the dashboard"
            )
        return address.rstrip("/")
