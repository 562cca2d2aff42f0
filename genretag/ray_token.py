"""Ray's token: how a client shows the one that it has. Its value is Ray's business alone, and is never logged."""

import os
from pathlib import Path


def show_a_token_where_there_is_one() -> None:
    """Call this before Ray is imported: it shows its token only where it is told to, though a cluster may ask for it.

    RAY_AUTH_MODE stays as it is where it is set.
    """
    token_file = Path.home() / ".ray" / "auth_token"
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or token_file.exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
