"""Read the settings in the environment and the AWS profile, so that all clients of a store use the same settings.

boto3 and s3fs read the profile themselves, but obstore reads only some environment variables. So each client gets its
region, endpoint, certificates, addressing style and encryption from this file.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from genretag.errors import UsageError, has_credentials, one_line

OTHER_PARTITIONS = ("cn-", "us-iso", "eu-iso", "eusc-")  # regions whose hosts do not end in amazonaws.com
METHODS = ("AES256", "aws:kms", "aws:kms:dsse")
YES = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class AwsSettings:
    """Settings in this machine's environment and AWS profile, without credentials, because credentials expire."""

    region: str
    endpoint_url: str | None  # None for AWS itself
    ca_bundle: str | None  # a PEM file of authorities to trust; None for the system's authorities
    addressing_style: str  # virtual (the bucket is part of the host name), path, or auto
    requester_pays: bool = False  # True: agree to pay for requests to another owner's bucket
    use_fips: bool = False
    use_dualstack: bool = False

    @staticmethod
    def read(endpoint_url: str | None = None, *, requester_pays: bool = False) -> "AwsSettings":
        """Read the settings as boto3 does. If `endpoint_url` is given, it overrides every configured endpoint.

        `requester_pays` agrees to pay for requests, as AWS_REQUEST_PAYER=requester does. Without a configured region,
        the region is us-east-1. Raises `UsageError` if the endpoint URL contains a user name or password, or if the AWS
        settings cannot be used.
        """
        core = core_session()
        given = endpoint_url or _configured_endpoint(core)
        if given and has_credentials(given):
            raise UsageError("the S3 endpoint carries a user name or password: leave them out, set AWS_ACCESS_KEY_ID")
        style = (core.get_config_variable("s3") or {}).get("addressing_style", "")
        if os.environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() in YES:  # obstore's setting
            style = "virtual"
        return AwsSettings(
            region=core.get_config_variable("region") or os.environ.get("AWS_REGION") or "us-east-1",
            endpoint_url=given,
            ca_bundle=core.get_config_variable("ca_bundle") or None,
            addressing_style=style or "auto",
            requester_pays=requester_pays or os.environ.get("AWS_REQUEST_PAYER", "").lower() in ("requester", *YES),
            use_fips=bool(core.get_config_variable("use_fips_endpoint")),
            use_dualstack=bool(core.get_config_variable("use_dualstack_endpoint")),
        )

    @property
    def server(self) -> str:
        """The URL of the store: `endpoint_url` or, if that is None, AWS's endpoint for the region.

        Raises `UsageError` if boto3 knows no endpoint for the region.
        """
        if self.endpoint_url:
            return self.endpoint_url
        if not (self.use_fips or self.use_dualstack or self.region.startswith(OTHER_PARTITIONS)):
            return f"https://s3.{self.region}.amazonaws.com"  # boto3's table of hosts takes 0.2 s to read
        hosts = core_session().get_component("endpoint_resolver")
        found = hosts.construct_endpoint(
            "s3", self.region, use_fips_endpoint=self.use_fips, use_dualstack_endpoint=self.use_dualstack
        )
        if not found:
            raise UsageError(f"boto3 knows no S3 endpoint of the region {one_line(self.region, 40)}: check AWS_REGION")
        return f"https://{found['hostname']}"

    def url_of(self, bucket: str) -> tuple[str, bool]:
        """Return the URL that obstore needs for a bucket, and whether that URL's host contains the bucket name.

        The host contains the bucket name only if the addressing style is `virtual`. Otherwise, return the URL `server`.
        """
        if self.addressing_style != "virtual":
            return self.server, False
        parts = urlsplit(self.server)
        return urlunsplit(parts._replace(netloc=f"{bucket}.{parts.netloc}")), True

    def root_certificate(self) -> bytes | None:
        """Return the content of the PEM file of certificate authorities, or None if the settings name no file.

        Raises `UsageError` if the file cannot be read.
        """
        if not self.ca_bundle:
            return None
        try:
            return Path(self.ca_bundle).read_bytes()
        except OSError as error:
            raise UsageError(
                f"the certificates in {one_line(self.ca_bundle, 200)} cannot be read ({error.strerror}): "
                "check AWS_CA_BUNDLE, or ca_bundle in the AWS profile"
            ) from None

    def client_arguments(self) -> dict[str, Any]:
        """Return keyword arguments for a client of boto3 or s3fs: region, endpoint and certificates."""
        return {"region_name": self.region, "endpoint_url": self.endpoint_url, "verify": self.ca_bundle}

    def config_arguments(self) -> dict[str, Any]:
        """Return the keyword argument of botocore's `Config` for the addressing style, or {} if the style is `auto`."""
        return {"s3": {"addressing_style": self.addressing_style}} if self.addressing_style != "auto" else {}


@dataclass(frozen=True)
class Encryption:
    """Settings for the server-side encryption of written objects. Each write by any client has the same headers.

    A genretag command reads these settings once, and `Storage` passes them to the workers. Keys that the customer
    provides (`sse-c`) are not supported: every read would need the key too, and no data warehouse could read a table.
    """

    method: str | None = None  # AES256, aws:kms or aws:kms:dsse; None: the bucket decides
    kms_key_id: str | None = None  # None for the key that AWS manages in the account
    bucket_key: bool | None = None  # None: the bucket decides

    @staticmethod
    def of_environment() -> "Encryption":
        """Read AWS_SERVER_SIDE_ENCRYPTION, AWS_SSE_KMS_KEY_ID and AWS_SSE_BUCKET_KEY_ENABLED.

        A variable that is unset or empty becomes None.
        Raises `UsageError` if the encryption method is unknown, or if a KMS key is set without a KMS method.
        """
        method = os.environ.get("AWS_SERVER_SIDE_ENCRYPTION") or None
        key = os.environ.get("AWS_SSE_KMS_KEY_ID") or None
        bucket_key = os.environ.get("AWS_SSE_BUCKET_KEY_ENABLED", "").lower()
        if method is not None and method not in METHODS:
            known = ", ".join(METHODS)
            raise UsageError(f"AWS_SERVER_SIDE_ENCRYPTION is one of {known}, not {one_line(method, 40)!r}")
        if key and method in (None, "AES256"):
            raise UsageError("AWS_SSE_KMS_KEY_ID needs AWS_SERVER_SIDE_ENCRYPTION=aws:kms (or aws:kms:dsse)")
        return Encryption(method, key, bucket_key in YES if bucket_key else None)

    def boto_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments that encrypt a write of boto3 or s3fs. Settings that are None are left out."""
        named = {
            "ServerSideEncryption": self.method,
            "SSEKMSKeyId": self.kms_key_id,
            "BucketKeyEnabled": self.bucket_key if self.method else None,
        }
        return {name: value for name, value in named.items() if value is not None}

    def obstore_arguments(self) -> dict[str, Any]:
        """Return the arguments of obstore's `S3Store` that encrypt its writes. Settings that are None are left out."""
        named = {
            "server_side_encryption": self.method,
            "sse_kms_key_id": self.kms_key_id,
            "sse_bucket_key_enabled": self.bucket_key if self.method else None,
        }
        return {name: value for name, value in named.items() if value is not None}

    def iceberg_properties(self) -> dict[str, str]:
        """Return the properties that encrypt writes of pyiceberg's file system. Settings that are None are left out.

        pyiceberg has no property for `bucket_key` (S3 Bucket Keys), so the bucket's own setting applies.
        """
        named = {"s3.server-side-encryption": self.method, "s3.sse-kms-key-id": self.kms_key_id}
        return {name: value for name, value in named.items() if value is not None}


def core_session(**options: Any) -> Any:
    """Return a new botocore session. `options` are arguments of botocore's `Session`.

    Raises `UsageError` if the AWS settings cannot be used, for example if the profile does not exist.
    """
    import botocore.session
    from botocore.exceptions import BotoCoreError

    try:
        core = botocore.session.Session(**options)
        core.get_scoped_config()  # raises if the profile is missing or its file is malformed
        return core
    except BotoCoreError as error:
        raise UsageError(f"the AWS settings cannot be used: {one_line(error)} (AWS_PROFILE)") from None


def _configured_endpoint(core: Any) -> str | None:
    """Return the endpoint URL of the environment, or else of the AWS profile, or None if neither has one.

    In the environment and in the profile, an endpoint for S3 overrides an endpoint for all services. If the setting
    `ignore_configured_endpoint_urls` is on, return None.
    Raises `UsageError` if the profile names a `services` section that the AWS config file does not have.
    Source: AWS SDKs and Tools Reference Guide, "Service-specific endpoints".
    """
    if core.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    profile = core.get_scoped_config()
    services: Any = {}
    if name := profile.get("services"):
        services = core.full_config.get("services", {}).get(name)
        if services is None:
            raise UsageError(f"the AWS profile needs the section services {one_line(name, 40)!r}, which is missing")
    of_s3 = services.get("s3", {})
    found = (
        os.environ.get("AWS_ENDPOINT_URL_S3"),
        os.environ.get("AWS_ENDPOINT_URL"),
        of_s3.get("endpoint_url") if isinstance(of_s3, dict) else None,
        profile.get("endpoint_url"),
    )
    return next(filter(None, found), None)
