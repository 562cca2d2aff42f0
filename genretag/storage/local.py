"""The store for local folders: a written file appears in one step. If several writers create a file, one succeeds.

A listing has the regular files below a folder. Hidden names, broken links, FIFOs, sockets and devices are left out
silently. Names that are not UTF-8 and unreadable sub-folders are left out with a warning, which gives their number
and the first of them.

A listing follows links to folders, after the real folders. No folder is listed twice, so there are no loops, and no
poster comes twice through a linked folder. If access to the properties of a file is denied, the file is listed without
an etag. Fetching such a file later fails with a message.
"""

import errno
import fcntl
import logging
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import pyarrow as pa

from genretag.errors import one_line
from genretag.storage.objects import PAGE, Fetched, ObjectInfo, StorageError, refuse_large
from genretag.storage.s3_listing import of_columns

logger = logging.getLogger(__name__)


def list_folder(root: str) -> Iterator[pa.Table]:
    """Yield the files below the folder `root` as tables with the columns of `s3_listing.LISTING`.

    Names that are not UTF-8 are left out with a warning, because no table can hold them. Sub-folders without read
    permission are left out with a warning too. What is deleted during the walk is no error.
    Raises `StorageError` if a folder or the properties of a file cannot be read for another reason than a permission.
    If the name of the folder is not UTF-8, the reason is `refused`.
    """
    if not _is_utf8(root):
        raise StorageError("refused", f"{one_line(ascii(root))} is not UTF-8: no table can hold such a name")
    files = _Files(root)
    paths: list[str] = []
    properties: list[os.stat_result | None] = []
    for path in files:
        try:
            found = os.stat(path)  # noqa: PTH116
        except PermissionError:
            found = None
        except OSError as error:
            if (refused := _storage_error(error)).reason == "not_found":  # it was deleted, or is a broken link
                continue
            raise refused from error
        if found and not stat.S_ISREG(found.st_mode):
            continue
        paths.append(path)
        properties.append(found)
        if len(paths) == PAGE:
            yield _to_table(paths, properties)
            paths, properties = [], []
    if paths:
        yield _to_table(paths, properties)
    files.warn()


def _to_table(paths: list[str], properties: list[os.stat_result | None]) -> pa.Table:
    """Return files as a table with the columns of `LISTING`. If access to the properties was denied, they are None."""
    return of_columns(
        [
            paths,
            [_etag(found) if found else "" for found in properties],
            [found.st_size if found else None for found in properties],
            [found.st_mtime_ns // 1000 if found else None for found in properties],
        ]
    )


def _etag(found: os.stat_result) -> str:
    return f"{found.st_mtime_ns:x}-{found.st_size:x}"


class _Files:
    """An iterator over the paths of files below a folder. It remembers the names that were left out."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._seen: set[tuple[int, int]] = set()  # folders by device and inode
        self._links: list[str] = []
        self._followed: list[str] = []
        self._not_utf8: list[str] = []
        self._closed: list[str] = []

    def __iter__(self) -> Iterator[str]:
        self._is_new(self._root)
        yield from self._below(self._root)
        for link in self._links:  # the list grows during the loop if linked folders contain links
            if self._is_new(link):
                self._followed.append(link)
                yield from self._below(link)

    def _below(self, top: str) -> Iterator[str]:
        """Yield the files below the folder `top`. Do not follow links to folders, but remember them for later."""
        for folder, subfolders, names in os.walk(top, onerror=self._meet):
            subfolders[:] = [name for name in self._usable(subfolders) if self._comes_now(folder, name)]
            inside = os.path.join(folder, "")  # noqa: PTH118 - Path would normalise the name
            for name in self._usable(names):
                yield inside + name

    def _comes_now(self, folder: str, name: str) -> bool:
        """Return whether the walk goes into the sub-folder `name` of `folder` now.

        If the sub-folder is a link, remember the link for later and return False. The walk from the root comes first.
        It goes into every real folder, even if several folders have the same inode. Links are followed afterwards.
        Below a followed link, return False for a folder that is listed already.
        """
        path = os.path.join(folder, name)  # noqa: PTH118 - Path would normalise the name
        if os.path.islink(path):  # noqa: PTH114
            self._links.append(path)
            return False
        return self._is_new(path) or not self._followed

    def _is_new(self, folder: str) -> bool:
        """Remember a folder by its device and inode. Return True if no folder with these numbers came before."""
        try:
            found = os.stat(folder)  # noqa: PTH116
        except OSError:
            return True  # the walk meets the same error and reports it
        before = len(self._seen)
        self._seen.add((found.st_dev, found.st_ino))
        return len(self._seen) > before

    def _usable(self, names: list[str]) -> list[str]:
        """Return the names in sorted order, without hidden ones and without names that are not UTF-8."""
        seen = sorted(name for name in names if not name.startswith("."))
        if _is_utf8("".join(seen)):
            return seen
        self._not_utf8 += [name for name in seen if not _is_utf8(name)]
        return [name for name in seen if _is_utf8(name)]

    def _meet(self, error: OSError) -> None:
        """Handle an error of `os.walk`: remember an unreadable sub-folder, ignore a deleted one, or raise the error."""
        inside = error.filename != self._root
        if inside and isinstance(error, PermissionError):
            self._closed.append(str(error.filename))
        elif not (inside and isinstance(error, FileNotFoundError)):  # it was deleted during the walk
            raise _storage_error(error) from error

    def warn(self) -> None:
        """Log which names were left out: one warning for names that are not UTF-8, and one for unreadable sub-folders.

        If links to folders were followed, log one more line with their number and the first link.
        """
        if self._followed:
            root, first = one_line(self._root, 200), one_line(self._followed[0], 200)
            logger.info("%s: %d links to folders are followed, the first is %s", root, len(self._followed), first)
        for left_out, what in (
            (self._not_utf8, "names that are not UTF-8"),
            (self._closed, "sub-folders that may not be read"),
        ):
            if left_out:
                root, first = one_line(self._root, 200), one_line(ascii(left_out[0]), 100)
                logger.warning("%s: %d %s are left out, the first is %s", root, len(left_out), what, first)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # Python represents bytes that are not UTF-8 as lone surrogates
        return False
    return True


NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
"""Errors of file systems without hard links: FAT, SMB, FUSE, AFS."""
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # such as Lustre mounted without `flock`


class LocalStore:
    """The store for local files. `Storage` documents the methods.

    The etag of a file combines its modification time and its size, so that no file must be read for its etag.
    """

    def list_tables(self, uri: str) -> Iterator["pa.Table"]:
        if not os.path.isdir(uri):  # noqa: PTH112 - Path would drop a trailing slash
            raise StorageError("not_found", f"{uri} is not a folder")
        return list_folder(uri)

    def stat(self, uri: str) -> ObjectInfo:
        try:
            found = os.stat(uri)  # noqa: PTH116
        except OSError as error:
            raise _storage_error(error) from error
        if not stat.S_ISREG(found.st_mode):
            raise StorageError("not_found", f"{uri} is not a file")
        modified = datetime.fromtimestamp(found.st_mtime_ns // 1000 / 1e6, UTC)
        return ObjectInfo(uri, _etag(found), found.st_size, modified)

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
    """Make `target` a second name of the complete file `source`. A reader never sees a part of the file.

    The second name is a hard link, or a copy if the file system has no hard links. If `target` exists already, a link
    raises `FileExistsError`, but a copy replaces `target`.
    Raises `OSError` if the link fails, and `StorageError` if the copy fails.
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
    """Give the file `temporary` the name `uri`. Raises `FileExistsError` if the name is taken.

    If the file system has no hard links, an empty file reserves the name first. A reader may see the empty file for a
    moment. If the process dies in that moment, the empty file stays.
    """
    try:
        os.link(temporary, uri)  # unlike a rename, a link fails if the name is taken
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        Path(uri).touch(exist_ok=False)
        temporary.replace(uri)


@contextmanager
def _written_aside(uri: str, data: bytes) -> Iterator[Path]:
    """Write `data` to a temporary file next to `uri`, sync it to the disk, and yield its path.

    The caller's block renames or links the file to `uri`. If the temporary file exists after the block, it is removed.
    """
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
    """Create the folder of `uri`, and yield a new path in that folder for a temporary file.

    If the temporary file exists after the `with` block, remove it. An `OSError` in the block becomes a `StorageError`.
    """
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
    """Hold an exclusive lock (`flock`) on the folder in the `with` block, for all processes that call this function.

    Wait until the lock is free. The kernel frees the lock if the process dies. Raises `StorageError` if the file system
    has no file locks.
    """
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


def _storage_error(error: OSError) -> StorageError:
    """Return the `StorageError` for an error of the operating system. The message has its text and file name."""
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
