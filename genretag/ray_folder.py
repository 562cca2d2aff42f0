"""Where a Ray of our own keeps its files, whatever TMPDIR is called.

The path of a socket has at most 107 bytes, and Ray's node does not start where a path has a quote.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genretag.errors import UsageError, one_line

LONGEST_SOCKET = 107  # sun_path of Linux, less the zero at its end
SOCKET = "/session_2026-11-27_10-15-53_123456_1234567/sockets/plasma_store"  # what Ray appends to its folder
PLAIN = re.compile(r"[\w/.,:=@+-]*")
SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - for a folder of our own with a name at random


@contextmanager
def ray_folder() -> Iterator[str | None]:
    """Yield the folder for Ray's `_temp_dir`; none where Ray's own choice, of RAY_TMPDIR and TMPDIR, does.

    A long one, or one with odd characters, gets a short name by a link that is there for the block: logs and spilled
    objects still go to the place that TMPDIR names. Raises `UsageError` where no link can be made.
    """
    chosen = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - as Ray has it
    folder = os.path.abspath(os.path.join(chosen, "ray"))  # noqa: PTH100, PTH118 - as Ray has it
    if len(os.fsencode(folder + SOCKET)) <= LONGEST_SOCKET and PLAIN.fullmatch(folder):
        yield None
        return
    short = _short_folder()
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        if short is None:
            raise OSError("no link can be made in /tmp")
        link = short / "ray"
        link.symlink_to(folder)
    except OSError as error:
        raise UsageError(
            f"Ray needs a folder with a shorter path than {one_line(folder, 200)} ({error.strerror or error}): set "
            f"RAY_TMPDIR to one that can be written, of at most {LONGEST_SOCKET - len(SOCKET) - len('/ray')} bytes"
        ) from error
    try:
        yield str(link)
    finally:
        shutil.rmtree(link.parent, ignore_errors=True)  # removes the link, not what it leads to


def _short_folder() -> Path | None:
    for place in SHORT_PLACES:
        try:
            return Path(tempfile.mkdtemp(prefix="gt-", dir=place))
        except OSError:
            continue
    return None
