"""The name of a run: in the record of a night, in its part files, and in every JSON log line."""

import secrets
from datetime import UTC, datetime

_current: str | None = None


def new_run_id(started: datetime | None = None) -> str:
    """A name that sorts by time, such as `20261123T013000Z-4f2a`; from now on the current one of this process."""
    global _current
    _current = f"{started or datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
    return _current


def current_run_id() -> str | None:
    """The run that this process is at; none where it has begun none."""
    return _current
