"""An fsspec file system over the stores of `Storage`, for libraries that need one: Ray Train, pyarrow, DuckDB.

It is obstore's own adapter with our clients, so it has the credentials, deadlines and retries of all other requests.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from obstore.fsspec import BufferedFile, FsspecStore

from genretag.storage.store_errors import store_error

if TYPE_CHECKING:
    from genretag.storage import Storage


class BucketFiles(FsspecStore):
    """The files of all buckets of one scheme, such as `gs`. Paths are `BUCKET/KEY`, with or without the scheme."""

    cachable = False  # a cached instance would go on using old credentials

    def __init__(self, scheme: str, storage: "Storage", **more: Any) -> None:
        """`scheme` is `gs`, `az` or `abfss`. `more` are arguments of fsspec, such as `asynchronous`."""
        self._storage = storage
        self._scheme = scheme
        begin: Any = super().__init__  # its overloads know each scheme alone
        begin("memory", **more)  # so that obstore opens no store of its own choice
        self.protocol = scheme

    def _split_path(self, path: str) -> tuple[str, str]:
        """Return bucket and key of a path. obstore's own method would take `?` and `#` in a key for a query."""
        bucket, _, key = path.removeprefix(f"{self._scheme}://").lstrip("/").partition("/")
        return bucket, key

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        text = str(path)
        return (text.partition("://")[2] if "://" in text else text).rstrip("/")

    def _open(self, path: str, mode: str = "rb", **more: Any) -> BufferedFile:  # type: ignore[override]
        names = ("block_size", "autocommit", "cache_options")  # of fsspec; obstore has settings of its own
        begin: Any = _File
        with self._os_errors(path):
            return begin(self, path, mode, **{name: value for name, value in more.items() if name not in names})

    async def _cp_file(self, path1: str, path2: str, **more: Any) -> None:
        with self._os_errors(path1):
            await super()._cp_file(path1, path2, **more)

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **more: Any) -> bytes:
        with self._os_errors(path):
            return await super()._cat_file(path, start, end, **more)

    @contextmanager
    def _os_errors(self, path: str) -> Iterator[None]:
        """Turn obstore's errors in the block into `OSError`, which users of a file system expect, with our message."""
        from obstore.exceptions import BaseError

        try:
            yield
        except BaseError as error:
            uri = f"{self._scheme}://{self._strip_protocol(path)}"
            raise OSError(str(store_error(uri, error, self._storage.advice_on(uri)))) from None

    def _construct_store(self, bucket: str) -> Any:
        return self._storage.obstore_of(f"{self._scheme}://{bucket}/any")

    def __reduce__(self) -> tuple[Any, ...]:
        return BucketFiles, (self._scheme, self._storage)


class _File(BufferedFile):
    """A file that takes any buffer. pyarrow writes buffers of signed bytes, and obstore's own file refuses them."""

    fs: BucketFiles

    def read(self, length: int = -1) -> Any:
        with self.fs._os_errors(self.path):
            return super().read(length)

    def write(self, data: Any) -> int:
        unsigned: Any = memoryview(data).cast("B")
        with self.fs._os_errors(self.path):
            return super().write(unsigned)

    def close(self) -> None:
        if not (hasattr(self, "_reader") or hasattr(self, "_writer")):  # it could not be opened
            self.closed = True
        with self.fs._os_errors(self.path):
            super().close()
