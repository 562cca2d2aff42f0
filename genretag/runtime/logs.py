"""Log lines of a command: text for people, or one JSON object per line for machines; both without secrets.

Messages of the libraries stay off the terminal. `--verbose` shows them.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from genretag.errors import redact
from genretag.runtime.session import current_run_id

TEXT, JSON = "text", "json"
FORMATS = (TEXT, JSON)


def start_logging(quiet: bool, log_format: str) -> None:
    """Send log lines of level INFO and above to the error output. If `quiet`, send only warnings and errors.

    `log_format` is `text` or `json`.
    """
    handler = _ErrorOutput()
    handler.setFormatter(JsonFormatter() if log_format == JSON else TextFormatter())
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, handlers=[handler])


def is_json() -> bool:
    """Return whether log lines are JSON in this process."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def tell(message: str, exit_code: int) -> None:
    """Print `message`, the last line of a command that failed or was stopped, on the error output.

    If log lines are JSON, the line is JSON too and holds the exit code.
    """
    if is_json():
        print(_json_line("ERROR", "genretag", message, exit_code=exit_code), file=sys.stderr)  # noqa: T201
    else:
        print(f"genretag: {redact(message)}", file=sys.stderr)  # noqa: T201


class _ErrorOutput(logging.Handler):
    """A handler that looks up `sys.stderr` for each line, because a display on the terminal replaces it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)  # noqa: T201
        except Exception:  # noqa: BLE001 - as logging's own handlers do
            self.handleError(record)


class TextFormatter(logging.Formatter):
    """Format of a text line: `13:05:59 message`, without secrets."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """Format of a JSON line without secrets: `{"time": …, "level": …, "logger": …, "run_id": …, "message": …}`.

    The time is in UTC. A line about an exception also has the key `exception`.
    """

    def format(self, record: logging.LogRecord) -> str:
        facts = {"exception": self.formatException(record.exc_info)} if record.exc_info else {}
        at = datetime.fromtimestamp(record.created, UTC)
        return _json_line(record.levelname, record.name, record.getMessage(), at, **facts)


def _json_line(level: str, logger: str, message: str, at: datetime | None = None, **facts: Any) -> str:
    """Return a JSON log line without secrets. `at` is its time, by default now. `facts` are further keys."""
    at = at or datetime.now(UTC)
    line = {"time": at.isoformat(timespec="milliseconds"), "level": level, "logger": logger, "run_id": current_run_id()}
    texts = {name: redact(value) if isinstance(value, str) else value for name, value in facts.items()}
    return json.dumps(line | {"message": redact(message)} | texts, ensure_ascii=False)


def quieten_libraries() -> None:
    """Keep most messages of Ray, TensorFlow and the stores' libraries off the terminal. Call this before their import.

    The function sets log levels and environment variables. It does not change variables that the user has set.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray's C++ warns of every actor pool (ray issue 53727)
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # otherwise messages of raylets appear among the results
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("ray").setLevel(logging.ERROR)
    for name in ("botocore", "aiobotocore", "s3fs", "tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("azure", "google.auth", "urllib3"):  # they log what becomes an exception, in many lines
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def stderr_muted(muted: bool = True) -> Iterator[None]:
    """Drop everything that is written to the error output (file descriptor 2) during the block.

    C++ libraries write messages while they start, before they read their log level. Errors still raise exceptions. If
    `muted` is false, drop nothing.
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
