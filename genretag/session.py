"""Where a command runs and how loudly: the settings that all commands share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from genretag.cluster_checks import WAIT_FOR_NODES_S
from genretag.errors import UsageError
from genretag.redaction import has_credentials

if TYPE_CHECKING:
    from genretag.storage import Storage


@dataclass(frozen=True)
class Session:
    """The store, the cluster, and what is printed."""

    endpoint_url: str | None = None
    """S3 endpoint, where it is not AWS; AWS_ENDPOINT_URL does the same."""
    address: str | None = None
    """Ray cluster to run on, as RAY_ADDRESS; a local Ray is started when there is none."""
    wait_for_nodes_s: float = WAIT_FOR_NODES_S
    """How long to wait until a cluster has a node with room for an actor: longer where nodes start on demand."""
    quiet: bool = False
    """Print nothing but results and errors."""
    verbose: Annotated[bool, Parameter(alias="-v")] = False
    """Show Ray's own messages too."""
    log_format: Literal["text", "json"] = "text"
    """Log lines for people, or one JSON object a line, each with the run id."""

    def __post_init__(self) -> None:
        if not self.wait_for_nodes_s >= 0:
            raise UsageError(f"wait_for_nodes_s must not be negative, not {self.wait_for_nodes_s:g}")
        if self.endpoint_url and has_credentials(self.endpoint_url):
            raise UsageError(
                "--endpoint-url carries a user name or password, which would be logged along the way: leave them out, "
                "and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )

    @property
    def storage(self) -> "Storage":
        """The places that the command reads and writes."""
        from genretag.storage import Storage

        return Storage(self.endpoint_url)
