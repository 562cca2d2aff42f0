"""Plain files as a store: whole or not there, created and replaced by one of several writers."""

import errno
import fcntl
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

from genretag.errors import one_line
from genretag.storage.local_listing import list_folder
from genretag.storage.objects import Fetched, ObjectInfo, StorageError, refuse_large

if TYPE_CHECKING:
    import pyarrow as pa

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
"""What file systems without hard links say: FAT, SMB, FUSE, AFS."""
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # such as Lustre, where it is mounted without `flock`


class LocalStore:
    """Plain files. The etag is made of modification time and size, as nothing cheaper tells a change."""

    def list_tables(self, uri: str) -> Iterator["pa.Table"]:
        if not os.path.isdir(uri):  # noqa: PTH112 - Path drops what the user may have meant, such as a last slash
            raise StorageError("not_found", f"{uri} is not a folder")
        return list_folder(uri, self.stat, _raise_as_storage_error)

    def stat(self, uri: str) -> ObjectInfo:
        try:
            found = os.stat(uri)  # noqa: PTH116
        except OSError as error:
            raise _storage_error(error) from error
        if not stat.S_ISREG(found.st_mode):
            raise StorageError("not_found", f"{uri} is not a file")
        modified = datetime.fromtimestamp(found.st_mtime_ns // 1000 / 1e6, UTC)
        return ObjectInfo(uri, f"{found.st_mtime_ns:x}-{found.st_size:x}", found.st_size, modified)

    def get(self, uri: str, max_bytes: int | None) -> Fetched:
        info = self.stat(uri)
        refuse_large(info.size_bytes, max_bytes)
        try:
            return Fetched(Path(uri).read_bytes(), info.etag)
        except OSError as error:
            raise _storage_error(error) from error

    def open(self, uri: str, size_bytes: int) -> IO[bytes]:  # noqa: ARG002 - a file knows its size
        try:
            return Path(uri).open("rb")
        except OSError as error:
            raise _storage_error(error) from error

    def put(self, uri: str, data: bytes) -> None:
        with _written_aside(uri, data) as temporary:
            temporary.replace(uri)

    def create(self, uri: str, data: bytes) -> str:
        with _written_aside(uri, data) as temporary:
            try:
                _take_name(temporary, uri)
            except FileExistsError as error:
                raise StorageError("exists", f"{uri} exists already") from error
            return self.stat(uri).etag

    def replace(self, uri: str, data: bytes, etag: str) -> str:
        with _written_aside(uri, data) as temporary, _folder_locked(Path(uri).parent):
            if not Path(uri).exists() or self.stat(uri).etag != etag:
                raise StorageError("changed", f"{uri} was changed by another writer")
            temporary.replace(uri)
            return self.stat(uri).etag

    def delete(self, uri: str) -> None:
        try:
            Path(uri).unlink(missing_ok=True)
        except OSError as error:
            raise _storage_error(error) from error

    def delete_below(self, uri: str) -> None:
        try:
            shutil.rmtree(uri)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _storage_error(error) from error


def second_name(source: str, target: str) -> None:
    """Gives a whole file another name at once: a link, or a copy where the file system has no links.

    Raises `FileExistsError` where a link finds the name taken; a copy takes the place of what is there.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with _aside(target) as temporary:
            with Path(source).open("rb") as whole, temporary.open("wb") as copy:
                shutil.copyfileobj(whole, copy)
                _sync(copy)
            temporary.replace(target)


def _take_name(temporary: Path, uri: str) -> None:
    """Gives a file a name that must be free. Raises `FileExistsError` where it is taken.

    Where the file system has no hard links, the name is taken first, by an empty file: a reader may see that for a
    moment, and finds it for good where the process dies just then.
    """
    try:
        os.link(temporary, uri)  # unlike a rename, it fails where the name is taken
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        Path(uri).touch(exist_ok=False)
        temporary.replace(uri)


@contextmanager
def _written_aside(uri: str, data: bytes) -> Iterator[Path]:
    """A synced temporary file beside `uri`, to be renamed or linked into place; it is gone afterwards."""
    with _aside(uri) as temporary:
        with temporary.open("wb") as file:
            file.write(data)
            _sync(file)
        yield temporary


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _aside(uri: str) -> Iterator[Path]:
    """The name of a temporary file beside `uri`, in a folder that is there; the file is gone afterwards."""
    path = Path(uri)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    except OSError as error:
        raise _storage_error(error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def _folder_locked(folder: Path) -> Iterator[None]:
    """Holds the folder for this process among those of this machine; the kernel lets go of it with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise StorageError("refused", one_line(f"the file system of {folder} has no file locks (flock)")) from error
        yield
    finally:
        os.close(descriptor)


def _raise_as_storage_error(error: OSError) -> None:
    raise _storage_error(error) from error


def _storage_error(error: OSError) -> StorageError:
    kinds: dict[type[OSError], str] = {
        FileNotFoundError: "not_found",
        NotADirectoryError: "not_found",
        PermissionError: "access_denied",
    }
    if error.errno == errno.ELOOP:  # a link that leads to itself
        return StorageError("not_found", one_line(f"{error.strerror}: {error.filename}"))
    other = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "unavailable"
    reason = next((name for kind, name in kinds.items() if isinstance(error, kind)), other)
    return StorageError(reason, one_line(f"{error.strerror or error}: {error.filename}"))
