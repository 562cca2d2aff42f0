"""Walks a folder and lists the regular files in it; nothing else is opened, and what has to be left out is counted.

Links to folders are followed, after the folders that are really there; a folder that was listed already is not
listed again under another name, so there are no loops and no poster comes twice by a linked folder. Hidden names,
links to nowhere, FIFOs, sockets and devices are no posters. A file that may not be looked at is listed without an
etag, and fails, in words, when it is fetched.
"""

import logging
import os
from collections.abc import Callable, Iterator

import pyarrow as pa

from genretag.errors import one_line
from genretag.storage.listing_tables import to_table
from genretag.storage.objects import PAGE, ObjectInfo, StorageError

logger = logging.getLogger(__name__)


def list_folder(root: str, stat: Callable[[str], ObjectInfo], refuse: Callable[[OSError], None]) -> Iterator[pa.Table]:
    """Yields the files below a folder in tables of `LISTING`.

    Names that are not UTF-8 are left out with a warning, because no table can hold them, and so are sub-folders that
    may not be read. `refuse` raises what any other error means.
    """
    if not _is_utf8(root):
        raise StorageError("refused", f"{one_line(ascii(root))} is not UTF-8: no table can hold such a name")
    files = _Files(root, stat, refuse)
    page: list[ObjectInfo] = []
    for info in files:
        page.append(info)
        if len(page) == PAGE:
            yield to_table(page)
            page = []
    if page:
        yield to_table(page)
    files.warn()


class _Files:
    """The files below a folder, and what was left out."""

    def __init__(self, root: str, stat: Callable[[str], ObjectInfo], refuse: Callable[[OSError], None]) -> None:
        self._root = root
        self._stat = stat
        self._refuse = refuse
        self._seen: set[tuple[int, int]] = set()  # folders by device and inode
        self._links: list[str] = []
        self._followed: list[str] = []
        self._not_utf8: list[str] = []
        self._closed: list[str] = []

    def __iter__(self) -> Iterator[ObjectInfo]:
        self._is_new(self._root)
        yield from self._below(self._root)
        for link in self._links:  # grows as long as there are links in linked folders
            if self._is_new(link):
                self._followed.append(link)
                yield from self._below(link)

    def _below(self, top: str) -> Iterator[ObjectInfo]:
        for folder, subfolders, names in os.walk(top, onerror=self._meet):
            subfolders[:] = [name for name in self._usable(subfolders) if self._comes_now(folder, name)]
            for name in self._usable(names):
                info = self._look_at(os.path.join(folder, name))  # noqa: PTH118 - Path changes what it joins
                if info is not None:
                    yield info

    def _comes_now(self, folder: str, name: str) -> bool:
        """Whether to list a sub-folder: a link comes later, and below a link only what has not been listed yet.

        Folders that are really below the root are always listed, whatever their file system says of inodes.
        """
        path = os.path.join(folder, name)  # noqa: PTH118 - Path changes what it joins
        if os.path.islink(path):  # noqa: PTH114
            self._links.append(path)
            return False
        return self._is_new(path) or not self._followed

    def _is_new(self, folder: str) -> bool:
        try:
            found = os.stat(folder)  # noqa: PTH116
        except OSError:
            return True  # which the walk will meet again, and say so
        before = len(self._seen)
        self._seen.add((found.st_dev, found.st_ino))
        return len(self._seen) > before

    def _usable(self, names: list[str]) -> list[str]:
        seen = sorted(name for name in names if not name.startswith("."))
        self._not_utf8 += [name for name in seen if not _is_utf8(name)]
        return [name for name in seen if _is_utf8(name)]

    def _look_at(self, path: str) -> ObjectInfo | None:
        try:
            return self._stat(path)
        except StorageError as error:
            if error.reason == "not_found":  # deleted since, a link to nowhere, or no regular file
                return None
            if error.reason == "access_denied":
                return ObjectInfo.unknown(path)
            raise

    def _meet(self, error: OSError) -> None:
        inside = error.filename != self._root
        if inside and isinstance(error, PermissionError):
            self._closed.append(str(error.filename))
        elif not (inside and isinstance(error, FileNotFoundError)):  # a sub-folder may be deleted while we walk
            self._refuse(error)

    def warn(self) -> None:
        """One line for each kind of thing that was left out, and one for links that led elsewhere."""
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
    except UnicodeEncodeError:  # Python gives such bytes as lone surrogates
        return False
    return True
