"""Log lines of a command: text for people, or one JSON object a line for machines; both without secrets."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from genretag.redaction import redact
from genretag.run_id import current_run_id

TEXT, JSON = "text", "json"
FORMATS = (TEXT, JSON)


def start_logging(quiet: bool, log_format: str) -> None:
    """Sends log lines to the error output in one of `FORMATS`; when `quiet`, warnings only."""
    handler = _ErrorOutput()
    handler.setFormatter(JsonFormatter() if log_format == JSON else TextFormatter())
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, handlers=[handler])


def is_json() -> bool:
    """Whether log lines are JSON in this process."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def tell(message: str, exit_code: int) -> None:
    """Prints the last line of a command that did not end well."""
    if is_json():
        print(_json_line("ERROR", "genretag", message, exit_code=exit_code), file=sys.stderr)  # noqa: T201
    else:
        print(f"genretag: {redact(message)}", file=sys.stderr)  # noqa: T201


class _ErrorOutput(logging.Handler):
    """Looks the error output up for each line: while a display is on the terminal, that stands in for it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)  # noqa: T201
        except Exception:  # noqa: BLE001 - as logging's own handlers do
            self.handleError(record)


class TextFormatter(logging.Formatter):
    """`13:05:59 message`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """`{"time": …, "level": …, "logger": …, "run_id": …, "message": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {"exception": self.formatException(record.exc_info)} if record.exc_info else {}
        at = datetime.fromtimestamp(record.created, UTC)
        return _json_line(record.levelname, record.name, record.getMessage(), at, **facts)


def _json_line(level: str, logger: str, message: str, at: datetime | None = None, **facts: Any) -> str:
    at = at or datetime.now(UTC)
    line = {"time": at.isoformat(timespec="milliseconds"), "level": level, "logger": logger, "run_id": current_run_id()}
    texts = {name: redact(value) if isinstance(value, str) else value for name, value in facts.items()}
    return json.dumps(line | {"message": redact(message)} | texts, ensure_ascii=False)
