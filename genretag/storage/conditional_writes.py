"""Conditional writes, which the lock of an output needs: test a store for them, and do without them if necessary.

Most stores honour conditions. They refuse a PUT with `If-None-Match: *` if the object exists. They refuse a PUT with
`If-Match: ETAG` if the object has another version. Some stores answer every conditional PUT with an error. Others
ignore the condition, so two runs would both believe that they hold the output.
"""

import logging
import os
import time
from collections.abc import Callable

from genretag.errors import UsageError, one_line
from genretag.storage import Fetched, Storage, StorageError

logger = logging.getLogger(__name__)

VARIABLE = "GENRETAG_STORE_CONDITIONAL_WRITES"
WAIT_S = 3.0  # within which a write of another run that began together with ours takes effect
RENEW_S = 30.0  # for a renewal: far less than the lease, and nobody takes a lock before its lease ends


def lock_storage(uri: str, storage: Storage) -> Storage:
    """Return a storage whose `create` and `replace` can hold a lock: `storage`, or a `TimedStorage` of `storage`.

    The function writes a test object at `uri`, which must not exist, and deletes the object afterwards. On S3 with
    conditional writes, the test takes four writes, two reads and a delete. If the store ignores the conditions, the
    result is a `TimedStorage`. If GENRETAG_STORE_CONDITIONAL_WRITES is `off`, there is no test, and the result is a
    `TimedStorage`.

    Raises `StorageError`, with the reason `no_conditional_writes` if the store refuses conditional writes but accepts
    plain ones. Raises `UsageError` if the variable is neither `on` nor `off`.
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
        "the store takes no notice of conditional writes (If-None-Match, If-Match): the lock of the output is held by "
        "writing, waiting %g s and reading, which needs a store that answers within that time",
        WAIT_S,
    )
    return TimedStorage(storage)


def _are_kept(uri: str, storage: Storage) -> bool:
    """Return whether the store honours conditional writes, tested with the object `uri`.

    False means that the store ignores the conditions. Raises `StorageError` if the store refuses such writes.
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
    """Call `write`. Return whether it raises `StorageError` with this reason. Any other exception is raised."""
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
    """A storage for stores that ignore conditions. A write reads, writes, waits `WAIT_S` and reads again.

    A writer that then finds its own bytes has won. The last of several writers wins, and all others notice, if each
    write takes effect within `WAIT_S` of the read before it. This is Fischer's algorithm, in Lamport, "A fast mutual
    exclusion algorithm", 1987. If a write takes longer, the object is deleted again, so in doubt no run goes on.

    `replace` may take `RENEW_S`, because the run that renews its lock has been the only one for a while. If several
    runs replace the lock of a dead run, the workers of the losers stop at their next file.
    """

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage.endpoint_url, storage.encryption)
        self._s3 = storage._s3  # open already, because the time to open it would count

    def create(self, uri: str, data: bytes) -> str:
        """Write an object that must not exist yet, wait `WAIT_S`, and return the etag.

        Raises `StorageError`: `exists` if the object exists or another writer wins, `unavailable` if the write is slow.
        """
        began = time.monotonic()
        if self._found(uri) is not None:
            raise StorageError("exists", f"{uri} exists already")
        return self._settle(uri, data, began + WAIT_S, "exists")

    def replace(self, uri: str, data: bytes, etag: str) -> str:
        """Overwrite an object only if its etag is still `etag`, wait `WAIT_S`, and return the new etag.

        Raises `StorageError`: `changed` if the etag differs, the object is gone or another writer wins, and
        `unavailable` if the write is slow.
        """
        began = time.monotonic()
        found = self._found(uri)
        if found is None or found.etag != etag:
            raise StorageError("changed", f"{uri} was changed by another writer")
        return self._settle(uri, data, began + RENEW_S, "changed")

    def _settle(self, uri: str, data: bytes, deadline: float, lost: str) -> str:
        """Write `data`, wait `WAIT_S`, read the object again, and return its etag.

        If the object then holds other bytes, raise `StorageError` with the reason `lost`. If the write ended after
        `deadline` (in `time.monotonic`), delete the object and raise `StorageError` with the reason `unavailable`.
        """
        self.put(uri, data)
        too_late = time.monotonic() > deadline
        time.sleep(WAIT_S)
        found = self._found(uri)
        if found is None or bytes(found.data) != data:
            raise StorageError(lost, f"{uri} was written by another writer at the same time")
        if too_late:
            self.delete(uri)  # it may have overwritten the object of another run, which will stop
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
