"""Ray's token: how a client shows the one that it has, and what is said where a cluster refuses it.

Its value is Ray's business alone, and is never logged.
"""

import os
import secrets
from pathlib import Path

from genretag.errors import UsageError


def show_a_token_where_there_is_one() -> None:
    """Call this before Ray is imported: it shows its token only where it is told to, though a cluster may ask for it.

    RAY_AUTH_MODE stays as it is where it is set.
    """
    if _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def make_a_token_where_none_can_be_kept() -> None:
    """Call this before a Ray of our own starts: Ray makes a token for it, and keeps it in the home folder.

    A user whose home is missing or cannot be written (OpenShift) gets one for this process and its children alone.
    """
    if _has_token() or os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return
    folder = _in_home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        can_be_kept = os.access(folder, os.W_OK)
    except OSError:
        can_be_kept = False
    if not can_be_kept:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _has_token() -> bool:
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(given) or (_in_home() / "auth_token").exists()


def _in_home() -> Path:
    """Ray's folder in the home folder; `/dev/null/.ray`, where nothing is, for a user without a home."""
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home raises where there is none
    return Path("/dev/null" if home == "~" else home) / ".ray"


def is_a_refused_token(error: BaseException) -> bool:
    """Whether this is Ray's error for a token that is missing or wrong, or was raised from such a one.

    `ray.init` tries for a while, and then quotes the last error in the text of its own.
    """
    from ray.exceptions import AuthenticationError

    name = AuthenticationError.__name__
    return isinstance(error, AuthenticationError) or name in str(error) or name in str(error.__cause__)


def refused_token(address: str | None) -> UsageError:
    """What to tell where the cluster at an address does not let us in."""
    return UsageError(
        f"the Ray cluster at {address} does not accept our token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the one "
        "that it was started with"
    )
