"""What an error of S3 means: a stable reason, and one line that names the setting to check.

obstore tells most of it in its text alone, together with URLs, bodies and headers. Only the status, S3's own error
code and a few known words are taken from there, so that no secret, signature or signed URL gets into a message.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from genretag.errors import one_line
from genretag.storage.objects import StorageError

TRANSIENT = frozenset({"unavailable", "timeout"})
"""Reasons that may be gone at the next attempt."""

CREDENTIALS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
REGION = "check the region (AWS_REGION)"
ENDPOINT = "check the endpoint (--endpoint-url or AWS_ENDPOINT_URL)"

ANSWER = "Server returned non-2xx status code: "
PROVIDER = "External AWS credential provider: "
BARE_REDIRECT = "Received redirect without LOCATION"
CODE = re.compile(r"<Code>(\w+)</Code>")

CREDENTIAL_CODES = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "RequestTimeTooSkewed",
)
REGION_CODES = ("AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException")
FULL_CODES = ("InsufficientStorage", "QuotaExceeded", "XMinioStorageFull")  # of stores that are not AWS
AGAIN_CODES = ("RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch")  # 400, by a bad line
AGAIN_STATUSES = (408, 409, 429)  # 409: S3 says so while another conditional write is under way
FULL_STATUS = 507

WORDS = {  # what stands in Rust's account of a broken connection -> what to tell
    "ConnectionRefused": f"connection refused: {ENDPOINT}",
    "ConnectionReset": "the connection was reset",
    "BrokenPipe": "the connection was reset",
    "Incomplete": "the answer was cut short",
    "UnexpectedEof": "the answer was cut short",
    "dns error": f"the host name is not known: {ENDPOINT}",
    "ertificate": f"the server's certificate is not accepted: {ENDPOINT}",
}


@contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Turns obstore's exceptions into `StorageError`; the original is dropped, for what its text may hold."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError) as error:  # what is missing comes as the built-in FileNotFoundError
        raise s3_error(uri, error) from None


def s3_error(uri: str, error: Exception) -> StorageError:
    """The `StorageError` of an exception of obstore."""
    from obstore import exceptions

    text, _, details = str(error).partition("Debug source:")
    _, answered, answer = text.partition(ANSWER)
    if not answered:
        return _without_answer(uri, error, text, details)
    status, code = int(answer[:3]), _code(answer)
    if isinstance(error, exceptions.AlreadyExistsError) and status != 409:
        return StorageError("exists", f"{uri} exists already")
    if isinstance(error, exceptions.PreconditionError):
        return StorageError("changed", f"{uri} was changed by another writer")
    return of_answer(uri, status, code)


def _code(answer: str) -> str:
    found = CODE.search(answer)
    return found[1][:60] if found else ""


def of_answer(uri: str, status: int, code: str) -> StorageError:
    """The `StorageError` of an HTTP status and S3's own error code, if there is one."""
    said = f"{status} {code}".strip()
    bucket = "/".join(uri.split("/")[:3])
    if code in REGION_CODES or 300 <= status < 400:
        return StorageError("wrong_region", f"{bucket} is in another region ({said}): {REGION}")
    if code in CREDENTIAL_CODES or status == 401:
        return StorageError("credentials_refused", f"the credentials for {bucket} are refused ({said}): {CREDENTIALS}")
    if code == "NoSuchBucket":
        return StorageError("bucket_missing", f"the bucket {bucket} does not exist: check its name, and {ENDPOINT[6:]}")
    if status == FULL_STATUS or code in FULL_CODES:
        return StorageError("disk_full", f"the store has no space left for {uri} ({said})")
    if status == 403:
        return StorageError("access_denied", f"the store refuses access to {uri}: {CREDENTIALS}, and what they may do")
    if code in AGAIN_CODES or status in AGAIN_STATUSES or (status >= 500 and status != 501):
        return StorageError("unavailable", f"{uri}: the store answers {said}")
    if status == 404:
        return StorageError("not_found", f"{uri} does not exist")
    return StorageError("refused", f"{uri}: the store refuses the request ({said})")


def _without_answer(uri: str, error: Exception, text: str, details: str) -> StorageError:
    if isinstance(error, FileNotFoundError):
        return StorageError("not_found", f"{uri} does not exist")
    _, provided, why = text.partition(PROVIDER)
    if provided:
        return StorageError("credentials_refused", f"no credentials ({one_line(why, 200)}): {CREDENTIALS}")
    if BARE_REDIRECT in text:
        return of_answer(uri, 301, "")
    if "kind: Timeout" in details or "TimedOut" in details:
        return StorageError("timeout", f"{uri}: the store did not answer in time, or not with all of it")
    said = next((meaning for word, meaning in WORDS.items() if word in details), "the connection failed")
    return StorageError("unavailable", f"{uri}: {said}")
