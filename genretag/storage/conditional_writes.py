"""Choose how to lock an output: by conditional writes or, if the store ignores conditions, by waiting and re-reading.

Most stores honour conditions. They refuse a PUT with `If-None-Match: *` if the object exists. They refuse a PUT with
`If-Match: ETAG` if the object has another version. Some stores answer every conditional PUT with an error. Others
ignore the condition, so two runs could both get the lock of the same output.
"""

import logging
import os
import time
from collections.abc import Callable

from genretag.errors import UsageError, one_line
from genretag.storage import Fetched, Storage, StorageError

logger = logging.getLogger(__name__)

VARIABLE = "GENRETAG_STORE_CONDITIONAL_WRITES"
WAIT_S = 3.0  # a competing write that began at the same time as ours is expected to take effect within this time
RENEW_S = 30.0  # limit for a renewal: far less than the lease, and no other run takes a lock before its lease ends


def lock_storage(uri: str, storage: Storage) -> Storage:
    """Return a storage whose `create` and `replace` are safe for a lock: `storage`, or a `TimedStorage` of `storage`.

    To test the store, write a test object at `uri`, which must not exist, and delete the object afterwards. On S3 with
    conditional writes, the test takes four writes, two reads and a delete. If the store ignores the conditions, return
    a `TimedStorage`. If GENRETAG_STORE_CONDITIONAL_WRITES is `off`, do not test, and return a `TimedStorage`.

    Raises `StorageError`, with the reason `no_conditional_writes` if the store refuses conditional writes but accepts
    plain ones. Raises `UsageError` if GENRETAG_STORE_CONDITIONAL_WRITES is neither `on` nor `off`.
    """
    wanted = os.environ.get(VARIABLE, "on")
    if wanted not in ("on", "off"):
        raise UsageError(f"{VARIABLE} is on or off, not {one_line(wanted, 40)!r}")
    if wanted == "off":
        return TimedStorage(storage)
    try:
        kept = _are_kept(uri, storage)
    finally:
        _remove(uri, storage)
    if kept:
        return storage
    logger.warning(
        "the store ignores conditional writes (If-None-Match, If-Match): to take the lock of the output, the run "
        "writes, waits %g s and reads again, so the store must answer within that time",
        WAIT_S,
    )
    return TimedStorage(storage)


def _are_kept(uri: str, storage: Storage) -> bool:
    """Write the test object `uri`. Return True if the store honours conditional writes, False if it ignores conditions.

    Raises `StorageError`, with the reason `no_conditional_writes` if the store refuses only conditional writes.
    """
    try:
        etag = storage.create(uri, b"first")
        if not _is_refused(lambda: storage.create(uri, b"second"), "exists"):
            return False
        if not _is_refused(lambda: storage.replace(uri, b"third", "0" * 32), "changed"):
            return False
        storage.replace(uri, b"fourth", etag)
    except StorageError as error:
        if error.reason not in ("refused", "changed"):
            raise
        storage.put(uri, b"plain")  # raises if the store refuses plain writes too
        raise StorageError(
            "no_conditional_writes",
            f"{error}; the lock of an output needs conditional writes (If-None-Match and If-Match; flock in a "
            f"folder), and plain writes work there: name another output, or set {VARIABLE}=off to do without",
        ) from error
    return True


def _is_refused(write: Callable[[], object], reason: str) -> bool:
    """Call `write`. Return whether it raises `StorageError` with the reason `reason`. Let other exceptions pass."""
    try:
        write()
    except StorageError as error:
        if error.reason != reason:
            raise
        return True
    return False


def _remove(uri: str, storage: Storage) -> None:
    """Delete the test object. If that fails, only log the error at the level DEBUG."""
    try:
        storage.delete(uri)
    except StorageError as error:
        logger.debug("%s stays behind: %s", uri, error)


class TimedStorage(Storage):
    """A storage for stores that ignore write conditions. `create` and `replace` read, write, wait and read again.

    A writer waits `WAIT_S` seconds, and succeeds if the second read returns the writer's own bytes. Of several writers,
    only the last one succeeds, if each write takes effect within `WAIT_S` after the writer's first read. This is
    Fischer's algorithm, in Lamport, "A fast mutual exclusion algorithm", 1987. If a write takes longer, the writer
    deletes the object and fails. So in doubt, no run gets the lock.

    The write of `replace` may take longer, up to `RENEW_S`. A run mostly replaces its own lock to renew it, and then no
    other run competes. But several runs may replace the lock of a dead run. If one of these writes is slow, two runs
    may believe for a moment that they hold the lock. The run that lost stops before it writes its next file.
    """

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage.endpoint_url, storage.encryption, storage.access)
        self._stores = storage._stores  # open already, because opening takes time, which counts towards WAIT_S

    def create(self, uri: str, data: bytes) -> str:
        """Write an object that must not exist yet, wait `WAIT_S`, and return the etag.

        Raises `StorageError` with the reason `exists` if the object exists, or if another writer overwrites it during
        the wait. If the write takes longer than `WAIT_S`, the reason is `unavailable`.
        """
        began = time.monotonic()
        if self._found(uri) is not None:
            raise StorageError("exists", f"{uri} exists already")
        return self._settle(uri, data, began + WAIT_S, "exists")

    def replace(self, uri: str, data: bytes, etag: str) -> str:
        """Overwrite an object only if its etag is still `etag`, wait `WAIT_S`, and return the new etag.

        Raises `StorageError` with the reason `changed` if the etag differs, if the object is gone, or if another writer
        overwrites it during the wait. If the write takes longer than `RENEW_S`, the reason is `unavailable`.
        """
        began = time.monotonic()
        found = self._found(uri)
        if found is None or found.etag != etag:
            raise StorageError("changed", f"{uri} was changed by another writer")
        return self._settle(uri, data, began + RENEW_S, "changed")

    def _settle(self, uri: str, data: bytes, deadline: float, lost: str) -> str:
        """Write `data`, wait `WAIT_S`, read the object again, and return its etag.

        If the object then holds other bytes, raise `StorageError` with the argument `lost` as its reason. If the write
        ended after `deadline` (by `time.monotonic`), delete the object and raise `StorageError` with the reason
        `unavailable`.
        """
        self.put(uri, data)
        too_late = time.monotonic() > deadline
        time.sleep(WAIT_S)
        found = self._found(uri)
        if found is None or bytes(found.data) != data:
            raise StorageError(lost, f"{uri} was written by another writer at the same time")
        if too_late:
            self.delete(uri)  # our late write may have overwritten the lock of another run, which will then stop
            raise StorageError("unavailable", f"{uri}: the store took too long to write, so no lock is sure")
        return found.etag

    def _found(self, uri: str) -> Fetched | None:
        """Return the content and the etag of an object, or None if the object does not exist."""
        try:
            return self.get(uri)
        except StorageError as error:
            if error.reason != "not_found":
                raise
            return None
