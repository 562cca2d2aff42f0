"""Opens the catalogue of an Iceberg table, and tells a person's errors from those that a retry may mend.

Tables are read and written through fsspec, so credentials come the way they come for `storage/`: from boto3's chain.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from genretag.errors import JobError, UsageError, one_line
from genretag.iceberg.settings import TableSettings
from genretag.path_syntax import sqlite_file, sqlite_uri
from genretag.storage import S3, Storage, join
from genretag.storage.aws_settings import AwsSettings

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

OWN_CATALOG = "_catalog.db"
NAME = "default"  # so that `load_catalog(uri=...)`, without a name, finds what we made
NEW_TABLE = {
    "commit.manifest-merge.enabled": "true",  # or a year of nights would be a year of manifests to read
    "write.metadata.delete-after-commit.enabled": "true",  # of the metadata files, the last hundred are enough
}


@contextmanager
def open_catalog(settings: TableSettings, output: str, storage: Storage) -> Iterator["Catalog"]:
    """Opens the catalogue. Raises `UsageError` where it is not known or pyiceberg is not installed."""
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
        config = Config()  # read now: pyiceberg's own copy is as old as its import
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
    """Raises `UsageError` where pyiceberg, or what comes with it, is not installed."""
    try:
        yield
    except ImportError as error:
        raise UsageError("an Iceberg table needs pyiceberg: pip install 'genretag[iceberg]'") from error


@contextmanager
def errors_of_the_catalog(settings: TableSettings, output: str, *, retry_helps: bool) -> Iterator[None]:
    """Turns what pyiceberg raises into one line: `UsageError`, or `JobError` where `retry_helps` and it may."""
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
    return f"the table {settings.table} of {shown(settings, output)}: {one_line(error) or type(error).__name__}"


def _errors_of_people() -> tuple[type[Exception], ...]:
    """What stays wrong until somebody mends it: settings, rights, columns. Empty without pyiceberg."""
    try:
        from pyiceberg import exceptions
        from pyiceberg.io.pyarrow import UnsupportedPyArrowTypeException
        from sqlalchemy.exc import ArgumentError
    except ImportError:
        return ()
    return (
        ArgumentError,
        ImportError,  # a database driver, or what a catalogue of another kind needs
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
    """The table as it is now; none where the catalogue has none of that name."""
    from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

    try:
        return catalog.load_table(str(settings.table))
    except (NoSuchTableError, NoSuchNamespaceError):
        return None


def create_table(catalog: "Catalog", settings: TableSettings, output: str, schema: pa.Schema) -> "Table":
    """Makes the table, without rows; its metadata goes to `OUTPUT/_iceberg/` where the catalogue has no place."""
    from pyiceberg.catalog import MetastoreCatalog

    namespace = str(settings.table).rpartition(".")[0]
    catalog.create_namespace_if_not_exists(namespace)
    homeless = isinstance(catalog, MetastoreCatalog) and "warehouse" not in catalog.properties
    location = join(output, "_iceberg", str(settings.table)) if homeless else None
    return catalog.create_table_if_not_exists(
        str(settings.table), schema.remove_metadata(), location=location, properties=NEW_TABLE
    )


def is_new_database(settings: TableSettings, output: str) -> bool:
    """Whether the catalogue is a SQLite file that the first commit will make: looking into it would make it now.

    Raises `UsageError` where it could not be made.
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
    """The catalogue for a message, without the password."""
    return re.sub(r"//[^/@]*@", "//***@", _place(settings, output))


def _place(settings: TableSettings, output: str) -> str:
    if settings.catalog:
        return settings.catalog
    if output.startswith(S3):
        raise UsageError(
            f"which catalogue has the table {settings.table}? Add --catalog with a URI or a name of pyiceberg's "
            "configuration; only an output in a folder has one of its own"
        )
    with named_if_missing():
        return sqlite_uri(join(output, OWN_CATALOG))
