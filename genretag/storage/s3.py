"""The store for S3 and other stores with its protocol, with credentials from boto3."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from genretag.errors import UsageError, one_line
from genretag.storage.access import Access
from genretag.storage.aws_settings import AwsSettings, Encryption, core_session
from genretag.storage.bucket_store import parts_of
from genretag.storage.clients import client_options, knock, retry_config
from genretag.storage.retries import RetryPolicy
from genretag.storage.s3_errors import S3_ADVICE
from genretag.storage.s3_protocol import S3ProtocolStore, boto_config, boto_events
from genretag.storage.store_errors import Advice

if TYPE_CHECKING:
    from obstore.store import S3Store

S3 = "s3://"
CREDENTIALS_TTL = timedelta(minutes=10)
"""The time for which obstore uses credentials. It asks boto3 again 5 minutes before the end. Credentials from boto3 are
valid for at least 10 minutes. With its default of 30 minutes, obstore would use expired credentials."""


def open_client(settings: AwsSettings, retry_policy: RetryPolicy, *, anonymous: bool = False) -> Any:
    """Return a new boto3 client for S3 that makes one attempt per call. Threads may share the client.

    boto3 looks for credentials in all its usual sources. If `anonymous`, it signs nothing.
    Raises `UsageError` if the AWS settings cannot be used.
    """
    import boto3
    from botocore import UNSIGNED

    session = boto3.Session(botocore_session=core_session(event_hooks=boto_events()))
    signed = {"signature_version": UNSIGNED} if anonymous else {}
    config = boto_config(retry_policy, **settings.config_arguments(), **signed)
    client = session.client("s3", config=config, **settings.client_arguments())
    if settings.requester_pays and not anonymous:
        client.meta.events.register_last("before-call.s3.*", _agree_to_pay)
    return client


def _agree_to_pay(params: Any, **_event: Any) -> None:
    params["headers"]["x-amz-request-payer"] = "requester"


class S3Client(S3ProtocolStore):
    """The store for S3 and compatible stores. `Storage` documents the methods.

    Credentials come from boto3: environment, profile, SSO or role. Buckets are opened at their first use.
    """

    scheme: ClassVar[str] = S3
    advice: ClassVar[Advice] = S3_ADVICE

    def __init__(self, endpoint_url: str | None, encryption: Encryption, access: Access) -> None:
        super().__init__(access)
        self._settings = AwsSettings.read(endpoint_url, requester_pays=access.request_payer)
        self._encryption = encryption

    def _open_bucket(self, bucket: str, *, retries: bool) -> "S3Store":
        anonymous = self._is_anonymous(bucket)
        return open_bucket(
            bucket,
            self._settings,
            self._encryption,
            self._retry_policy,
            retries=retries,
            anonymous=anonymous,
            patience_s=self._patience_s,
        )

    def _new_client(self, bucket: str) -> Any:
        return open_client(self._settings, self._retry_policy, anonymous=self._is_anonymous(bucket))

    def delta_options(self, uri: str) -> dict[str, str]:
        import boto3

        bucket, _ = parts_of(uri)
        session = boto3.Session(botocore_session=core_session())
        _require_credentials(session, bucket)
        keys = session.get_credentials().get_frozen_credentials()
        url, in_host = self._settings.url_of(bucket)
        options: dict[str, Any] = {
            "aws_access_key_id": keys.access_key,
            "aws_secret_access_key": keys.secret_key,
            "aws_session_token": keys.token,
            "aws_region": self._settings.region,
            "aws_endpoint": url,
            "aws_endpoint_url_s3": url,  # as in `open_bucket`
            "aws_virtual_hosted_style_request": in_host,
            "aws_conditional_put": "etag",  # so that of two writers of the same version, one is refused
            "allow_http": url.startswith("http://"),
            **{f"aws_{name}": value for name, value in self._encryption.obstore_arguments().items()},
        }
        return {
            name: str(value).lower() if value in (True, False) else value
            for name, value in options.items()
            if value is not None
        }

    def _odd_write_arguments(self) -> dict[str, Any]:
        return self._encryption.boto_arguments()


def open_bucket(
    bucket: str,
    settings: AwsSettings,
    encryption: Encryption,
    retry_policy: RetryPolicy,
    *,
    retries: bool,
    anonymous: bool,
    patience_s: float,
) -> "S3Store":
    """Return obstore's store for a bucket, after a check that a server listens. The bucket itself is not checked.

    If `retries` is false, obstore makes only one attempt per request, for writes that must not happen twice. Without
    retries, obstore also deletes each object by a separate request. If `anonymous`, requests are not signed.
    Raises `UsageError` if there are no credentials or if the settings cannot be used. Raises `StorageError` if no
    server listens within `patience_s` seconds.
    """
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    credentials: dict[str, Any] = {"skip_signature": True}
    if not anonymous:
        session = boto3.Session(botocore_session=core_session())
        _require_credentials(session, bucket)
        credentials = {"credential_provider": Boto3CredentialProvider(session, ttl=CREDENTIALS_TTL)}
    advice = S3_ADVICE.endpoint if settings.endpoint_url else S3_ADVICE.region
    knock(settings.server, advice, patience_s)
    url, in_host = settings.url_of(bucket)
    try:
        return S3Store(
            bucket,
            endpoint=url,
            aws_endpoint_url_s3=url,  # because else the variable AWS_ENDPOINT_URL_S3 would override `endpoint`
            virtual_hosted_style_request=in_host,
            disable_bulk_delete=not retries,  # one DELETE for each object, which every store supports
            request_payer=settings.requester_pays and not anonymous,
            region=settings.region,
            client_options=client_options(url, retry_policy, settings.root_certificate()),
            retry_config=retry_config(retry_policy, retries=retries),
            **credentials,
            **encryption.obstore_arguments(),
        )
    except (BaseError, ValueError) as error:
        raise UsageError(f"s3://{bucket} cannot be opened: {one_line(error, 200)}") from None


def _require_credentials(session: Any, bucket: str) -> None:
    """Raise `UsageError`, with a message that names the bucket, if a boto3 session finds no credentials."""
    from botocore.exceptions import BotoCoreError

    try:
        found, why = session.get_credentials(), ""
    except BotoCoreError as error:  # for example, the program that provides credentials failed
        found, why = None, f" ({one_line(error, 200)})"
    if found is None:
        raise UsageError(
            f"no credentials for s3://{bucket}{why}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
            "or run where a role gives them; --anonymous reads a public bucket without them"
        )
