"""Turn the errors of stores into a `StorageError` with a stable reason and one line: the store's text, and advice.

obstore gives most details only in the text of an exception, together with URLs, bodies and headers. Only the status,
the store's error code and message, and a few known words are taken from that text. So no secret, signature or signed
URL gets into a message.

All stores answer with XML that has a code and a message. What a code means, and what a user can check, differs between
clouds: each has an `Advice` (in `s3_errors`, `google` and `azure`).
"""

import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import unescape

from genretag.errors import one_line, redact
from genretag.storage.objects import StorageError

ANSWER = "Server returned non-2xx status code: "
PROVIDER = re.compile(r"External \w+ credential provider: |Unable to fetch [^:]*credential[^:]*: ", re.IGNORECASE)
BARE_REDIRECT = "Received redirect without LOCATION"
CODE = re.compile(r"<Code>([\w.]+)</Code>")
WORDS_OF_STORE = re.compile(r"<Message>([^<]{1,2000})</Message>")
SIGNED = re.compile(r"(?i)(signature|credential|sig)=|AWS4-HMAC")  # in a message, this may be a signed URL or header
LONGEST_WORDS = 160
AGAIN_STATUSES = (408, 409, 429)  # 409: another conditional write to the object is running
FULL_STATUS = 507

WORDS = {  # word in obstore's text about a failed connection -> text for our message
    "ConnectionRefused": "connection refused: {endpoint}",
    "ConnectionReset": "the connection was reset",
    "BrokenPipe": "the connection was reset",
    "Incomplete": "the answer was cut short",
    "UnexpectedEof": "the answer was cut short",
    "dns error": "the host name is not known: {endpoint}",
}
CERTIFICATE = "ertificate"
CLOCK = f"the clock of {platform.node() or 'this machine'} is wrong, set it (NTP)"  # in a worker, of the worker's node


@dataclass(frozen=True)
class Advice:
    """What the users of one cloud can check, and its error codes that say more than the status.

    The texts are parts of messages. Codes that are in no table are judged by the status.
    """

    credentials: str
    endpoint: str
    region: str
    trust: str
    policy: str = "the bucket's policy"
    of_writes: str = ""  # added if a write is denied; empty: nothing
    of_keys: str = ""  # advice on keys of the cloud's key service, for codes that begin with KMS.
    credential_codes: Mapping[str, str] = field(default_factory=dict)  # code -> what to do
    other_words: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # the store's words -> reason, what to do
    bucket_codes: tuple[str, ...] = ("NoSuchBucket",)
    account_codes: tuple[str, ...] = ()
    address_codes: Mapping[str, str] = field(default_factory=dict)
    archived_codes: tuple[str, ...] = ()
    region_codes: tuple[str, ...] = ()
    full_codes: tuple[str, ...] = ()
    refused_codes: Mapping[str, str] = field(default_factory=dict)  # code -> what to do; a retry is of no use
    again_codes: tuple[str, ...] = ()  # of temporary errors, whatever their status


class NoTokenNow(StorageError):
    """The server that gives tokens for a store does not answer. obstore passes the name of the class on in its text."""


@dataclass(frozen=True)
class Answer:
    """The error answer of a store to one request. `str(answer)` gives the status, the code and the store's message."""

    status: int
    code: str = ""  # the store's error code, or empty
    words: str = ""  # the store's message for people, or empty
    writing: bool = False  # True: the request was a write

    def __str__(self) -> str:
        code = f"{self.status} {self.code}".strip()
        return f"{code}: {self.words}" if self.words else code


def words_of(text: str) -> str:
    """Return a store's message `text` as one line of at most 160 characters without secrets.

    If the message might contain a signature, return an empty text.
    """
    said = unescape(text).partition("RequestId:")[0].strip()  # Azure adds the request's id and the time
    words = redact(one_line(said, LONGEST_WORDS)).rstrip(".")
    return "" if SIGNED.search(words) else words


@contextmanager
def storage_errors(uri: str, advice: Advice, *, writing: bool = False) -> Iterator[None]:
    """Turn obstore's exceptions in the `with` block into `StorageError`, with a message that names `uri`.

    The original exception is dropped, because its text may contain secrets. Set `writing` for writes: if access is
    denied, the message then also gives the cloud's advice on writes.
    """
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError) as error:  # a missing object raises the built-in FileNotFoundError
        raise store_error(uri, error, advice, writing=writing) from None


def store_error(uri: str, error: Exception, advice: Advice, *, writing: bool = False) -> StorageError:
    """Return the `StorageError` for an exception of obstore about the object `uri`.

    Set `writing` for writes: if access is denied, the message then also gives the cloud's advice on writes.
    """
    from obstore import exceptions

    text, _, details = str(error).partition("Debug source:")
    _, answered, answer = text.partition(ANSWER)
    if not answered:
        return _without_answer(uri, error, text, details, advice)
    status, code, words = int(answer[:3]), CODE.search(answer), WORDS_OF_STORE.search(answer)
    name = code[1][:60] if code else ""
    if isinstance(error, exceptions.AlreadyExistsError) and (status != 409 or name in EXISTS_CODES):
        return StorageError("exists", f"{uri} exists already")
    if isinstance(error, exceptions.PreconditionError):
        return StorageError("changed", f"{uri} was changed by another writer")
    return of_answer(uri, Answer(status, name, words_of(words[1]) if words else "", writing), advice)


EXISTS_CODES = ("BlobAlreadyExists",)  # Azure's code with 409, with which S3 says that another write is running


def of_answer(uri: str, said: Answer, advice: Advice) -> StorageError:
    """Return the `StorageError` for the error answer `said` of a store to a request about the object `uri`.

    If the status or the error code shows what a user can do, the message says so.
    """
    status, code, bucket = said.status, said.code, "/".join(uri.split("/")[:3])
    for words, (reason, what) in advice.other_words.items():
        if words in said.words:
            return StorageError(reason, f"{bucket}: {what} ({said})")
    if code in advice.region_codes or 300 <= status < 400:
        return StorageError("wrong_region", f"{bucket} is in another region ({said}): {advice.region}")
    if code in advice.credential_codes or status == 401:
        what = advice.credential_codes.get(code, advice.credentials)
        return StorageError("credentials_refused", f"the credentials for {bucket} are refused ({said}): {what}")
    if code in advice.bucket_codes:
        check = advice.endpoint.removeprefix("check ")
        return StorageError("bucket_missing", f"the bucket {bucket} does not exist: check its name, and {check}")
    if status == FULL_STATUS or code in advice.full_codes:
        return StorageError("disk_full", f"the store has no space left for {uri} ({said})")
    if code in advice.address_codes:
        return StorageError("refused", f"{bucket}: {advice.address_codes[code].format(said=said)}")
    if code in advice.archived_codes:
        return StorageError("archived", f"{uri} is archived ({said}): restore it, then run with --retry-failed")
    if code in advice.refused_codes:
        return StorageError("refused", f"{uri}: the store refuses the request ({said}): {advice.refused_codes[code]}")
    if _passes(status, code, advice):
        return StorageError("unavailable", f"{uri}: the store answers {said}")
    if status == 403 or code in advice.account_codes or code.startswith("KMS."):
        who = _who_may(said, advice)
        return StorageError("access_denied", f"the store refuses access to {uri} ({said}): {who}")
    if status == 404:
        return StorageError("not_found", f"{uri} does not exist")
    return StorageError("refused", f"{uri}: the store refuses the request ({said})")


def _passes(status: int, code: str, advice: Advice) -> bool:
    """Return whether an error is temporary, by the status and the error code of the store's answer."""
    if code in advice.again_codes or status in AGAIN_STATUSES:
        return True
    return status >= 500 and status != 501


def _who_may(said: Answer, advice: Advice) -> str:
    """Return the advice for a message about denied access: what the user can check, or whom to ask."""
    if said.code in advice.account_codes:
        return "the account or the bucket is disabled: its owner must act"
    if advice.of_keys and (said.code.startswith("KMS.") or "kms:" in said.words):
        return advice.of_keys
    check = "check what these credentials may do"
    if "explicit deny" in said.words:
        check = "a policy denies it, so other keys of the account may not help: ask whoever maintains the policy"
    elif not said.code:  # for example after HEAD, whose answers have no body
        check = f"{advice.credentials}, what they may do, and {advice.policy}"
    else:
        check += f", and {advice.policy}"
    return f"{check}; {advice.of_writes}" if said.writing and advice.of_writes else check


def _without_answer(uri: str, error: Exception, text: str, details: str, advice: Advice) -> StorageError:
    """Return the `StorageError` for an exception of obstore that contains no answer of the store.

    `text` is the exception's text before its debug information, and `details` is the debug information.
    """
    if isinstance(error, FileNotFoundError):
        return StorageError("not_found", f"{uri} does not exist")
    if provided := PROVIDER.search(text):
        why = one_line(text[provided.end() :], 200)
        if why.startswith(NoTokenNow.__name__):
            return StorageError("unavailable", f"{uri}: {why.partition(': ')[2]}")
        return StorageError("credentials_refused", f"no credentials ({why}): {advice.credentials}")
    if BARE_REDIRECT in text:
        return of_answer(uri, Answer(301), advice)
    if CERTIFICATE in details:
        return StorageError("certificate_refused", f"{uri}: {advice.trust}")
    if "kind: Timeout" in details or "TimedOut" in details:
        return StorageError("timeout", f"{uri}: the store did not send its whole answer in time")
    said = next((meaning for word, meaning in WORDS.items() if word in details), "the connection failed")
    return StorageError("unavailable", f"{uri}: {said.format(endpoint=advice.endpoint)}")
