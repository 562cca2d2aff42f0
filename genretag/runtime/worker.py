"""What each Ray worker process of a job does first: `prepare`. Ray calls it by its name, `HOOK`."""

import os

from genretag.runtime.stopping import limit_exit

HOOK = f"{__name__}.prepare"


def prepare() -> None:
    """Give this worker process a home folder, and limit the time of its exit."""
    have_a_home()
    limit_exit()


def have_a_home() -> None:
    """If the user has no home directory, set HOME to `/`, as Docker does.

    OpenVINO and Ray read HOME and fail without it. A container with an arbitrary user id (OpenShift) has none.
    """
    if os.path.expanduser("~") == "~":  # noqa: PTH111 - Path.home raises if there is no home
        os.environ["HOME"] = "/"
