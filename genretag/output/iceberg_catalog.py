"""Catalogue of an Iceberg table: open it, and tell errors that a person must fix from errors that a retry may fix.

Tables are read and written through fsspec. Credentials come from boto3's chain, as for all other reads and writes.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from genretag.errors import JobError, UsageError, one_line
from genretag.settings import TableSettings
from genretag.storage import S3, Storage, in_bucket, join
from genretag.storage.aws_settings import AwsSettings
from genretag.storage.paths import sqlite_file, sqlite_uri

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table


OWN_CATALOG = "_catalog.db"
NAME = "default"  # the name that `load_catalog(uri=...)` uses, so that it finds our tables
NEW_TABLE = {
    "commit.manifest-merge.enabled": "true",  # otherwise a reader would open one manifest for each run
    "write.metadata.delete-after-commit.enabled": "true",  # the last hundred metadata files are enough
}


@contextmanager
def open_catalog(settings: TableSettings, output: str, storage: Storage) -> Iterator["Catalog"]:
    """Open the table's catalogue for the block. `output` is the location of the output.

    Raises `UsageError` if the catalogue is unknown, or if pyiceberg is not installed. Also raises `UsageError` if the
    output is in a bucket and `settings` names no catalogue.
    """
    with named_if_missing():
        from pyiceberg.catalog import AVAILABLE_CATALOGS, infer_catalog_type, load_catalog
        from pyiceberg.utils.config import Config
    aws = AwsSettings.read(storage.endpoint_url)
    properties = {"py-io-impl": "pyiceberg.io.fsspec.FsspecFileIO", "s3.region": aws.region}
    properties |= storage.encryption.iceberg_properties()
    if aws.endpoint_url:
        properties["s3.endpoint"] = aws.endpoint_url
    if aws.addressing_style == "virtual":
        properties["s3.force-virtual-addressing"] = "true"
    place = _place(settings, output)
    if "://" in place:
        kind = infer_catalog_type(NAME, {"uri": place})
        if kind is None:
            raise UsageError(f"{shown(settings, output)} is no catalogue that pyiceberg knows")
        catalog = AVAILABLE_CATALOGS[kind](NAME, properties | {"uri": place})
    else:
        config = Config()  # read it now: pyiceberg's own copy dates from its import
        found = config.get_catalog_config(place)
        if found is None:
            known = ", ".join(sorted(config.get_known_catalogs())) or "none"
            raise UsageError(
                f"pyiceberg's configuration has no catalogue {one_line(place)} (it has {known}): "
                "name one of them, or write a URI such as sqlite:////folder/catalog.db"
            )
        catalog = load_catalog(place, **cast(dict[str, str], properties | found))
    with catalog:
        yield catalog


@contextmanager
def named_if_missing() -> Iterator[None]:
    """Turn an `ImportError` of the block into a `UsageError` that says to install pyiceberg."""
    try:
        yield
    except ImportError as error:
        raise UsageError("an Iceberg table needs pyiceberg: pip install 'genretag[iceberg]'") from error


@contextmanager
def errors_of_the_catalog(settings: TableSettings, output: str, *, retry_helps: bool) -> Iterator[None]:
    """Turn errors of pyiceberg in the block into a `UsageError` or a `JobError` with a message of one line.

    An error that a person must fix becomes a `UsageError`. An error that a retry may fix becomes a `JobError` if
    `retry_helps` is true, and a `UsageError` otherwise.
    """
    try:
        yield
    except _errors_of_people() as error:
        raise UsageError(f"cannot use {_reason(settings, output, error)}") from error
    except _errors_of_machines() as error:
        if not retry_helps:
            raise UsageError(f"cannot reach {_reason(settings, output, error)}") from error
        raise JobError(
            f"cannot commit to {_reason(settings, output, error)}; the files are whole and stay, "
            "run the same command again"
        ) from error


def _reason(settings: TableSettings, output: str, error: Exception) -> str:
    """Return text for a message: the table, its catalogue, and what `error` says."""
    return f"the table {settings.table} of {shown(settings, output)}: {one_line(error) or type(error).__name__}"


def _errors_of_people() -> tuple[type[Exception], ...]:
    """Return the classes of errors that a person must fix, such as wrong settings or missing rights.

    The result is empty if pyiceberg is not installed.
    """
    try:
        from pyiceberg import exceptions
        from pyiceberg.io.pyarrow import UnsupportedPyArrowTypeException
        from sqlalchemy.exc import ArgumentError
    except ImportError:
        return ()
    return (
        ArgumentError,
        ImportError,  # a database driver, or a package that another kind of catalogue needs
        ValueError,
        exceptions.BadRequestError,
        exceptions.ForbiddenError,
        exceptions.NoSuchNamespaceError,
        exceptions.NoSuchPropertyException,
        exceptions.NotInstalledError,
        exceptions.OAuthError,
        exceptions.UnauthorizedError,
        UnsupportedPyArrowTypeException,
    )


def _errors_of_machines() -> tuple[type[Exception], ...]:
    """Return the classes of errors that a retry may fix: network, store, database, other writers.

    The result is empty if pyiceberg is not installed.
    """
    try:
        from botocore.exceptions import BotoCoreError, ClientError
        from pyiceberg.exceptions import CommitFailedException, RESTError
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:
        return ()
    return (
        BotoCoreError,
        ClientError,
        CommitFailedException,
        OSError,
        pa.ArrowException,
        RequestException,
        RESTError,
        SQLAlchemyError,
    )


def load_table(catalog: "Catalog", settings: TableSettings) -> "Table | None":
    """Load the table from the catalogue. Return None if the catalogue has no table of that name."""
    from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

    try:
        return catalog.load_table(str(settings.table))
    except (NoSuchTableError, NoSuchNamespaceError):
        return None


def create_table(catalog: "Catalog", settings: TableSettings, output: str, schema: pa.Schema) -> "Table":
    """Create the table without rows, with the columns of `schema`, and return it. If it exists, only return it.

    If the catalogue sets no location for metadata, the metadata goes into `OUTPUT/_iceberg/`.
    """
    from pyiceberg.catalog import MetastoreCatalog

    namespace = str(settings.table).rpartition(".")[0]
    catalog.create_namespace_if_not_exists(namespace)
    homeless = isinstance(catalog, MetastoreCatalog) and "warehouse" not in catalog.properties
    location = join(output, "_iceberg", str(settings.table)) if homeless else None
    return catalog.create_table_if_not_exists(
        str(settings.table), schema.remove_metadata(), location=location, properties=NEW_TABLE
    )


def is_new_database(settings: TableSettings, output: str) -> bool:
    """Return whether the catalogue is a SQLite file that does not exist yet. The first commit will create it.

    Call this before you open the catalogue, because opening it creates the file. Raises `UsageError` if
    `settings.catalog` names a new file whose folder is missing or cannot be written.
    """
    place = _place(settings, output)
    with named_if_missing():
        file = sqlite_file(place) if place.startswith("sqlite") else None
    if file is None or file.exists():
        return False
    if settings.catalog and not os.access(file.parent, os.W_OK):
        raise UsageError(f"cannot make the catalogue {file}: its folder is missing or cannot be written")
    return True


def shown(settings: TableSettings, output: str) -> str:
    """Return the catalogue's URI or name for a message, with user name and password masked."""
    return re.sub(r"//[^/@]*@", "//***@", _place(settings, output))


def _place(settings: TableSettings, output: str) -> str:
    """Return the URI of the catalogue, or its name in pyiceberg's configuration.

    If no catalogue is set, return the URI of a SQLite file in the output folder. Raises `UsageError` if no catalogue is
    set and the output is in a bucket.
    """
    if in_bucket(output) and not output.startswith(S3):
        raise UsageError(
            f"an Iceberg table reads files on S3 or in a folder, not in {output}: use a Delta table (--table delta)"
        )
    if settings.catalog:
        return settings.catalog
    if in_bucket(output):
        raise UsageError(
            f"which catalogue has the table {settings.table}? Add --catalog with a URI or a name of pyiceberg's "
            "configuration; only an output in a folder has one of its own"
        )
    with named_if_missing():
        return sqlite_uri(join(output, OWN_CATALOG))
