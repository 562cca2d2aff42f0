"""The end of a process that was connected to Ray.

`ray.shutdown` of Ray 2.60 frees the C++ part of a driver, although a thread of Ray may still have an answer to send
(https://github.com/ray-project/ray/pull/61863 tells of the cause). That thread then writes into memory that has a new
owner, or waits for ever for a mutex that is no more. The first can garble what the process does afterwards. The second
keeps the process from ending, because the C library waits for the thread. We saw both in one of 200 nights on a busy
machine. So a command works first, then shuts Ray down, and then leaves without the exit handlers of the C library.
"""

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

_at_the_end: ExitStack | None = None  # None outside of a block `ray_until_the_end`


@contextmanager
def ray_until_the_end() -> Iterator[None]:
    """Within the block, let `ray_session` leave its Ray running if it succeeds. Shut Ray down after the block.

    Ctrl-C and SIGTERM stop the shutdown. A local Ray then ends together with this process.
    """
    global _at_the_end
    _at_the_end = stack = ExitStack()
    try:
        yield
    finally:
        _at_the_end = None
        with suppress(KeyboardInterrupt):
            stack.close()


def close_at_the_end(opened: ExitStack) -> None:
    """Close `opened` after the block `ray_until_the_end` around this call, or now if there is none."""
    if _at_the_end is None:
        opened.close()
    else:
        _at_the_end.callback(opened.close)


def leave(code: int) -> None:
    """End this process with an exit code. If Ray was imported, skip the exit handlers of the C library."""
    if "ray" not in sys.modules:
        sys.exit(code)
    try:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # a closed pipe, or a closed file
                stream.flush()
    finally:
        os._exit(code)
