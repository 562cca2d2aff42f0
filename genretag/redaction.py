"""Secrets are taken out of whatever is printed or logged, wherever it came from."""

import os
import re

MASK = "***"
SECRET_NAMES = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|ACCESS_KEY|API_KEY", re.IGNORECASE)
PLACES = re.compile(r"(FILE|PATH|DIR|URI|URL|EXPIRATION|REGION)$", re.IGNORECASE)  # these say where secrets are
SHORTEST = 6  # of a secret: a shorter value would blot out words
IN_URLS = (
    (re.compile(r"(?<=://)[^/\s@'\"]+@"), f"{MASK}@"),  # user:password@host
    (re.compile(r"(?i)\b(X-Amz-(?:Signature|Credential|Security-Token)|sig|access_token)=[^&\s'\"]+"), rf"\1={MASK}"),
    (re.compile(r"(?i)\b(Bearer|Basic)\s+[\w.~+/=-]{8,}"), rf"\1 {MASK}"),
)


def redact(text: str) -> str:
    """The text without the values of secret environment variables, and without credentials in URLs and headers."""
    for value in _secrets():
        text = text.replace(value, MASK)
    for pattern, replacement in IN_URLS:
        text = pattern.sub(replacement, text)
    return text


def has_credentials(url: str) -> bool:
    """Whether a URL carries a user name or a password."""
    return "@" in url.partition("://")[2].partition("/")[0]


def _secrets() -> list[str]:
    """The values of variables that are called like secrets, longest first."""
    named = (v for name, v in os.environ.items() if SECRET_NAMES.search(name) and not PLACES.search(name))
    return sorted({value for value in named if len(value) >= SHORTEST}, key=len, reverse=True)
