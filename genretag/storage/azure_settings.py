"""Which Azure storage account a URI means, and the credentials for it: a key, a signature (SAS), or a token.

A container is written `az://CONTAINER`, with the account from the settings, or `abfss://CONTAINER@ACCOUNT.dfs.core.
windows.net`, as Spark and Databricks write it. The settings are those of Azure's command line tool: a connection
string, or the account with a key or a SAS. Without key and SAS, tokens come from azure-identity: service principal,
workload identity, managed identity or `az login`.
"""

import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from genretag.errors import UsageError, one_line
from genretag.storage.objects import StorageError

logger = logging.getLogger(__name__)

AZ, ABFSS = "az://", "abfss://"
SUFFIX = "core.windows.net"
SUFFIXES = (SUFFIX, "core.chinacloudapi.cn", "core.usgovcloudapi.net", "core.cloudapi.de")
ACCOUNT_NAME = re.compile(r"[a-z0-9]{3,24}")
TOKEN_SCOPE = "https://storage.azure.com/.default"  # noqa: S105 - no secret
EMULATED = {  # the account that Azurite has if nobody names another; its key is published in Azurite's documentation
    "AccountName": "devstoreaccount1",
    "AccountKey": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
    "BlobEndpoint": "http://127.0.0.1:10000/devstoreaccount1",
}
CREDENTIALS = (
    "check AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY or "
    "AZURE_STORAGE_SAS_TOKEN, or run az login"
)


@dataclass(frozen=True)
class Account:
    """A storage account: its name, the URL of its blob service, and a key, a SAS, or neither."""

    name: str
    endpoint: str
    key: str | None = field(default=None, repr=False)
    sas: str | None = field(default=None, repr=False)  # without `?`


def container_of(bucket: str) -> tuple[str, str | None]:
    """Return container and host of what stands between `az://` or `abfss://` and the next `/`. No host is None."""
    container, at, host = bucket.partition("@")
    return container, host if at else None


def account_of(bucket: str) -> Account:
    """Return the account of a container, with the credentials that the environment has for it.

    Raises `UsageError` if no setting names the account, or if the connection string is malformed. Raises `StorageError`
    with the reason `refused` if the host is none of Azure's.
    """
    _, host = container_of(bucket)
    found = _of_environment()
    if host is None:
        if found is None:
            raise UsageError(
                f"which storage account has the container {one_line(bucket, 80)}? Set AZURE_STORAGE_CONNECTION_STRING "
                "or AZURE_STORAGE_ACCOUNT, or write abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX"
            )
        return found
    name, _, rest = host.partition(".")
    if found is not None and found.name == name:
        return found
    suffix = rest.partition(".")[2] if rest else SUFFIX  # without the service: dfs or blob
    if not ACCOUNT_NAME.fullmatch(name) or suffix not in SUFFIXES:  # a token must not go to a stranger's server
        raise StorageError(
            "refused",
            f"{one_line(host, 80)!r} is no storage account of Azure: write ACCOUNT.dfs.core.windows.net, or the domain "
            "of Azure in China or for governments",
        )
    return Account(name, f"https://{name}.blob.{suffix}")


def _of_environment() -> Account | None:
    """Return the account that the environment names, or None."""
    if text := os.environ.get("AZURE_STORAGE_CONNECTION_STRING"):
        return _of_connection_string(text)
    name = _first("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME")
    if name is None:
        return None
    endpoint = _first("AZURE_STORAGE_SERVICE_ENDPOINT", "AZURE_STORAGE_ENDPOINT") or f"https://{name}.blob.{SUFFIX}"
    sas = _first("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY")
    return Account(
        name,
        endpoint.rstrip("/"),
        _first("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"),
        sas.lstrip("?") if sas else None,
    )


def _first(*variables: str) -> str | None:
    """Return the value of the first of these environment variables that is set and not empty."""
    return next(filter(None, map(os.environ.get, variables)), None)


def _of_connection_string(text: str) -> Account:
    """Return the account of a connection string. Raises `UsageError`, without the text, if it is malformed."""
    parts = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    if parts.get("UseDevelopmentStorage", "").lower() == "true":
        parts = EMULATED
    name = parts.get("AccountName")
    endpoint = parts.get("BlobEndpoint", "").rstrip("/")
    if not endpoint and name:
        endpoint = (
            f"{parts.get('DefaultEndpointsProtocol', 'https')}://{name}.blob.{parts.get('EndpointSuffix', SUFFIX)}"
        )
    if not name and endpoint:
        name = (urlsplit(endpoint).hostname or "").partition(".")[0]
    if not name:
        raise UsageError(
            "AZURE_STORAGE_CONNECTION_STRING names no account: copy it from the account's access keys in the portal"
        )
    sas = parts.get("SharedAccessSignature")
    return Account(name, endpoint, parts.get("AccountKey"), sas.lstrip("?") if sas else None)


def token_provider(bucket: str) -> Callable[[], dict[str, Any]]:
    """Return a function that gives a token as obstore takes it: `token` and `expires_at`.

    Tokens come from azure-identity's `DefaultAzureCredential`. Raises `UsageError` if azure-identity is missing, or if
    it finds no credentials; the message names the container.
    """
    try:
        from azure.core.exceptions import AzureError
        from azure.identity import DefaultAzureCredential
        from obstore.auth.azure import AzureCredentialProvider
    except ImportError as error:
        raise UsageError(
            f"no key and no SAS for the container {one_line(bucket, 80)} ({CREDENTIALS}); tokens need azure-identity: "
            "pip install 'genretag[azure]'"
        ) from error
    provider = AzureCredentialProvider(DefaultAzureCredential())
    try:
        provider()
    except AzureError as error:
        logger.debug("%s", error.message)
        raise UsageError(
            f"no credentials for the container {one_line(bucket, 80)}: {CREDENTIALS}, or run where a managed identity "
            "is attached; --anonymous reads a public container without them"
        ) from None
    return provider  # type: ignore[return-value]
