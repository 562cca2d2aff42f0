"""Lock that allows one writer per output: a lease in the output itself, renewed while the run lives.

The lease is the object `OUTPUT/_lock.json`. Runs create and renew it with conditional writes, so only one of several
runs gets it. Each run first tests that the store supports conditional writes. If another run holds the lease and is
alive, this run stops. A holder counts as dead if its process ran on this machine and no longer exists. A holder that
has not renewed the lease for `LEASE_S` seconds also counts as dead, measured by the store's clock.

A run's workers may outlive the run for a moment, so each worker checks the lock before it writes a file. A run that
takes an output over waits `SETTLE_S` seconds for the last writes of such workers. Then it lists the files.

A run may be suspended (SIGSTOP, a closed laptop, a virtual machine that is moved) and resume after another run took its
output over. So a run checks the lock before each write that readers of the output can see. If a step fails after the
lock was lost, the error says that the lock was lost.

`holding_output` holds the lock while a command writes to the output. If the lock is lost, `holding_output` interrupts
the command.
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
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from genretag.errors import JobError, OutputHeldError, UsageError, one_line, quoted
from genretag.runtime.stopping import going_on, interruptible
from genretag.storage import Storage, StorageError, join
from genretag.storage.conditional_writes import lock_storage

logger = logging.getLogger(__name__)

LOCK = "_lock.json"
LEASE_S = 120.0  # after this time without a renewal, another run may take the lock
RENEWALS_PER_LEASE = 6  # a few failed renewals then do no harm
SETTLE_S = 3.0  # time for a dead run's last writes to end: Ray ends its workers within a second or two


@dataclass(frozen=True)
class Holder:
    """Description of the run that holds an output's lock: the content of the lock file.

    `place` identifies the machine, its last boot and the process namespace of `pid`. It is empty if unknown. `since` is
    the time when the run took the lock, in UTC. `renewals` counts the renewals of the lease.
    """

    run_id: str
    host: str
    user: str
    place: str
    pid: int
    since: str
    renewals: int = 0

    @staticmethod
    def this_process(run_id: str) -> "Holder":
        """Return the holder that describes this process, which executes the run `run_id`."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return Holder(run_id, socket.gethostname(), _user(), _place(), os.getpid(), since)

    def is_surely_dead(self) -> bool:
        """Return True if the lock holder's process ran on this machine since the machine's last boot, and has ended.

        For a process on another machine, return False, because this machine cannot know.
        """
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
    """Hold the lock of `output` for the run `run_id` during the block, and release it after the block.

    A thread renews the lock. If the lock is lost, that thread calls `on_lost` with the line to print. If `break_lock`
    is true, take the lock from any holder. A holder that has not renewed its lock for `lease_s` seconds counts as dead.

    Raises `OutputHeldError` if another run holds the lock, and `StorageError` if the lock cannot be written. Raises
    `UsageError` if the environment variable GENRETAG_STORE_CONDITIONAL_WRITES is neither `on` nor `off`.
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
    """Raise `OutputHeldError` if the run `run_id` no longer holds the lock of `output`.

    The message names the run that took the output over, if that run is known. Raises `StorageError` if the lock cannot
    be read.
    """
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
    """Return the seconds since the object `uri` last changed, measured by the store's own clock.

    To read that clock, write an empty object at the URI `clock`, read its time, and delete it. Raises `StorageError` if
    the store fails or `uri` does not exist.
    """
    storage.put(clock, b"")
    age = storage.stat(clock).last_modified - storage.stat(uri).last_modified
    storage.delete(clock)
    return age.total_seconds()


def _by_whom_that_ended(output: str, run_id: str, storage: Storage) -> str:
    """Return text for a message: which run took the output over from `run_id` and has ended since.

    The text names the first later run that has published its record. Run ids sort by time. If no later run has a
    record, the text is `and let go of`.
    """
    try:
        listed = [info.uri for page in storage.list(join(output, "runs")) for info in page]
    except StorageError:
        listed = []
    published = {posixpath.basename(posixpath.dirname(uri)) for uri in listed if uri.endswith("/run.json")}
    later = min((run for run in published if run > run_id), default=None)
    return f"by run {one_line(later, 60)}, which has ended since" if later else "and let go of"


def _acquire(uri: str, me: Holder, storage: Storage, break_lock: bool, lease_s: float) -> tuple[str, bool]:
    """Take the lock for `me`. Return the lock's etag, and whether another run held the lock before.

    Raises `OutputHeldError` if another run holds the lock and may be alive, unless `break_lock` is true. It also raises
    `OutputHeldError` if another run takes the lock at the same time. A run that only renews its lock at the same time
    does not stop `break_lock`.
    """
    try:
        return storage.create(uri, _encode(me)), False
    except StorageError as error:
        if error.reason != "exists":
            raise
    holder, etag, silent_s = _read(uri, me, storage)
    while holder is None or break_lock or holder.is_surely_dead() or silent_s > lease_s:
        logger.warning("taking the output over from %s", holder or "a lock that cannot be read")
        try:
            return storage.replace(uri, _encode(me), etag), True
        except StorageError as error:
            if error.reason != "changed":
                raise
        before = holder
        holder, etag, silent_s = _read(uri, me, storage)
        if not (break_lock and holder and before and holder.run_id == before.run_id):
            break
    raise OutputHeldError(
        f"{uri.removesuffix('/' + LOCK)} is held by {holder}, last sign of life {silent_s:.0f} s ago: "
        f"wait for its end, or for {lease_s:.0f} s of silence, or pass --break-lock if you know that it is dead"
    )


def _read(uri: str, me: Holder, storage: Storage) -> tuple[Holder | None, str, float]:
    """Return the lock's holder, its etag, and the seconds since its last renewal, measured by the store's clock.

    The holder is None if the content of the lock cannot be parsed. Raises `OutputHeldError` if the lock was deleted
    meanwhile.
    """
    try:
        fetched = storage.get(uri)
        silent_s = age_s(uri, storage, clock=f"{uri}.{me.run_id}")
    except StorageError as error:
        if error.reason != "not_found":
            raise
        raise OutputHeldError(f"{uri} has just been let go of: run the same command again") from error
    if not len(fetched.data):  # on a filesystem without hard links, a lock is empty before it is written
        return Holder("of unknown name", "", "", "", 0, "a moment ago"), fetched.etag, silent_s
    try:
        return Holder(**json.loads(bytes(fetched.data))), fetched.etag, silent_s
    except (ValueError, TypeError):
        return None, fetched.etag, silent_s


class _Lease:
    """The lock that this run holds. A thread renews it until `stop` is called or the lock is lost."""

    def __init__(
        self, uri: str, me: Holder, etag: str, storage: Storage, on_lost: Callable[[str], None], lease_s: float
    ) -> None:
        self._uri, self._me, self._etag, self._storage = uri, me, etag, storage
        self._on_lost, self._lease_s = on_lost, lease_s
        self._stopped = threading.Event()
        self._lost = False

    def renew_until_stopped(self) -> None:
        """Renew the lock until `stop` is called.

        If another run took the lock, or the lock could not be renewed in time, call `on_lost` and return.
        """
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
                if taken or silent_s > self._lease_s - pause_s:  # the next renewal might come too late
                    self._lost = True
                    self._on_lost(self._why_lost(error))
                    return
                logger.warning("the output's lock could not be renewed: %s", error)

    def _why_lost(self, error: StorageError) -> str:
        """Return the line to print when the lock of the output is lost. `error` is the error of the failed renewal."""
        output = self._uri.removesuffix(f"/{LOCK}")
        try:
            require_held(output, self._me.run_id, self._storage)
        except OutputHeldError as held:
            return str(held)
        except StorageError:
            pass
        return f"{output} was taken over, this run stops: another run may hold the output now ({error})"

    def stop(self) -> None:
        """Stop the renewals. The lock object stays until `release` is called."""
        self._stopped.set()

    def release(self) -> None:
        """Delete the lock object if this run still holds the lock.

        If the deletion fails, only log a warning, because the lock expires by itself.
        """
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
    """Return the user's name, or `uid` and the user's number if the user has no name, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError: since Python 3.13
        return f"uid {os.getuid()}"


def _place() -> str:
    """Return text that identifies this machine, its last boot and the process namespace; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


@contextmanager
def holding_output(output: str, run_id: str, storage: Storage, *, break_lock: bool = False) -> Iterator[None]:
    """Hold the lock of `output` for the run `run_id` during the block, which must run in the main thread.

    If another run takes the output over, interrupt the block and raise `OutputHeldError`. If `break_lock` is true, take
    the lock from any holder. Raises `OutputHeldError` if another run holds the lock, and `UsageError` if the output
    cannot be written. A `StorageError` in the block becomes a `JobError`.
    """
    lost: list[str] = []
    held = False

    def stop(why: str) -> None:
        lost.append(why)
        interrupt()

    try:
        with interruptible() as interrupt, output_lock(output, run_id, storage, stop, break_lock=break_lock):
            held = True
            try:
                with going_on("what was finished is kept, the same command goes on from there"):
                    yield
            except OutputHeldError:
                raise
            except Exception as error:  # any error: a run that took the output over may have changed its files
                _explain_by_loss(output, run_id, storage, error)
                raise
    except StorageError as error:
        if held:  # the output could be written before, so a retry may help
            raise JobError(f"cannot write to {output} any more: {error}; run the same command again") from error
        raise UsageError(f"cannot write to the output {output}: {error}") from error
    except KeyboardInterrupt:
        if lost:
            raise OutputHeldError(lost[0]) from None
        raise


def _explain_by_loss(output: str, run_id: str, storage: Storage, error: Exception) -> None:
    """Raise `OutputHeldError` from `error` if the run `run_id` has lost the lock of `output`.

    If the run holds the lock, or the lock cannot be read, do nothing.
    """
    with suppress(StorageError):
        try:
            require_held(output, run_id, storage)
        except OutputHeldError as held:
            raise held from error
