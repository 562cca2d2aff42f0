"""Requests to Azure's blob service that obstore cannot make: listings with exact names, and blobs with odd names.

obstore would drop a `/` at the end of a name, and one blob with an empty or a dot segment would end its listing with an
error. So listings are read here: regular expressions take name, etag, size and time of each blob out of the XML.

Source: Azure Storage REST API, "List Blobs" and "Authorize with Shared Key".
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from html import unescape
from typing import Any, ClassVar
from urllib.parse import quote, unquote, urlencode, urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from genretag.errors import one_line
from genretag.storage.azure_settings import Account
from genretag.storage.clients import CONNECT_S, proxy_of
from genretag.storage.objects import StorageError
from genretag.storage.retries import RetryPolicy
from genretag.storage.s3_listing import LISTING
from genretag.storage.store_errors import CODE, WORDS_OF_STORE, Advice, Answer, of_answer, words_of

VERSION = "2021-12-02"  # of the REST API; Azurite knows it too
PAGE = 5000  # blobs in one page of a listing, which is the most that Azure returns
CONNECTIONS = 16
SIGNED_HEADERS = (  # in this order
    *("content-encoding", "content-language", "content-length", "content-md5", "content-type", "date"),
    *("if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"),
)


class BlobService:
    """Signed requests to one storage account. Threads may share an instance."""

    def __init__(
        self,
        account: Account,
        token: Callable[[], Mapping[str, Any]] | None,
        retry_policy: RetryPolicy,
        advice: Advice,
        certificates: str | None,
    ) -> None:
        """`token` gives tokens if the account has neither key nor SAS. None means that requests are not signed."""
        import urllib3

        parts = urlsplit(account.endpoint)
        self._path = parts.path  # of an emulator: /ACCOUNT
        self._account, self._token, self._advice = account, token, advice
        timeout = urllib3.Timeout(connect=min(CONNECT_S, retry_policy.attempt_s), read=retry_policy.attempt_s)
        trust = {"ca_certs": certificates} if certificates else {}
        pools = _pools(account.endpoint, maxsize=CONNECTIONS, timeout=timeout, **trust)
        self._pool = pools.connection_from_url(account.endpoint)

    def request(self, method: str, uri: str, blob: str, headers: Mapping[str, str] | None = None, **more: Any) -> Any:
        """Make one request for a container or a blob, and return urllib3's response, which has been read completely.

        `blob` is what follows the account's endpoint: `CONTAINER` or `CONTAINER/NAME`. `more` are `query`, a mapping,
        and `body`, bytes. Raises `StorageError` with a message that names `uri`.
        """
        import urllib3

        query, body = dict(more.get("query") or {}), more.get("body")
        path = f"{self._path}/{quote(blob, safe='/')}"
        given = {
            "x-ms-date": format_datetime(datetime.now(UTC), usegmt=True),
            "x-ms-version": VERSION,
            "content-type": "application/octet-stream" if body is not None else "",
            **(headers or {}),
        }
        if not given["content-type"]:
            del given["content-type"]
        self._sign(method, path, query, given, len(body or b""))
        target = f"{path}?{urlencode(query, quote_via=quote)}" if query else path
        if self._account.sas and self._account.key is None:
            target += ("&" if query else "?") + self._account.sas
        try:
            answer = self._pool.urlopen(method, target, body=body, headers=given, retries=False)
        except urllib3.exceptions.TimeoutError:
            raise StorageError("timeout", f"{uri}: the store did not send its whole answer in time") from None
        except urllib3.exceptions.SSLError:
            raise StorageError("certificate_refused", f"{uri}: {self._advice.trust}") from None
        except urllib3.exceptions.HTTPError as error:
            raise StorageError("unavailable", f"{uri}: the connection failed ({type(error).__name__})") from None
        if answer.status >= 300:
            text = answer.data.decode(errors="replace")
            code, words = CODE.search(text), WORDS_OF_STORE.search(text)
            name = code[1] if code else answer.headers.get("x-ms-error-code", "")
            said = Answer(answer.status, one_line(name, 60), words_of(words[1]) if words else "", method == "PUT")
            raise of_answer(one_line(uri, 1100), said, self._advice)
        return answer

    def _bearer(self) -> str:
        """Return a token. Raises `StorageError` if azure-identity gives none any more."""
        from azure.core.exceptions import AzureError

        try:
            return str(self._token()["token"]) if self._token else ""
        except AzureError as error:
            why = one_line(error.message, 120)
            raise StorageError(
                "credentials_refused", f"Azure gives no token ({why}): {self._advice.credentials}"
            ) from None

    def _sign(self, method: str, path: str, query: dict[str, str], headers: dict[str, str], length: int) -> None:
        """Add the header `authorization`, if the account has a key or gives tokens."""
        if self._account.key is None:
            if self._account.sas is None and self._token is not None:
                headers["authorization"] = f"Bearer {self._bearer()}"
            return
        signed = {**headers, "content-length": str(length) if length else ""}
        extra = sorted(name for name in headers if name.startswith("x-ms-"))
        text = "\n".join(
            [
                method,
                *(signed.get(name, "") for name in SIGNED_HEADERS),
                *(f"{name}:{headers[name]}" for name in extra),
                f"/{self._account.name}{path}",
                *(f"{name}:{query[name]}" for name in sorted(query)),
            ]
        )
        mac = hmac.new(base64.b64decode(self._account.key), text.encode(), hashlib.sha256).digest()
        headers["authorization"] = f"SharedKey {self._account.name}:{base64.b64encode(mac).decode()}"


def _pools(url: str, **options: Any) -> Any:
    """Return urllib3's pools of connections, through the proxy of the environment if it names one for this URL."""
    import urllib3

    proxy = proxy_of(url)
    return urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)


@dataclass(frozen=True)
class BlobPage:
    """One page of a listing: the table of its blobs, and the marker of the next page (empty: this page is the last)."""

    COLUMNS: ClassVar[dict[str, re.Pattern[str]]] = {
        "name": re.compile(r"<Name(?: Encoded=\"(?P<encoded>true)\")?>(?P<name>[^<]*)</Name>"),
        "modified": re.compile(r"<Last-Modified>([^<]*)</Last-Modified>"),
        "etag": re.compile(r"<Etag>([^<]*)</Etag>"),
        "size": re.compile(r"<Content-Length>(\d+)</Content-Length>"),
    }
    MARKER: ClassVar[re.Pattern[str]] = re.compile(r"<NextMarker>([^<]*)</NextMarker>")
    FOLDER: ClassVar[str] = "<ResourceType>directory</ResourceType>"
    TIME: ClassVar[str] = "%a, %d %b %Y %H:%M:%S GMT"

    table: pa.Table
    marker: str

    @staticmethod
    def of_xml(body: bytes, root: str) -> "BlobPage":
        """Read a page from Azure's XML. `root` is the URI of the container, which ends with `/`.

        Folders are left out: the directories of a hierarchical namespace, and blobs without bytes whose names end with
        `/`. Raises `StorageError` with the reason `refused` if the XML is not in the form that Azure writes.
        """
        text = body.decode()
        head, *blobs = text.split("<Blob>")
        last = blobs[-1] if blobs else head
        marker = BlobPage.MARKER.search(last)
        blobs = [blob for blob in blobs if BlobPage.FOLDER not in blob]
        joined = "<Blob>".join(blobs)
        names = [_name(found) for found in BlobPage.COLUMNS["name"].finditer(joined)]
        modified, etags, sizes = (BlobPage.COLUMNS[name].findall(joined) for name in ("modified", "etag", "size"))
        if not len(names) == len(modified) == len(etags) == len(sizes) == len(blobs):
            raise StorageError("refused", f"{root}: the store's listing is not in the form that Azure writes")
        times = pc.strptime(pa.array(modified, pa.string()), BlobPage.TIME, "us").cast(pa.timestamp("us", "UTC"))
        columns = [
            pa.array([root + name for name in names], pa.string()),
            pc.replace_substring_regex(pa.array(etags, pa.string()), '&quot;|"', ""),
            pa.array(sizes, pa.string()).cast(pa.int64()),
            times,
        ]
        table = pa.table(columns, LISTING)
        if "0" in sizes:
            marks = pc.and_(pc.equal(table["size"], 0), pc.ends_with(table["uri"], "/"))
            table = table.filter(pc.invert(marks))
        return BlobPage(table, unescape(marker[1]) if marker else "")


def _name(found: re.Match[str]) -> str:
    """Return the name of a blob from a match of `<Name>`. Names with characters that XML cannot hold are encoded."""
    name = unescape(found["name"]) if "&" in found["name"] else found["name"]
    return unquote(name) if found["encoded"] else name
