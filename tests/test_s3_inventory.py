"""An S3 Inventory can be the list of images: Parquet and CSV data files, laid out as AWS does."""

import csv
import gzip
import hashlib
import io
import json
from datetime import UTC, datetime
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet
import pytest

from genretag.errors import UsageError
from genretag.scoring.inventory import read_inventory

KEYS = ["posters/a b+c%.jpg", "posters/é/x.jpg", "posters/folder/"]
WHEN = datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC)
CSV_SCHEMA = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag"


def parquet_file(bucket, *_):
    """Return a data file as AWS writes it.

    It has a current version of each key, an old version of the first, and a delete marker.
    """
    keys = [*KEYS, KEYS[0], "posters/deleted.jpg"]
    table = pa.table(
        {
            "bucket": [bucket] * 5,
            "key": keys,
            "version_id": ["v"] * 5,
            "is_latest": [True, True, True, False, True],
            "is_delete_marker": [False, False, False, False, True],
            "size": [10, 20, 0, 5, None],
            "last_modified_date": pa.array([WHEN] * 5, pa.timestamp("ms", "UTC")),
            "e_tag": ["e0", "e1", "e2", "old", None],
        }
    )
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def csv_file(bucket, encode=quote_plus):
    """Return a gzipped CSV data file as AWS writes it, with the same objects as `parquet_file`."""
    text = io.StringIO()
    lines = csv.writer(text, quoting=csv.QUOTE_ALL)
    when = "2026-11-23T01:02:03.000Z"
    for key, size, etag in zip(KEYS, (10, 20, 0), ("e0", "e1", "e2"), strict=True):
        lines.writerow([bucket, encode(key), "v", "true", "false", size, when, etag])
    lines.writerow([bucket, encode(KEYS[0]), "v0", "false", "false", 5, when, "old"])
    lines.writerow([bucket, "posters%2Fdeleted.jpg", "v", "true", "true", "", when, ""])
    return gzip.compress(text.getvalue().encode())


def put_inventory(storage, bucket, kind, data, **changes):
    """Write a manifest and its one data file to the bucket, and return the URI of the manifest."""
    name = bucket.removeprefix("s3://")
    key = f"inventory/films/all/data/0a1b.{'parquet' if kind == 'Parquet' else 'csv.gz'}"
    manifest = {
        "sourceBucket": name,
        "destinationBucket": f"arn:aws:s3:::{name}",
        "version": "2016-11-30",
        "fileFormat": kind,
        "fileSchema": CSV_SCHEMA if kind == "CSV" else "message s3.inventory { required binary bucket (UTF8); }",
        "files": [{"key": key, "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()}],
    }
    storage.put(f"{bucket}/{key}", data)
    uri = f"{bucket}/inventory/films/all/2026-11-23T01-00Z/manifest.json"
    storage.put(uri, json.dumps(manifest | changes).encode())
    return uri


@pytest.mark.parametrize(("kind", "file"), [("Parquet", parquet_file), ("CSV", csv_file)])
def test_current_objects_are_listed_with_their_exact_keys(bucket, storage, kind, file):
    uri = put_inventory(storage, bucket, kind, file(bucket.removeprefix("s3://")))

    inventory = read_inventory(uri, storage)

    assert inventory.select(["uri", "etag", "size", "last_modified"]).to_pylist() == [
        {"uri": f"{bucket}/{key}", "etag": etag, "size": size, "last_modified": WHEN}
        for key, etag, size in zip(KEYS[:2], ("e0", "e1"), (10, 20), strict=True)
    ]


@pytest.mark.parametrize("destination", ["arn:aws-cn:s3:::{}", "arn:aws-us-gov:s3:::{}", "arn:aws-iso-b:s3:::{}", "{}"])
def test_an_inventory_of_any_partition_of_aws_is_read(bucket, storage, destination):
    name = bucket.removeprefix("s3://")

    uri = put_inventory(storage, bucket, "Parquet", parquet_file(name), destinationBucket=destination.format(name))

    assert read_inventory(uri, storage)["uri"].to_pylist() == [f"{bucket}/{key}" for key in KEYS[:2]]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fileFormat": "ORC"}, "an inventory in ORC: Parquet and CSV can be read"),
        ({"destinationBucket": "arn:aws:s3:us-east-1:1:accesspoint/films"}, "not the ARN of a bucket"),
        ({"files": None}, "is not the manifest of an S3 Inventory"),
        ({"fileSchema": "Bucket, Key, Size"}, "lacks etag: add it to its configuration"),
    ],
)
def test_an_inventory_that_cannot_be_used_is_explained(bucket, storage, changes, says):
    uri = put_inventory(storage, bucket, "CSV", csv_file("films"), **changes)

    with pytest.raises(UsageError, match=says):
        read_inventory(uri, storage)


def test_a_data_file_that_is_not_the_one_of_the_manifest_is_refused(bucket, storage):
    uri = put_inventory(storage, bucket, "CSV", csv_file("films"))
    storage.put(f"{bucket}/inventory/films/all/data/0a1b.csv.gz", csv_file("others"))

    with pytest.raises(UsageError, match="its MD5 sum differs"):
        read_inventory(uri, storage)


def test_the_posters_of_an_inventory_are_tagged(run, bucket, storage, drawn_posters, tmp_path):
    for key in KEYS[:2]:
        storage.put(f"{bucket}/{key}", drawn_posters[0].data)
    uri = put_inventory(storage, bucket, "Parquet", parquet_file(bucket.removeprefix("s3://")))

    record = run(uri, tmp_path / "out")

    assert (record.listed, record.scored) == (2, 2)
