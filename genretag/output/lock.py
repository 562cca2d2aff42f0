"""Lock that allows one writer per output: a lease in the output itself, renewed while the run lives.

The lease is the object `OUTPUT/_lock.json`. A run creates and renews it with conditional writes, so one of several runs
wins. The run first tests that the store honours the conditions. If another run holds the lease, the run stops, unless
the holder is dead. A holder is dead if its process ran on this machine and is gone. It is also dead if it has not
renewed the lease for the time that a lease lasts, by the store's own clock (no other clock is read).

A run's workers may outlive the run for a moment. So each worker checks the lock before it writes a file. If a
run takes over an output, it first waits until the writes of the old workers have ended, and then lists the files.

A run may be suspended (SIGSTOP, a closed laptop, a virtual machine that is moved) and continue after another run took
its place. So a run checks the lock before each step that others would see. If a step fails after the lock was lost, the
error says that the lock was lost.

`holding_output` holds an output for a command that writes to it. If the command loses the lock, it stops writing.
"""

import _thread
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
from genretag.runtime.stopping import going_on
from genretag.storage import Storage, StorageError, join
from genretag.storage.conditional_writes import lock_storage

logger = logging.getLogger(__name__)

LOCK = "_lock.json"
LEASE_S = 120.0  # a run that is silent for longer loses its place to another
RENEWALS_PER_LEASE = 6  # a few failed renewals then do no harm
SETTLE_S = 3.0  # time for a dead run's last writes to end: Ray ends its workers within a second or two


@dataclass(frozen=True)
class Holder:
    """Description of the run that holds an output, as the lock file has it.

    `place` names the machine since its last boot and the process namespace; it is empty if unknown. `since` is the time
    when the run took the lock, in UTC. `renewals` counts the renewals of the lease.
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
        """Return the holder that describes this process, which runs `run_id`."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return Holder(run_id, socket.gethostname(), _user(), _place(), os.getpid(), since)

    def is_surely_dead(self) -> bool:
        """Return whether the holder's process ran on this very machine and is gone.

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
    """Hold the output for this run during the block, and release it at the end.

    If the lease is taken away, `on_lost` is called from another thread, with the line to print. `break_lock` takes the
    output over from any holder. A holder that is silent for `lease_s` seconds is taken for dead. Raises
    `OutputHeldError` if another run holds the output, and `StorageError` if the output cannot be written.
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
    """Raise `OutputHeldError` if this run no longer holds the output. The message names the run that took it over.

    If no such run is known, the message says that the output was let go of. Raises `StorageError` if the lock cannot be
    read.
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
    """Return the seconds since an object last changed, by the store's own clock.

    `clock` is the URI of an empty object that is written, to read the store's time from it, and deleted. Raises
    `StorageError`.
    """
    storage.put(clock, b"")
    age = storage.stat(clock).last_modified - storage.stat(uri).last_modified
    storage.delete(clock)
    return age.total_seconds()


def _by_whom_that_ended(output: str, run_id: str, storage: Storage) -> str:
    """Return who took the output over from this run and has let it go already, as text for a message.

    This is the first run that began after this one and has published its record. Run ids sort by time.
    """
    try:
        listed = [info.uri for page in storage.list(join(output, "runs")) for info in page]
    except StorageError:
        listed = []
    published = {posixpath.basename(posixpath.dirname(uri)) for uri in listed if uri.endswith("/run.json")}
    later = min((run for run in published if run > run_id), default=None)
    return f"by run {one_line(later, 60)}, which has ended since" if later else "and let go of"


def _acquire(uri: str, me: Holder, storage: Storage, break_lock: bool, lease_s: float) -> tuple[str, bool]:
    """Take the lock; return its etag, and whether another run held it before.

    Raises `OutputHeldError` if another run holds it and is not known to be dead, unless `break_lock` is true.
    """
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
    """Return the holder, the etag of the lock, and the seconds since its last renewal by the store's own clock.

    The holder is None if the lock cannot be understood. Raises `OutputHeldError` if the lock was removed meanwhile.
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
    """Lease that a thread renews until it is stopped or another run takes the lock away."""

    def __init__(
        self, uri: str, me: Holder, etag: str, storage: Storage, on_lost: Callable[[str], None], lease_s: float
    ) -> None:
        self._uri, self._me, self._etag, self._storage = uri, me, etag, storage
        self._on_lost, self._lease_s = on_lost, lease_s
        self._stopped = threading.Event()
        self._lost = False

    def renew_until_stopped(self) -> None:
        """Renew the lock until `stop` is called.

        If the lock was taken away, or could not be renewed in time, call `on_lost` and return.
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
        """Return the line to print when the lock is lost; `error` is that of the failed renewal."""
        output = self._uri.removesuffix(f"/{LOCK}")
        try:
            require_held(output, self._me.run_id, self._storage)
        except OutputHeldError as held:
            return str(held)
        except StorageError:
            pass
        return f"{output} was taken over, this run stops: another run may hold the output now ({error})"

    def stop(self) -> None:
        """End the renewals; the lock stays until `release`."""
        self._stopped.set()

    def release(self) -> None:
        """Delete the lock if this run still holds it.

        If that fails, only log a warning, because the lease ends by itself.
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
    """Return the user's name; for a user without a name, `uid` and the number: a container may run as any number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError: since Python 3.13
        return f"uid {os.getuid()}"


def _place() -> str:
    """Return text for this machine since its last boot, with its process namespace; empty if that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


@contextmanager
def holding_output(output: str, run_id: str, storage: Storage, *, break_lock: bool = False) -> Iterator[None]:
    """Hold the output's lock during the block, which must run in the main thread.

    If another run takes the output over, the block is interrupted. Raises `OutputHeldError` if another run holds the
    output or took it over, and `UsageError` if the output cannot be written. Turns a `StorageError` of the block into a
    `JobError`.
    """
    lost: list[str] = []
    held = False

    def stop(why: str) -> None:
        lost.append(why)
        _thread.interrupt_main()

    try:
        with output_lock(output, run_id, storage, stop, break_lock=break_lock):
            held = True
            try:
                with going_on("what was finished is kept, the same command goes on from there"):
                    yield
            except OutputHeldError:
                raise
            except Exception as error:  # any error: after the output was lost, another run may have changed its files
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
    """Raise `OutputHeldError` from `error` if this run has lost the output; else return.

    If the lock cannot be read, return too.
    """
    with suppress(StorageError):
        try:
            require_held(output, run_id, storage)
        except OutputHeldError as held:
            raise held from error
