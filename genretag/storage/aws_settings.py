"""Reads what the AWS environment and profile say, in one place, so that every client of a store does the same.

boto3 and s3fs read the profile by themselves, obstore knows only some variables. So each client gets its region,
endpoint, certificates, form of addresses and encryption from here.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from genretag.errors import UsageError, one_line
from genretag.redaction import has_credentials

OTHER_PARTITIONS = ("cn-", "us-iso", "eu-iso", "eusc-")  # regions whose hosts do not end in amazonaws.com
METHODS = ("AES256", "aws:kms", "aws:kms:dsse")
YES = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class AwsSettings:
    """What the environment and the profile say on this machine; credentials are not here, as they expire."""

    region: str
    endpoint_url: str | None  # none for AWS itself
    ca_bundle: str | None  # a PEM file of authorities to trust; none for those of the system
    addressing_style: str  # virtual (the bucket is part of the host name), path, or auto
    requester_pays: bool = False  # whether we agree to pay for requests to a bucket of somebody else
    use_fips: bool = False
    use_dualstack: bool = False

    @staticmethod
    def read(endpoint_url: str | None = None) -> "AwsSettings":
        """Read the settings as boto3 does; `endpoint_url` comes before all others. Raises `UsageError`."""
        core = core_session()
        given = endpoint_url or _configured_endpoint(core)
        if given and has_credentials(given):
            raise UsageError("the S3 endpoint carries a user name or password: leave them out, set AWS_ACCESS_KEY_ID")
        style = (core.get_config_variable("s3") or {}).get("addressing_style", "")
        if os.environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() in YES:  # obstore's name for it
            style = "virtual"
        return AwsSettings(
            region=core.get_config_variable("region") or os.environ.get("AWS_REGION") or "us-east-1",
            endpoint_url=given,
            ca_bundle=core.get_config_variable("ca_bundle") or None,
            addressing_style=style or "auto",
            requester_pays=os.environ.get("AWS_REQUEST_PAYER", "").lower() in ("requester", *YES),
            use_fips=bool(core.get_config_variable("use_fips_endpoint")),
            use_dualstack=bool(core.get_config_variable("use_dualstack_endpoint")),
        )

    @property
    def server(self) -> str:
        """The URL of the store: the endpoint that was given, or AWS's own of the region and its partition."""
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
        """Return the URL of a bucket's requests as obstore wants it, and whether the bucket's name is in its host."""
        if self.addressing_style != "virtual":
            return self.server, False
        parts = urlsplit(self.server)
        return urlunsplit(parts._replace(netloc=f"{bucket}.{parts.netloc}")), True

    def root_certificate(self) -> bytes | None:
        """Return the PEM file of authorities; none where none is set. Raises `UsageError` where it cannot be read."""
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
        """What boto3's and s3fs's clients are given."""
        return {"region_name": self.region, "endpoint_url": self.endpoint_url, "verify": self.ca_bundle}

    def config_arguments(self) -> dict[str, Any]:
        """What a botocore `Config` is given."""
        return {"s3": {"addressing_style": self.addressing_style}} if self.addressing_style != "auto" else {}


@dataclass(frozen=True)
class Encryption:
    """How the store is to encrypt what is written. The same headers go with every write, whichever client makes it.

    Read where a command starts; from there it travels to the workers with `Storage`. Only a customer's own key
    (`sse-c`) is refused: it would have to go with each read too, and no table could be read by a warehouse.
    """

    method: str | None = None  # AES256, aws:kms or aws:kms:dsse; none leaves it to the bucket
    kms_key_id: str | None = None  # none for the account's own key
    bucket_key: bool | None = None  # none leaves it to the bucket

    @staticmethod
    def of_environment() -> "Encryption":
        """Read AWS_SERVER_SIDE_ENCRYPTION, AWS_SSE_KMS_KEY_ID and AWS_SSE_BUCKET_KEY_ENABLED. Raises `UsageError`."""
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
        """What boto3's and s3fs's calls that write are given."""
        named = {
            "ServerSideEncryption": self.method,
            "SSEKMSKeyId": self.kms_key_id,
            "BucketKeyEnabled": self.bucket_key if self.method else None,
        }
        return {name: value for name, value in named.items() if value is not None}

    def obstore_arguments(self) -> dict[str, Any]:
        """What an `S3Store` is given."""
        named = {
            "server_side_encryption": self.method,
            "sse_kms_key_id": self.kms_key_id,
            "sse_bucket_key_enabled": self.bucket_key if self.method else None,
        }
        return {name: value for name, value in named.items() if value is not None}

    def iceberg_properties(self) -> dict[str, str]:
        """What pyiceberg's file system is given; it leaves bucket keys to the bucket."""
        named = {"s3.server-side-encryption": self.method, "s3.sse-kms-key-id": self.kms_key_id}
        return {name: value for name, value in named.items() if value is not None}


def core_session(**options: Any) -> Any:
    """Open botocore's session. Raises `UsageError` where the settings cannot be used."""
    import botocore.session
    from botocore.exceptions import BotoCoreError

    try:
        core = botocore.session.Session(**options)
        core.get_scoped_config()  # raises for a profile that is not there, or a file that is none
        return core
    except BotoCoreError as error:
        raise UsageError(f"the AWS settings cannot be used: {one_line(error)} (AWS_PROFILE)") from None


def _configured_endpoint(core: Any) -> str | None:
    """Return the endpoint of the environment, else of the profile: that of S3 before that of all services.

    AWS SDKs and Tools Reference Guide, "Service-specific endpoints".
    """
    if core.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    profile = core.get_scoped_config()
    services: Any = {}
    if name := profile.get("services"):
        services = core.full_config.get("services", {}).get(name)
        if services is None:
            raise UsageError(f"the AWS profile names the services {one_line(name, 40)!r}, which its file does not have")
    of_s3 = services.get("s3", {})
    found = (
        os.environ.get("AWS_ENDPOINT_URL_S3"),
        os.environ.get("AWS_ENDPOINT_URL"),
        of_s3.get("endpoint_url") if isinstance(of_s3, dict) else None,
        profile.get("endpoint_url"),
    )
    return next(filter(None, found), None)
