"""Each version of an object gets one row, whatever etags an inventory names, however often and in whatever form."""

import hashlib
import io
import tempfile
from collections import Counter, defaultdict
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet
import pytest
import ray
from outputs import rows
from PIL import Image

from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.output import list_output
from genretag.output.lock import holding_output
from genretag.output.part_files import PartFiles
from genretag.output.run_record import RunFacts, make_record
from genretag.output.schema import Run
from genretag.scoring.actor_plan import plan_actors
from genretag.scoring.actors import FetchOptions, Score
from genretag.scoring.inventory import Inventory, take_inventory
from genretag.scoring.settings import TagSettings
from genretag.scoring.shards import steps
from genretag.scoring.step_ledger import open_ledger
from genretag.scoring.worklist import make_worklist
from genretag.storage import Storage, join
from genretag.storage.objects import etag_key, etag_keys

MANIFESTS = 200
OBJECTS = 3
SUM = "0123456789abcdef0123456789abcdef"  # in the form of an S3 etag


def md5(data):
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def written(random, etag):
    """Return an etag in one of the forms in which stores, SDKs, proxies, spreadsheets and XML write it."""
    return random.choice(
        [
            etag,
            f'"{etag}"',
            f'W/"{etag}"',
            etag.upper(),
            f' "{etag.upper()}" ',
            f"&quot;{etag}&quot;",
            f'""{etag}""',
        ]
    )


@pytest.mark.parametrize(
    ("written", "key"),
    [
        (SUM, SUM),
        (f'"{SUM}"', SUM),
        (f'W/"{SUM}"', SUM),
        (f'W/"{SUM}', SUM),  # after a program has removed the first and the last character
        (SUM.upper(), SUM),
        (f'"{SUM.upper()}-12"', f"{SUM}-12"),  # a multipart upload of twelve parts
        (f"  {SUM}\r\n", SUM),
        (f"&quot;{SUM}&quot;", SUM),
        ('"CKih16GjycICEAE="', "CKih16GjycICEAE="),  # Google Cloud Storage: base64, which is case-sensitive
        ('"0x8D4BCC2E4835CD0"', "0x8D4BCC2E4835CD0"),  # Azure
        ("18a3f2c4d5e6f708-8f", "18a3f2c4d5e6f708-8f"),  # a local file
        ('""', ""),
        ("", ""),
        (None, ""),
    ],
)
def test_an_etag_has_one_form(written, key):
    assert etag_key(written) == key
    assert etag_key(etag_key(written)) == key
    assert etag_keys(pa.chunked_array([[written]], pa.string())).to_pylist() == [key]


def test_columns_of_etags_and_single_ones_get_the_same_form():
    random = Random(0)
    pieces = ["W/", "w/", '"', "&quot;", "&#34;", " ", "\n", "aB", SUM, SUM.upper(), "-3", "é", "=", "'"]
    etags = ["".join(random.choices(pieces, k=random.randrange(6))) for _ in range(2000)]

    keys = etag_keys(pa.chunked_array([etags]))

    assert keys.to_pylist() == [etag_key(etag) for etag in etags]
    assert etag_keys(keys) == keys


class Shelf:
    """The objects of one manifest in a bucket, with the etags of all their versions.

    Some objects are overwritten between the nights, and some are no posters.
    """

    def __init__(self, random, bucket, storage, number):
        self._random, self._storage, self._bucket = random, storage, bucket
        self.versions = {f"{number}/{i}.jpg": [] for i in range(random.randint(1, OBJECTS))}
        for key in self.versions:
            self.write(key)

    def write(self, key):
        file = io.BytesIO()
        Image.new("RGB", (8, 12), tuple(self._random.randbytes(3))).save(file, "JPEG")
        data = file.getvalue() if self._random.random() < 0.8 else self._random.randbytes(20)
        self._storage.put(join(self._bucket, key), data)
        self.versions[key].append(md5(data))

    def overwrite_some(self):
        for key in self.versions:
            if self._random.random() < 0.5:
                self.write(key)

    def manifest(self, file):
        """Write a manifest that names each object one to four times. Its etags are old, new, invented or missing."""
        etags = [[*known, known[-1], md5(self._random.randbytes(4)), None, ""] for known in self.versions.values()]
        self.named = {
            key: self._random.choices(some, k=self._random.randint(1, 4))
            for key, some in zip(self.versions, etags, strict=True)
        }
        lines = [
            (join(self._bucket, key), etag and written(self._random, etag))
            for key, some in self.named.items()
            for etag in some
        ]
        self._random.shuffle(lines)
        columns = zip(*lines, strict=True)
        pyarrow.parquet.write_table(pa.table(dict(zip(("uri", "etag"), map(list, columns), strict=True))), file)

    def current_is_named(self, key):
        """Return True if the manifest names the current version of the object, or names the object without an etag."""
        return any(not etag or etag == self.versions[key][-1] for etag in self.named[key])


@pytest.fixture(scope="module")
def night(ray_cluster):
    """Return a function that runs a night on many manifests at once.

    The night runs in this process, without Ray's actors, because these take long to start.
    """
    storage, bundle = Storage(), load_bundle(str(DEFAULT_BUNDLE), Storage())
    ledger, plan, version = (
        open_ledger(1_000_000),
        plan_actors(ray_cluster, TagSettings(), bundle),
        bundle.model_version,
    )
    fetch = (storage, bundle.rule, FetchOptions(threads=4, decode_timeout_s=60.0, one_bucket=False), ledger)
    actor = Score(fetch, plan, ray.put(bundle), [])

    def night(manifests, output, day):
        started = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(days=day)
        run_id, thresholds = f"{started:%Y%m%dT%H%M%SZ}-0000", bundle.profile().thresholds
        tonight = Run(run_id, started.date(), version, bundle.labels, "balanced", thresholds)
        parts = []
        with tempfile.TemporaryDirectory() as folder, holding_output(output, run_id, storage):
            inventory = inventory_of_all(manifests, storage, Path(folder))
            worklist = make_worklist(inventory, list_output(output, storage), version, storage)
            if worklist.to_score:
                blocks = [rows for block in steps(worklist.table()) for rows in actor(block)]
                parts.append(PartFiles(output, storage, tonight).write(blocks, 0))
        return make_record(tonight, RunFacts("manifests", output, {}, asdict(plan), started), worklist, parts, {})

    return night


def inventory_of_all(manifests, storage, folder):
    """Return one inventory of many manifests, as if all were one file."""
    tables = [take_inventory(str(manifest), storage, folder).table() for manifest in manifests]
    pyarrow.parquet.write_table(pa.concat_tables(tables), folder / "inventory.parquet")
    return Inventory(folder / "inventory.parquet", sum(map(len, tables)), may_repeat=True)


def held(output):
    """Count the rows of each version of each object in the output. There is only one model."""
    return Counter((row["uri"], row["etag"]) for kind in ("predictions", "failures") for row in rows(output, kind))


def test_three_nights_of_any_manifest_leave_one_row_for_each_version(night, bucket, storage, tmp_path):
    output, randoms = str(tmp_path / "out"), [Random(seed) for seed in range(MANIFESTS)]
    shelves = [Shelf(random, bucket, storage, seed) for seed, random in enumerate(randoms)]
    manifests = [tmp_path / f"{seed}.parquet" for seed in range(MANIFESTS)]
    for day in range(2):
        for random, shelf, manifest in zip(randoms, shelves, manifests, strict=True):
            if day and random.random() < 0.7:
                shelf.overwrite_some()
            if not day or random.random() < 0.5:
                shelf.manifest(manifest)
        record = night(manifests, output, day)

        found = held(output)
        assert set(found.values()) == {1}, [version for version, times in found.items() if times > 1]
        assert record.listed == sum(len(shelf.versions) for shelf in shelves)
        by_uri = defaultdict(set)
        for uri, etag in found:
            by_uri[uri].add(etag)
        for shelf in shelves:
            for key, etags in shelf.versions.items():
                ours = by_uri[join(bucket, key)]
                assert ours, (key, "no row")
                assert ours <= set(etags), (key, "the etag of a version that never was")
                assert etags[-1] in ours or not shelf.current_is_named(key), (key, "listed, and has no row")

    third = night(manifests, output, day=2)
    assert held(output) == found
    assert (third.scored, third.failed, third.files) == (0, 0, []), "all that is listed is known by now"
    assert third.already_scored + third.already_failed == third.listed
