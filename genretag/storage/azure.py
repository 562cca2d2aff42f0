"""The store for Azure Blob Storage and Data Lake Storage Gen2: `az://CONTAINER/NAME` and `abfss://CONTAINER@ACCOUNT…/NAME`.

Blobs are read and written through obstore. Listings, and blobs with odd names (`is_odd`), go through `azure_rest`.
A listing is one sequence of pages.
"""

from collections.abc import Callable, Iterator
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from genretag.errors import UsageError, one_line
from genretag.storage.access import Access
from genretag.storage.azure_rest import PAGE, BlobPage, BlobService
from genretag.storage.azure_settings import CREDENTIALS, Account, account_of, container_of, token_provider
from genretag.storage.bucket_store import BucketStore, is_odd, parts_of, prefix_of
from genretag.storage.clients import authorities, authorities_file, client_options, knock, retry_config
from genretag.storage.objects import Fetched, ObjectInfo, bare_etag, refuse_large
from genretag.storage.retries import retry, within
from genretag.storage.store_errors import CLOCK, Advice

if TYPE_CHECKING:
    import pyarrow as pa
    from obstore.store import AzureStore

ENDPOINT = "check the account's name (AZURE_STORAGE_ACCOUNT, or ACCOUNT in abfss://)"
ROLES = "a role such as Storage Blob Data Contributor on the container, or the permissions of the SAS"
AZURE_ADVICE = Advice(
    credentials=CREDENTIALS,
    endpoint=ENDPOINT,
    region=ENDPOINT,
    trust="the server's certificate is not accepted: name the file of its authority with REQUESTS_CA_BUNDLE",
    policy=ROLES,
    credential_codes={
        "AuthenticationFailed": (
            f"{CREDENTIALS}; where the message speaks of a date or a time, {CLOCK}, or the signature (SAS) has expired "
            "or is not valid yet"
        ),
        "InvalidAuthenticationInfo": f"the token has expired or is damaged, {CREDENTIALS}",
        "NoAuthenticationInformation": CREDENTIALS,
    },
    other_words={"failed to authenticate the request": ("credentials_refused", CREDENTIALS)},
    bucket_codes=("ContainerNotFound",),
    account_codes=("AccountIsDisabled",),
    archived_codes=("BlobArchived", "BlobBeingRehydrated"),
    refused_codes={
        "BlobImmutableDueToPolicy": "a policy of the container forbids to overwrite or delete blobs",
        "PublicAccessNotPermitted": "the account allows no access without credentials, so leave out --anonymous",
        "LeaseIdMissing": "somebody holds a lease on the blob or on its container",
    },
    again_codes=("ServerBusy", "OperationTimedOut", "ContainerBeingDeleted", "Md5Mismatch"),
)


class AzureBlobs(BucketStore):
    """The store for Azure. `Storage` documents the methods."""

    advice: ClassVar[Advice] = AZURE_ADVICE

    def __init__(self, access: Access, scheme: str) -> None:
        """`scheme` is the beginning of all URIs: `az://` or `abfss://`."""
        super().__init__(access)
        self._scheme = scheme
        self._certificates = authorities()
        self._services: dict[str, BlobService] = {}
        self._tokens: dict[str, Any] = {}

    def _account(self, bucket: str) -> tuple[Account, Any]:
        """Return the account of a container, and a function that gives tokens if there is neither key nor SAS."""
        account = account_of(bucket)
        if self._access.is_anonymous(f"{self._scheme}{bucket}"):
            return Account(account.name, account.endpoint), None
        if account.key or account.sas:
            return account, None
        if account.name not in self._tokens:
            self._tokens[account.name] = token_provider(bucket)
        return account, self._tokens[account.name]

    def _open_bucket(self, bucket: str, *, retries: bool) -> "AzureStore":
        from obstore.exceptions import BaseError
        from obstore.store import AzureStore

        account, token = self._account(bucket)
        knock(account.endpoint, self.advice.endpoint, self._patience_s)
        container, _ = container_of(bucket)
        credentials: dict[str, Any] = {"skip_signature": True}
        if account.key:
            credentials = {"account_key": account.key, "credential_type": "access_key"}
        elif account.sas:
            credentials = {"sas_key": account.sas, "credential_type": "sas_token"}
        elif token:
            credentials = {"credential_provider": token}
        try:
            return AzureStore(
                container,
                account_name=account.name,
                endpoint=account.endpoint,
                client_options=client_options(account.endpoint, self._retry_policy, self._certificates),
                retry_config=retry_config(self._retry_policy, retries=retries),
                **credentials,
            )
        except (BaseError, ValueError) as error:
            why = one_line(str(error).partition("Debug source")[0], 160)
            raise UsageError(f"the container {bucket} cannot be opened ({why}): {CREDENTIALS}") from None

    def delta_options(self, uri: str) -> dict[str, str]:
        account, token = self._account(parts_of(uri)[0])
        given = {
            "azure_storage_account_key": account.key,
            "azure_storage_sas_token": account.sas,
            "azure_storage_token": token()["token"] if token else None,
        }
        return {
            "azure_storage_account_name": account.name,
            "azure_storage_endpoint": account.endpoint,
            "allow_http": str(account.endpoint.startswith("http://")).lower(),
            **{name: value for name, value in given.items() if value},
        }

    def _service(self, uri: str) -> tuple[BlobService, str, str]:
        """Return the service of a URI's account, the container, and the name of the blob."""
        bucket, key = parts_of(uri)
        self._open(uri)  # raises an error with advice if there are no credentials or no server
        with self._lock:
            if bucket not in self._services:
                account, token = self._account(bucket)
                self._services[bucket] = BlobService(
                    account, token, self._retry_policy, self.advice, authorities_file()
                )
            return self._services[bucket], container_of(bucket)[0], key

    def list_tables(self, uri: str) -> "Iterator[pa.Table]":
        service, container, _ = self._service(uri)
        bucket, prefix = prefix_of(uri)
        root = f"{uri.partition('://')[0]}://{bucket}"
        query = {"restype": "container", "comp": "list", "maxresults": str(PAGE)}
        if prefix:
            query["prefix"] = prefix
        while True:
            ask = partial(service.request, "GET", root, container, query=dict(query))
            answer = self._persist_rest(root, ask)
            page = BlobPage.of_xml(answer.data, f"{root}/")
            yield page.table
            if not page.marker:
                return
            query["marker"] = page.marker

    def stat(self, uri: str) -> ObjectInfo:
        if not is_odd(uri):
            return super().stat(uri)
        headers = self._ask(uri, "HEAD").headers
        modified = parsedate_to_datetime(headers["Last-Modified"]).astimezone(UTC)
        return ObjectInfo(uri, bare_etag(headers["ETag"]), int(headers["Content-Length"]), modified)

    def get(self, uri: str, max_bytes: int | None) -> Fetched:
        if not is_odd(uri):
            return super().get(uri, max_bytes)
        if max_bytes is not None:
            refuse_large(self.stat(uri).size_bytes, max_bytes)
        answer = self._ask(uri, "GET")
        return Fetched(memoryview(answer.data), bare_etag(answer.headers["ETag"]))

    def put(self, uri: str, data: bytes) -> None:
        if not is_odd(uri):
            super().put(uri, data)
        else:
            self._ask(uri, "PUT", {"x-ms-blob-type": "BlockBlob"}, body=data)

    def _ask(self, uri: str, method: str, headers: dict[str, str] | None = None, **more: Any) -> Any:
        """Make a request for one blob, with retries, and return urllib3's response."""
        service, container, name = self._service(uri)
        return self._persist_rest(uri, partial(service.request, method, uri, f"{container}/{name}", headers, **more))

    def _persist_rest(self, uri: str, ask: Callable[[], Any]) -> Any:
        """Call `ask` and return its result. Retry while the error is temporary. Each attempt has a deadline."""
        return retry(lambda: within(self._retry_policy.attempt_s, uri, ask), self._retry_policy)
