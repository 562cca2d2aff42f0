"""Ray's token: how a client shows the one that it has, and what is said where a cluster refuses it.

Its value is Ray's business alone, and is never logged.
"""

import os
from pathlib import Path

from genretag.errors import UsageError


def show_a_token_where_there_is_one() -> None:
    """Call this before Ray is imported: it shows its token only where it is told to, though a cluster may ask for it.

    RAY_AUTH_MODE stays as it is where it is set.
    """
    token_file = Path(os.path.expanduser("~/.ray/auth_token"))  # noqa: PTH111 - Path raises where there is no home
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or token_file.exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


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
