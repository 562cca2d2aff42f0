"""Keeps what the libraries say of themselves off the terminal; `--verbose` shows it."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager


def quieten() -> None:
    """Log levels, and settings that Ray and TensorFlow read when they are imported; a user's own stay."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of every actor pool (ray issue 53727)
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # what raylets say, which it prints among our results
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("ray").setLevel(logging.ERROR)
    for name in ("botocore", "aiobotocore", "s3fs", "tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def stderr_muted(muted: bool = True) -> Iterator[None]:
    """Drops what C++ code writes to the error output while it starts, before it reads its log level.

    Exceptions still tell of errors.
    """
    if not muted:
        yield
        return
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
