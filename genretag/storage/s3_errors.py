"""What users of S3 can check, and what the error codes of S3 and of compatible stores mean."""

from genretag.storage.store_errors import CLOCK, Advice

CREDENTIALS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
REGION = "check the region (AWS_REGION)"
ENDPOINT = "check the endpoint (--endpoint-url or AWS_ENDPOINT_URL)"
NEW_SESSION = "the session has ended, log in again (aws sso login, AWS_PROFILE) or renew AWS_SESSION_TOKEN"
VIRTUAL = "set AWS_VIRTUAL_HOSTED_STYLE_REQUEST=true, or addressing_style = virtual below s3 in the AWS profile"
IN_THE_HOST = f"the store wants the bucket's name in the host ({{said}}): {VIRTUAL}"
NO_TRUST = (
    "the server's certificate is not accepted: name the file of its authority with AWS_CA_BUNDLE "
    f"(or ca_bundle in the AWS profile), and {ENDPOINT}"
)

S3_ADVICE = Advice(
    credentials=CREDENTIALS,
    endpoint=ENDPOINT,
    region=REGION,
    trust=NO_TRUST,
    of_writes="where the bucket demands encryption, set AWS_SERVER_SIDE_ENCRYPTION (AES256 or aws:kms)",
    of_keys=(
        "check that the KMS key is enabled and in the bucket's region, and that its policy and yours allow kms:Decrypt "
        "(to read) and kms:GenerateDataKey (to write)"
    ),
    credential_codes={
        "InvalidAccessKeyId": f"the store does not know this key, {CREDENTIALS}",
        "SignatureDoesNotMatch": f"the secret does not belong to the key, {CREDENTIALS}",
        "ExpiredToken": NEW_SESSION,
        "TokenRefreshRequired": NEW_SESSION,
        "InvalidToken": f"the session token is damaged or of other keys, check AWS_SESSION_TOKEN; {CREDENTIALS}",
        "RequestTimeTooSkewed": f"{CLOCK}; the keys may be right",
    },
    # Aliyun OSS sends these words with the code AccessDenied
    other_words={
        "must be addressed using the specified endpoint": (
            "wrong_region",
            f"the bucket is at another endpoint: {ENDPOINT}, and {REGION.removeprefix('check ')}",
        )
    },
    account_codes=("AllAccessDisabled", "AccountProblem", "UserSuspended", "NotSignedUp", "UserDisable"),
    # of Aliyun OSS and Tencent COS
    address_codes={"SecondLevelDomainForbidden": IN_THE_HOST, "PathStyleDomainForbidden": IN_THE_HOST},
    archived_codes=("InvalidObjectState",),
    region_codes=("AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"),
    full_codes=("InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"),  # of stores that are not AWS
    again_codes=(
        *("RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch"),  # the connection is bad
        *("KMS.ThrottlingException", "KMS.InternalException", "KMS.KMSInternalException"),
    ),
)
