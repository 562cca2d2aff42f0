"""boto3's client, for what obstore cannot say: whole listings, and keys that its path parser refuses or changes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from genretag.errors import one_line
from genretag.storage.aws_settings import AwsSettings, core_session
from genretag.storage.objects import StorageError
from genretag.storage.s3_buckets import CONNECT_S, Patience
from genretag.storage.s3_errors import CREDENTIALS, NO_TRUST, Answer, of_answer, words_of
from genretag.storage.s3_listing import take_columns

CONNECTIONS = 64  # kept open, at most: as many listers and readers of odd keys may work at once


def open_client(settings: AwsSettings, patience: Patience) -> Any:
    """A client of boto3's whole chain of credentials that makes one attempt per call; to be shared by threads."""
    import boto3
    from botocore.config import Config
    from botocore.hooks import HierarchicalEmitter

    events = HierarchicalEmitter()
    # before botocore's own handlers, one of which parses the whole answer to see whether it is an error
    events.register_first("before-parse.s3.*", take_columns)
    session = boto3.Session(botocore_session=core_session(event_hooks=events))
    config = Config(
        connect_timeout=min(CONNECT_S, patience.attempt_s),
        read_timeout=patience.attempt_s,
        retries={"total_max_attempts": 1},
        max_pool_connections=CONNECTIONS,
        request_checksum_calculation="when_required",  # stores that are not AWS refuse the newer checksums
        response_checksum_validation="when_required",
        **settings.config_arguments(),
    )
    client = session.client("s3", config=config, **settings.client_arguments())
    if settings.requester_pays:
        client.meta.events.register_last("before-call.s3.*", _agree_to_pay)
    return client


def _agree_to_pay(params: Any, **_event: Any) -> None:
    params["headers"]["x-amz-request-payer"] = "requester"


@contextmanager
def boto_errors(uri: str) -> Iterator[None]:
    """Turns botocore's exceptions into `StorageError`; the original is dropped, for what its text may hold."""
    from botocore.exceptions import BotoCoreError, ClientError

    name = one_line(uri, 1100)  # a key may hold line feeds
    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        told = error.response.get("Error", {})
        code = str(told.get("Code", ""))
        if status == 412:
            raise StorageError("changed", f"{name} was changed by another writer") from None
        if code == str(status):  # the answer had no body
            raise of_answer(name, Answer(status)) from None
        raise of_answer(name, Answer(status, one_line(code, 60), words_of(str(told.get("Message", ""))))) from None
    except BotoCoreError as error:
        raise _without_answer(name, error) from None


def _without_answer(uri: str, error: Exception) -> StorageError:
    from botocore import exceptions

    if isinstance(error, exceptions.ConnectTimeoutError | exceptions.ReadTimeoutError):
        return StorageError("timeout", f"{uri}: the store did not answer in time, or not with all of it")
    if isinstance(error, exceptions.SSLError):
        return StorageError("certificate_refused", f"{uri}: {NO_TRUST}")
    if isinstance(error, exceptions.NoCredentialsError | exceptions.CredentialRetrievalError):
        return StorageError("credentials_refused", f"no credentials for {uri}: {CREDENTIALS}")
    if isinstance(error, exceptions.ParamValidationError):
        return StorageError("refused", f"{uri} names nothing that S3 can hold")
    return StorageError("unavailable", f"{uri}: the connection failed")
