"""`python -m genretag.demo.bucket s3://films`: draw posters and labels into a bucket, to try genretag on a cluster.

    BUCKET/posters/1987/dp000123.jpg    some of them broken
    BUCKET/labels.csv                   for `genretag train`

If the bucket is missing, it is created. Endpoint and credentials come from boto3's usual settings.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from genretag.demo.posters import draw_posters, labels_csv
from genretag.storage import Storage
from genretag.storage.aws_settings import AwsSettings

BROKEN_SHARE = 0.04
THERE_ALREADY = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})


def fill_bucket(bucket: str, posters: int) -> None:
    """Draw `posters` posters into `bucket` (s3://NAME), and write their labels to `labels.csv` there.

    If the bucket is missing, it is created. Each call with the same number draws the same posters. Raises
    `StorageError` if an object cannot be written, and botocore's errors if the bucket cannot be created.
    """
    try:
        config = Config(connect_timeout=5, retries={"mode": "standard", "total_max_attempts": 10})
        boto3.Session().client("s3", config=config, **AwsSettings.read().client_arguments()).create_bucket(
            Bucket=bucket.removeprefix("s3://")
        )
    except ClientError as error:
        if error.response["Error"]["Code"] not in THERE_ALREADY:
            raise
    storage = Storage()
    drawn = list(draw_posters(posters, seed=1, broken_share=BROKEN_SHARE))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda poster: storage.put(f"{bucket}/{poster.key}", poster.data), drawn))
    storage.put(f"{bucket}/labels.csv", labels_csv(drawn).encode())


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line `python -m genretag.demo.bucket`."""
    found = argparse.ArgumentParser(prog="python -m genretag.demo.bucket", description=__doc__)
    found.add_argument("bucket", help="s3://NAME")
    found.add_argument("--posters", type=int, default=300)
    return found


def main() -> None:
    """Read the command line, fill the bucket, and print what is in it."""
    arguments = parser().parse_args()
    fill_bucket(arguments.bucket.rstrip("/"), arguments.posters)
    print(f"{arguments.posters} posters and labels.csv are in {arguments.bucket}")  # noqa: T201


if __name__ == "__main__":
    main()
