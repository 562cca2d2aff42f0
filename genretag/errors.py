"""What can go wrong, by who has to act: one poster's failure is a value, the job's is an exception."""

from dataclasses import dataclass


class UsageError(Exception):
    """A person must act: the message is one line that says what to do. The command exits with code 2."""


class JobError(Exception):
    """The job failed though its input was right; a retry may help. The command exits with code 1."""


class OutputHeldError(Exception):
    """Another run writes to the output: the message says which and since when. The command exits with code 3."""


@dataclass(frozen=True)
class Failure:
    """Why one poster could not be scored. `stage` is list, fetch, decode or predict; `reason` a stable name.

    `etag` is the version that was read, empty where none was.
    """

    stage: str
    reason: str
    message: str
    etag: str = ""


def one_line(text: object, limit: int = 300) -> str:
    """Makes foreign text fit for one line of a log or a table cell: no control characters, bounded length."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def quoted(value: object) -> str:
    """A value for a message: text is quoted and of bounded length."""
    return f"'{one_line(value, 40)}'" if isinstance(value, str) else str(value)


def unreadable_output(output: str, error: Exception) -> UsageError:
    """What to raise where an output does not tell what it holds."""
    return UsageError(
        f"cannot read what {output} holds already ({one_line(error)}): check its name and the credentials"
    )
