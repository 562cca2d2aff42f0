"""Errors: the failure of one poster is a value, and the failure of a whole command is an exception.

`Failure` is the value. Each exception class stands for one exit code of the command. `redact` removes secrets from
everything that is printed or logged.
"""

import os
import re
from dataclasses import dataclass

EXIT_FAILED, EXIT_USAGE, EXIT_HELD, EXIT_INTERRUPTED, EXIT_NO_READER, EXIT_TERMINATED = 1, 2, 3, 130, 141, 143


class UsageError(Exception):
    """Error that a person must fix, such as a wrong option, refused credentials or a missing bucket.

    The message is one line that says what to do. The command exits with code 2.
    """


class JobError(Exception):
    """Failure of a job whose input was right, such as a store that stopped answering. A retry may help.

    The command exits with code 1.
    """


class OutputHeldError(Exception):
    """Error of a run that cannot write to an output, because another run holds the output's lock or took it over.

    The message names the other run if it is known. The command exits with code 3.
    """


@dataclass(frozen=True)
class Failure:
    """The reason why one poster could not be scored.

    `stage` is fetch or decode. `reason` is a stable name, such as `not_found`, and `message` is for people. `etag`
    identifies the version of the object that was read. If nothing was read, `etag` is empty.
    """

    stage: str
    reason: str
    message: str
    etag: str = ""


def one_line(text: object, limit: int = 300) -> str:
    """Return any text as one line of at most `limit` characters, for messages and log lines.

    Each sequence of control characters, line breaks and spaces becomes one space. A longer text is cut and ends in an
    ellipsis.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def quoted(value: object) -> str:
    """Return a value as text for a message.

    A string becomes one line in single quotes, cut to 40 characters. Any other value becomes `str(value)`.
    """
    return f"'{one_line(value, 40)}'" if isinstance(value, str) else str(value)


def unreadable_output(output: str, error: Exception) -> UsageError:
    """Return the `UsageError` to raise if the existing files of an output cannot be read.

    `output` is the location of the output, for the message. `error` is the cause.
    """
    return UsageError(
        f"cannot read what {output} holds already ({one_line(error)}): check its name and the credentials"
    )


MASK = "***"
SECRET_NAMES = re.compile(
    r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|ACCESS_KEY|API_KEY|(STORAGE|ACCOUNT|MASTER|SAS)_KEY|CONNECTION_STRING",
    re.IGNORECASE,
)
PLACES = re.compile(  # ends of names without a secret
    r"(FILE|PATH|DIR|URI|URL|EXPIRATION|REGION|APPLICATION_CREDENTIALS)$", re.IGNORECASE
)
PART_OF_CONNECTION = re.compile(r"(?i)(?:AccountKey|SharedAccessSignature)=([^;]+)")  # in a connection string of Azure
SHORTEST = 6  # characters: a shorter value is not masked, because it may be part of an ordinary word
IN_URLS = (
    # user:password@host, but not container@account of Azure
    (re.compile(r"(?<=://)(?<!abfss://)(?<!az://)[^/\s@'\"]+@"), f"{MASK}@"),
    (re.compile(r"(?i)\b(X-Amz-(?:Signature|Credential|Security-Token)|sig|access_token)=[^&\s'\"]+"), rf"\1={MASK}"),
    (re.compile(r"(?i)\b(Bearer|Basic)\s+[\w.~+/=-]{8,}"), rf"\1 {MASK}"),
)


def redact(text: str) -> str:
    """Return `text` with `***` in place of secrets.

    Secrets are credentials in URLs and headers, and the values of environment variables with names such as
    AWS_SECRET_ACCESS_KEY. Values shorter than `SHORTEST` characters are not masked.
    """
    for value in _secrets():
        text = text.replace(value, MASK)
    for pattern, replacement in IN_URLS:
        text = pattern.sub(replacement, text)
    return text


def has_credentials(url: str) -> bool:
    """Return whether a URL carries a user name or a password, as in `https://user:password@host`."""
    return "@" in url.partition("://")[2].partition("/")[0]


def _secrets() -> list[str]:
    """Return the values of environment variables whose names suggest a secret, longest value first.

    Values shorter than `SHORTEST` characters are left out.
    """
    named = [v for name, v in os.environ.items() if SECRET_NAMES.search(name) and not PLACES.search(name)]
    parts = [part for value in named for part in PART_OF_CONNECTION.findall(value)]
    return sorted({value for value in named + parts if len(value) >= SHORTEST}, key=len, reverse=True)
