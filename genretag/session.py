"""Where a command runs and how loudly: the settings that all commands share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from genretag.storage import Storage


@dataclass(frozen=True)
class Session:
    """The store, the cluster, and what is printed."""

    endpoint_url: str | None = None
    """S3 endpoint, where it is not AWS; AWS_ENDPOINT_URL does the same."""
    address: str | None = None
    """Ray cluster to run on, as RAY_ADDRESS; a local Ray is started when there is none."""
    quiet: bool = False
    """Print nothing but results and errors."""
    verbose: Annotated[bool, Parameter(alias="-v")] = False
    """Show Ray's own messages too."""

    @property
    def storage(self) -> "Storage":
        """The places that the command reads and writes."""
        from genretag.storage import Storage

        return Storage(self.endpoint_url)
