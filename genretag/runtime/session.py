"""The session of a command: the settings that all commands share, and the id of the run.

The settings say where a command runs and what it prints. The run id is in the run record, in the part files and in
every JSON log line.
"""

import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from genretag.errors import UsageError, has_credentials
from genretag.runtime.cluster import WAIT_FOR_NODES_S

if TYPE_CHECKING:
    from genretag.storage import Storage


_current: str | None = None


def new_run_id(started: datetime | None = None) -> str:
    """Make a new run id, such as `20261123T013000Z-4f2a`, and return it. The new id becomes the run id of this process.

    Run ids sort by time. `started`, in UTC, is the time in the id. None means the present time.
    """
    global _current
    _current = f"{started or datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
    return _current


def current_run_id() -> str | None:
    """Return the run id of this process, or None if the process has begun no run."""
    return _current


@dataclass(frozen=True)
class Session:
    """Settings for the stores, the Ray cluster, and what a command prints."""

    endpoint_url: str | None = None
    """S3 endpoint, if the store is not AWS. AWS_ENDPOINT_URL does the same."""
    anonymous: bool = False
    """Read a public bucket without credentials. The buckets of what the command writes, and of its model, still get
    them."""
    request_payer: bool = False
    """Pay for requests to a bucket whose owner demands it. For gs://, GOOGLE_CLOUD_PROJECT pays."""
    private_hosts: bool = False
    """Let https:// URLs of a manifest lead into private networks. Never set it for a manifest of strangers: the
    metadata services of clouds are there."""
    address: str | None = None
    """Ray cluster to run on; RAY_ADDRESS does the same. If neither is set, a local Ray starts."""
    wait_for_nodes_s: float = WAIT_FOR_NODES_S
    """Seconds to wait until the cluster has a node with room for an actor. Set more if nodes start on demand."""
    quiet: bool = False
    """Print nothing but results and errors."""
    verbose: Annotated[bool, Parameter(alias="-v")] = False
    """Show Ray's messages too."""
    log_format: Literal["text", "json"] = "text"
    """Format of log lines: `text` for people, or `json`: one object per line, each with the run id."""
    own: Annotated[tuple[str, ...], Parameter(parse=False)] = ()
    """Locations whose buckets get credentials in spite of `anonymous` (see `owning`)."""

    def __post_init__(self) -> None:
        if not self.wait_for_nodes_s >= 0:
            raise UsageError(f"wait_for_nodes_s must not be negative, not {self.wait_for_nodes_s:g}")
        if self.endpoint_url and has_credentials(self.endpoint_url):
            raise UsageError(
                "--endpoint-url carries a user name or password, which would be logged along the way: leave them out, "
                "and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )

    def owning(self, *locations: str | None) -> "Session":
        """Return this session, in which the buckets of these locations get credentials in spite of `anonymous`.

        Commands call it with what they write, and with their model. None stands for a location that was not given.
        """
        return replace(self, own=(*self.own, *(location for location in locations if location)))

    @property
    def storage(self) -> "Storage":
        """A new `Storage` with the settings of this session.

        Raises `UsageError` if the environment's settings for encryption are invalid.
        """
        from genretag.storage import Access, Storage

        access = Access(self.anonymous, self.request_payer, self.own, self.private_hosts)
        return Storage(self.endpoint_url, access=access)
