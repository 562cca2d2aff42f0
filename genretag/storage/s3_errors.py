"""Turn errors of S3 into a `StorageError` with a stable reason and one line: the store's code and text, and advice.

obstore gives most details only in the text of an exception, together with URLs, bodies and headers. Only the status,
S3's error code and message, and a few known words are taken from that text. So no secret, signature or signed URL gets
into a message.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from typing import TypeVar

from genretag.errors import one_line, redact
from genretag.storage.objects import StorageError

Result = TypeVar("Result")


CREDENTIALS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
REGION = "check the region (AWS_REGION)"
ENDPOINT = "check the endpoint (--endpoint-url or AWS_ENDPOINT_URL)"
NEW_SESSION = "the session has ended, log in again (aws sso login, AWS_PROFILE) or renew AWS_SESSION_TOKEN"
VIRTUAL = "set AWS_VIRTUAL_HOSTED_STYLE_REQUEST=true, or addressing_style = virtual below s3 in the AWS profile"
ENCRYPTION = "where the bucket demands encryption, set AWS_SERVER_SIDE_ENCRYPTION (AES256 or aws:kms)"
KMS = (
    "check that the KMS key is enabled and in the bucket's region, and that its policy and yours allow kms:Decrypt "
    "(to read) and kms:GenerateDataKey (to write)"
)

ANSWER = "Server returned non-2xx status code: "
PROVIDER = "External AWS credential provider: "
BARE_REDIRECT = "Received redirect without LOCATION"
CODE = re.compile(r"<Code>([\w.]+)</Code>")
WORDS_OF_STORE = re.compile(r"<Message>([^<]{1,2000})</Message>")
SIGNED = re.compile(r"(?i)(signature|credential)=|AWS4-HMAC")  # in a message, this may be a signed URL or header
LONGEST_WORDS = 160

CREDENTIAL_CODES = {  # error code -> what to do
    "InvalidAccessKeyId": f"the store does not know this key, {CREDENTIALS}",
    "SignatureDoesNotMatch": f"the secret does not belong to the key, {CREDENTIALS}",
    "ExpiredToken": NEW_SESSION,
    "TokenRefreshRequired": NEW_SESSION,
    "InvalidToken": f"the session token is damaged or belongs to other keys, check AWS_SESSION_TOKEN; {CREDENTIALS}",
    "RequestTimeTooSkewed": "the clock of this machine is wrong, set it (NTP); the keys may be right",
}
ACCOUNT_CODES = ("AllAccessDisabled", "AccountProblem", "UserSuspended", "NotSignedUp", "UserDisable")
ADDRESS_CODES = ("SecondLevelDomainForbidden", "PathStyleDomainForbidden")  # of Aliyun OSS and Tencent COS
ARCHIVED_CODE = "InvalidObjectState"
REGION_CODES = ("AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException")
OTHER_ENDPOINT = "must be addressed using the specified endpoint"  # Aliyun OSS sends this with the code AccessDenied
FULL_CODES = ("InsufficientStorage", "QuotaExceeded", "XMinioStorageFull")  # of stores that are not AWS
# Codes of temporary errors. Those of AGAIN_CODES come with status 400, because the connection is bad.
AGAIN_CODES = ("RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch")
AGAIN_KMS_CODES = ("KMS.ThrottlingException", "KMS.InternalException", "KMS.KMSInternalException")
AGAIN_STATUSES = (408, 409, 429)  # 409: another conditional write to the object is running
FULL_STATUS = 507

WORDS = {  # word in obstore's text about a failed connection -> text for our message
    "ConnectionRefused": f"connection refused: {ENDPOINT}",
    "ConnectionReset": "the connection was reset",
    "BrokenPipe": "the connection was reset",
    "Incomplete": "the answer was cut short",
    "UnexpectedEof": "the answer was cut short",
    "dns error": f"the host name is not known: {ENDPOINT}",
}


CERTIFICATE = "ertificate"
NO_TRUST = (
    "the server's certificate is not accepted: name the file of its authority with AWS_CA_BUNDLE "
    f"(or ca_bundle in the AWS profile), and {ENDPOINT}"
)


@dataclass(frozen=True)
class Answer:
    """The error answer of a store to one request. `str(answer)` gives the status, the code and the store's message."""

    status: int
    code: str = ""  # S3's error code, or empty
    words: str = ""  # the store's message for people, or empty
    writing: bool = False  # True: the request was a write

    def __str__(self) -> str:
        code = f"{self.status} {self.code}".strip()
        return f"{code}: {self.words}" if self.words else code


def words_of(text: str) -> str:
    """Return a store's message `text` as one line of at most 160 characters without secrets.

    If the message might contain a signature, return an empty text.
    """
    words = redact(one_line(unescape(text), LONGEST_WORDS)).rstrip(".")
    return "" if SIGNED.search(words) else words


@contextmanager
def storage_errors(uri: str, *, writing: bool = False) -> Iterator[None]:
    """Turn obstore's exceptions in the `with` block into `StorageError`, with a message that names `uri`.

    The original exception is dropped, because its text may contain secrets. Set `writing` for writes: if access is
    denied, the message then also gives advice on encryption.
    """
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError) as error:  # a missing object raises the built-in FileNotFoundError
        raise s3_error(uri, error, writing=writing) from None


def s3_error(uri: str, error: Exception, *, writing: bool = False) -> StorageError:
    """Return the `StorageError` for an exception of obstore about the object `uri`.

    Set `writing` for writes: if access is denied, the message then also gives advice on encryption.
    """
    from obstore import exceptions

    text, _, details = str(error).partition("Debug source:")
    _, answered, answer = text.partition(ANSWER)
    if not answered:
        return _without_answer(uri, error, text, details)
    status, code, words = int(answer[:3]), CODE.search(answer), WORDS_OF_STORE.search(answer)
    if isinstance(error, exceptions.AlreadyExistsError) and status != 409:
        return StorageError("exists", f"{uri} exists already")
    if isinstance(error, exceptions.PreconditionError):
        return StorageError("changed", f"{uri} was changed by another writer")
    return of_answer(uri, Answer(status, code[1][:60] if code else "", words_of(words[1]) if words else "", writing))


def of_answer(uri: str, said: Answer) -> StorageError:
    """Return the `StorageError` for the error answer `said` of a store to a request about the object `uri`.

    If the status or the error code shows what a user can do, the message says so.
    """
    status, code, bucket = said.status, said.code, "/".join(uri.split("/")[:3])
    if code in REGION_CODES or 300 <= status < 400:
        return StorageError("wrong_region", f"{bucket} is in another region ({said}): {REGION}")
    if OTHER_ENDPOINT in said.words:
        return StorageError("wrong_region", f"{bucket} is at another endpoint ({said}): {ENDPOINT}, and {REGION[6:]}")
    if code in CREDENTIAL_CODES or status == 401:
        advice = CREDENTIAL_CODES.get(code, CREDENTIALS)
        return StorageError("credentials_refused", f"the credentials for {bucket} are refused ({said}): {advice}")
    if code == "NoSuchBucket":
        return StorageError("bucket_missing", f"the bucket {bucket} does not exist: check its name, and {ENDPOINT[6:]}")
    if status == FULL_STATUS or code in FULL_CODES:
        return StorageError("disk_full", f"the store has no space left for {uri} ({said})")
    if code in ADDRESS_CODES:
        return StorageError("refused", f"{bucket}: the store wants the bucket's name in the host ({said}): {VIRTUAL}")
    if code == ARCHIVED_CODE:
        return StorageError("archived", f"{uri} is archived ({said}): restore it, then run with --retry-failed")
    if _passes(status, code):
        return StorageError("unavailable", f"{uri}: the store answers {said}")
    if status == 403 or code in ACCOUNT_CODES or code.startswith("KMS."):
        return StorageError("access_denied", f"the store refuses access to {uri} ({said}): {_who_may(said)}")
    if status == 404:
        return StorageError("not_found", f"{uri} does not exist")
    return StorageError("refused", f"{uri}: the store refuses the request ({said})")


def _passes(status: int, code: str) -> bool:
    """Return whether an error is temporary, by the status and the error code of the store's answer."""
    if code in AGAIN_CODES + AGAIN_KMS_CODES or status in AGAIN_STATUSES:
        return True
    return status >= 500 and status != 501


def _who_may(said: Answer) -> str:
    """Return the advice for a message about denied access: what the user can check, or whom to ask."""
    if said.code in ACCOUNT_CODES:
        return "the account or the bucket is disabled: its owner must act"
    if said.code.startswith("KMS.") or "kms:" in said.words:
        return KMS
    advice = "check what these credentials may do"
    if "explicit deny" in said.words:
        advice = "a policy denies it, so other keys of the account may not help: ask whoever maintains the policy"
    elif not said.code:  # for example after HEAD, whose answers have no body
        advice = f"{CREDENTIALS}, what they may do, and the bucket's policy"
    else:
        advice += ", and the bucket's policy"
    return f"{advice}; {ENCRYPTION}" if said.writing else advice


def _without_answer(uri: str, error: Exception, text: str, details: str) -> StorageError:
    """Return the `StorageError` for an exception of obstore that contains no answer of the store.

    `text` is the exception's text before its debug information, and `details` is the debug information.
    """
    if isinstance(error, FileNotFoundError):
        return StorageError("not_found", f"{uri} does not exist")
    _, provided, why = text.partition(PROVIDER)
    if provided:
        return StorageError("credentials_refused", f"no credentials ({one_line(why, 200)}): {CREDENTIALS}")
    if BARE_REDIRECT in text:
        return of_answer(uri, Answer(301))
    if CERTIFICATE in details:
        return StorageError("certificate_refused", f"{uri}: {NO_TRUST}")
    if "kind: Timeout" in details or "TimedOut" in details:
        return StorageError("timeout", f"{uri}: the store did not send its whole answer in time")
    said = next((meaning for word, meaning in WORDS.items() if word in details), "the connection failed")
    return StorageError("unavailable", f"{uri}: {said}")
