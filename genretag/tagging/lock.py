"""One writer for one output: a lease in the output itself, renewed while the run lives.

The lease is the object `OUTPUT/_lock.json`. It is created and renewed by conditional writes, so of several runs
one wins; whether the store keeps to the conditions is tried first. A run that finds it held stops, unless the holder
is dead: its process is gone from this very machine, or its last renewal is older than the lease by the store's own
clock (nobody else's clock is asked).

A run's workers may outlive it for a moment. So each of them asks for the lock before it writes a file, and who takes
an output over waits until what they had begun has ended, before it looks at what is there. A run that was suspended
(SIGSTOP, a laptop's lid, a virtual machine that is moved) may go on after another has taken its place: it asks for the
lock before each step that others would see, and whatever goes wrong in it is explained by the loss.
"""

import getpass
import json
import logging
import os
import posixpath
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from genretag.errors import OutputHeldError, one_line, quoted
from genretag.storage import Storage, StorageError, join
from genretag.storage.conditional import lock_storage

LOCK = "_lock.json"
LEASE_S = 120.0  # how long a run may be silent before another takes its place
RENEWALS_PER_LEASE = 6  # so that a few lost renewals do no harm
SETTLE_S = 3.0  # for a dead run's last writes to end: Ray ends its workers within a second or two

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """Who holds an output. `place` names the machine since its last boot and the process namespace."""

    run_id: str
    host: str
    user: str
    place: str
    pid: int
    since: str
    renewals: int = 0

    @staticmethod
    def this_process(run_id: str) -> "Holder":
        """The holder that this process would be."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return Holder(run_id, socket.gethostname(), _user(), _place(), os.getpid(), since)

    def is_surely_dead(self) -> bool:
        """Whether its process ran on this very machine and is gone."""
        if not self.place or self.place != _place():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def __str__(self) -> str:
        return f"run {one_line(self.run_id, 60)} of {quoted(self.user)} on {quoted(self.host)} since {self.since}"


@contextmanager
def output_lock(
    output: str,
    run_id: str,
    storage: Storage,
    on_lost: Callable[[str], None],
    *,
    break_lock: bool = False,
    lease_s: float = LEASE_S,
) -> Iterator[None]:
    """Holds the output for this run, and lets go of it at the end.

    `on_lost` is called from another thread, with the line to tell, where the lease was taken away. Raises
    `OutputHeldError` where another run holds it, `StorageError` where the output cannot be written.
    """
    uri = join(output, LOCK)
    me = Holder.this_process(run_id)
    storage = lock_storage(f"{uri}.{run_id}", storage)
    etag, taken_over = _acquire(uri, me, storage, break_lock, lease_s)
    lease = _Lease(uri, me, etag, storage, on_lost, lease_s)
    renewing = threading.Thread(target=lease.renew_until_stopped, name="output-lock", daemon=True)
    renewing.start()
    try:
        if taken_over:
            time.sleep(SETTLE_S)
        yield
    finally:
        lease.stop()
        renewing.join()
        lease.release()


def require_held(output: str, run_id: str, storage: Storage) -> None:
    """Raises `OutputHeldError` where this run does not hold the output any more, and says who took it over."""
    try:
        holder = json.loads(bytes(storage.get(join(output, LOCK)).data))["run_id"]
    except (ValueError, KeyError, TypeError):
        holder = None
    except StorageError as error:
        if error.reason != "not_found":
            raise
        holder = None
    if holder == run_id:
        return
    by = f"by run {one_line(holder, 60)}" if holder else _by_whom_that_ended(output, run_id, storage)
    raise OutputHeldError(f"{output} was taken over {by}, this run stops; what it had finished is kept")


def age_s(uri: str, storage: Storage, clock: str) -> float:
    """Return for how long an object has been as it is, by the store's own clock; `clock` is the URI of one to write.

    Raises `StorageError`.
    """
    storage.put(clock, b"")
    age = storage.stat(clock).last_modified - storage.stat(uri).last_modified
    storage.delete(clock)
    return age.total_seconds()


def _by_whom_that_ended(output: str, run_id: str, storage: Storage) -> str:
    """The first run that began after this one and has published its record: names of runs sort by time."""
    try:
        listed = [info.uri for page in storage.list(join(output, "runs")) for info in page]
    except StorageError:
        listed = []
    published = {posixpath.basename(posixpath.dirname(uri)) for uri in listed if uri.endswith("/run.json")}
    later = min((run for run in published if run > run_id), default=None)
    return f"by run {one_line(later, 60)}, which has ended since" if later else "and let go of"


def _acquire(uri: str, me: Holder, storage: Storage, break_lock: bool, lease_s: float) -> tuple[str, bool]:
    """Returns the lock's etag, and whether it was another's."""
    try:
        return storage.create(uri, _encode(me)), False
    except StorageError as error:
        if error.reason != "exists":
            raise
    holder, etag, silent_s = _read(uri, me, storage)
    if holder is None or break_lock or holder.is_surely_dead() or silent_s > lease_s:
        logger.warning("taking the output over from %s", holder or "a lock that cannot be read")
        try:
            return storage.replace(uri, _encode(me), etag), True
        except StorageError as error:
            if error.reason != "changed":
                raise
    raise OutputHeldError(
        f"{uri.removesuffix('/' + LOCK)} is held by {holder}, last sign of life {silent_s:.0f} s ago: "
        f"wait for its end, or for {lease_s:.0f} s of silence, or pass --break-lock if you know that it is dead"
    )


def _read(uri: str, me: Holder, storage: Storage) -> tuple[Holder | None, str, float]:
    """The holder, the etag of its lease, and for how long it has been silent by the store's own clock."""
    try:
        fetched = storage.get(uri)
        silent_s = age_s(uri, storage, clock=f"{uri}.{me.run_id}")
    except StorageError as error:
        if error.reason != "not_found":
            raise
        raise OutputHeldError(f"{uri} has just been let go of: run the same command again") from error
    if not len(fetched.data):  # where there are no hard links, a lock is empty before it is written
        return Holder("of unknown name", "", "", "", 0, "a moment ago"), fetched.etag, silent_s
    try:
        return Holder(**json.loads(bytes(fetched.data))), fetched.etag, silent_s
    except (ValueError, TypeError):
        return None, fetched.etag, silent_s


class _Lease:
    """Renews the lock until it is stopped, or the lock was taken away."""

    def __init__(
        self, uri: str, me: Holder, etag: str, storage: Storage, on_lost: Callable[[str], None], lease_s: float
    ) -> None:
        self._uri, self._me, self._etag, self._storage = uri, me, etag, storage
        self._on_lost, self._lease_s = on_lost, lease_s
        self._stopped = threading.Event()
        self._lost = False

    def renew_until_stopped(self) -> None:
        pause_s = self._lease_s / RENEWALS_PER_LEASE
        renewed_at = time.monotonic()
        while not self._stopped.wait(pause_s):
            renewed, began_at = replace(self._me, renewals=self._me.renewals + 1), time.monotonic()
            try:
                self._etag = self._storage.replace(self._uri, _encode(renewed), self._etag)
                self._me, renewed_at = renewed, began_at
            except StorageError as error:
                silent_s = time.monotonic() - renewed_at
                taken = error.reason in ("changed", "not_found")
                if taken or silent_s > self._lease_s - pause_s:  # the next might come too late
                    self._lost = True
                    self._on_lost(self._why_lost(error))
                    return
                logger.warning("the output's lock could not be renewed: %s", error)

    def _why_lost(self, error: StorageError) -> str:
        output = self._uri.removesuffix(f"/{LOCK}")
        try:
            require_held(output, self._me.run_id, self._storage)
        except OutputHeldError as held:
            return str(held)
        except StorageError:
            pass
        return f"{output} was taken over, this run stops: another run may hold the output now ({error})"

    def stop(self) -> None:
        """Ends the renewals."""
        self._stopped.set()

    def release(self) -> None:
        """Lets go of the lock where it is still ours."""
        if self._lost:
            return
        try:
            if self._storage.stat(self._uri).etag == self._etag:
                self._storage.delete(self._uri)
        except StorageError as error:
            logger.warning("the output's lock could not be removed, it ends by itself: %s", error)


def _encode(holder: Holder) -> bytes:
    return json.dumps(asdict(holder), indent=1).encode()


def _user() -> str:
    """The user's name, or the number of one that has none: a container may run as any number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError: since Python 3.13
        return f"uid {os.getuid()}"


def _place() -> str:
    """This machine since its last boot, and the namespace of its process numbers; empty where that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
