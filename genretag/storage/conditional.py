"""Conditional writes, of which a lock is made: whether a store keeps to them, and what to do where it does not.

Most stores refuse a PUT with `If-None-Match: *` where the object is there, and one with `If-Match: ETAG` where it is
of another version. Some answer such a PUT with an error, always; others take no notice of the condition, so that two
runs would both believe that they hold an output.
"""

import logging
import os
import time
from collections.abc import Callable

from genretag.errors import UsageError, one_line
from genretag.storage import Fetched, Storage, StorageError

VARIABLE = "GENRETAG_STORE_CONDITIONAL_WRITES"
WAIT_S = 3.0  # in which a write of another run takes effect that began when ours did
RENEW_S = 30.0  # for a renewal: far less than the lease, before whose end nobody takes a lock away

logger = logging.getLogger(__name__)


def lock_storage(uri: str, storage: Storage) -> Storage:
    """Return the storage whose `create` and `replace` can hold a lock: the given one, or a `TimedStorage` of it.

    Tries them on an object of its own, `uri`, which it removes: four writes, two reads and a delete. Raises
    `StorageError`: `no_conditional_writes` where the store refuses them, and what any write may raise.
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
        storage.put(uri, b"plain")  # raises where it was not the condition that was refused
        raise StorageError(
            "no_conditional_writes",
            f"{error}; the lock of an output needs conditional writes (If-None-Match and If-Match; flock in a "
            f"folder), and plain writes work there: name another output, or set {VARIABLE}=off to do without",
        ) from error
    return True


def _is_refused(write: Callable[[], object], reason: str) -> bool:
    try:
        write()
    except StorageError as error:
        if error.reason != reason:
            raise
        return True
    return False


def _remove(uri: str, storage: Storage) -> None:
    try:
        storage.delete(uri)
    except StorageError as error:
        logger.debug("%s stays behind: %s", uri, error)


class TimedStorage(Storage):
    """Creates and replaces by reading, writing, waiting `WAIT_S` and reading again: who finds his own bytes has won.

    The last of several writers wins, and all others learn of it, if each write takes effect within `WAIT_S` of the
    read before it: Fischer's algorithm, in Lamport, "A fast mutual exclusion algorithm", 1987. What took longer is
    taken back, so that in doubt no run goes on. Only to replace a lock may take `RENEW_S`: a run that does so was the
    only one for a while, and of those that replace a dead run's, the workers of the loser stop at their next file.
    """

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage.endpoint_url, storage.encryption)
        self._s3 = storage._s3  # open already: to open it takes time that would count

    def create(self, uri: str, data: bytes) -> str:
        """As `Storage.create`."""
        began = time.monotonic()
        if self._found(uri) is not None:
            raise StorageError("exists", f"{uri} exists already")
        return self._settle(uri, data, began + WAIT_S, "exists")

    def replace(self, uri: str, data: bytes, etag: str) -> str:
        """As `Storage.replace`."""
        began = time.monotonic()
        found = self._found(uri)
        if found is None or found.etag != etag:
            raise StorageError("changed", f"{uri} was changed by another writer")
        return self._settle(uri, data, began + RENEW_S, "changed")

    def _settle(self, uri: str, data: bytes, deadline: float, lost: str) -> str:
        self.put(uri, data)
        too_late = time.monotonic() > deadline
        time.sleep(WAIT_S)
        found = self._found(uri)
        if found is None or bytes(found.data) != data:
            raise StorageError(lost, f"{uri} was written by another writer at the same time")
        if too_late:
            self.delete(uri)  # it may have taken the place of another's, who will stop
            raise StorageError("unavailable", f"{uri}: the store took too long to write, so no lock is sure")
        return found.etag

    def _found(self, uri: str) -> Fetched | None:
        try:
            return self.get(uri)
        except StorageError as error:
            if error.reason != "not_found":
                raise
            return None
