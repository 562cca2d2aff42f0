"""Fuzz what reads bytes from outside: seeds, random mutations, and checks of the outcome.

The targets are the image decoder, and the readers of label tables, manifests, bundles and settings files.
"""

import io
import json
import random
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
from cyclopts import CycloptsError
from hostile_corpus import hostile_files
from image_decoding import RULE
from label_reading import read

from genretag.cli import app, settings_sources
from genretag.data.labels import LabelError
from genretag.errors import UsageError
from genretag.images.decoding import REASONS, BadImage, ImageLimits, decode
from genretag.images.resizing import ImageRule
from genretag.model.bundle import Bundle, load_bundle
from genretag.scoring.manifests import read_manifest, read_s3_inventory
from genretag.storage import Storage, StorageError

# Small limits, so that there are many tries per second.
LIMITS = ImageLimits(max_pixels=4_000_000, max_decode_bytes=2**28)
SLOWEST_S = 20
MOST_SEED_BYTES = 20_000  # longer seeds are slow and reach no other code paths

_INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xd8",
    b"\xff\xda",
    b"\xff\xd9",
    b"\n",
    b'"',
    b",",
    b"|",
    b"[",
)
_TABLES = (
    b"id,labels\na.jpg,Drama|War\nb.jpg,War\n",
    b"id,Drama,War\r\na,1,0\r\nb,0,1\r\n",
    b"id;genres\na;['Drama', 'War']\nb;[]\n",
    b'id\tlabel\na\t"Sci-Fi"\na\tWar\n',
    b"\xef\xbb\xbfimage,labels\n\"a,b\",\"['x' 'y']\"\n",
)


_MANIFESTS = (
    b"uri\ns3://films/a.jpg\nposters/b.jpg\n",
    b'uri;poster_id;etag\r\n"https://a.org/a.jpg";1;"x"\r\n/a/b.jpg;2;\r\n',
    b"\xef\xbb\xbfposter_id\turi\n1\tgs://b/a b.jpg\n",
)
_INVENTORY = {
    "sourceBucket": "films",
    "destinationBucket": "arn:aws:s3:::lists",
    "fileFormat": "CSV",
    "fileSchema": "Bucket, Key, Size, LastModifiedDate, ETag",
    "files": [{"key": "data/1.csv.gz", "size": 9, "MD5checksum": "0" * 32}],
}
_SETTINGS = (
    b'[tag]\nimages = "posters"\noutput = "out"\nprofile = "top-3"\nerror_budget = 0.5\ndate = 2026-11-28\n',
    b'[train]\nlabels = "labels.csv"\nrecipe = "default"\nheight = 300\nworkers = "1:4"\ngpu = false\n',
    b'[tag]\nrows_per_file = 100\ncarry = ["title", "year"]\nresize = "letterbox"\n[train]\nepochs = 3\n',
)


def image_seeds() -> list[bytes]:
    return [file.data for file in hostile_files() if 0 < len(file.data) <= MOST_SEED_BYTES]


def table_seeds() -> list[bytes]:
    return list(_TABLES)


def manifest_seeds() -> list[bytes]:
    table = pa.table({"uri": ["s3://films/a.jpg", "b.jpg"], "poster_id": ["1", "2"], "etag": ["x", None]})
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    return [*_MANIFESTS, file.getvalue(), json.dumps(_INVENTORY).encode()]


def bundle_seeds() -> list[bytes]:
    return [json.dumps(_bundle().manifest(), indent=1).encode()]


def settings_seeds() -> list[bytes]:
    return list(_SETTINGS)


@cache
def _bundle() -> Bundle:
    return Bundle(
        labels=("Drama", "Comedy"),
        thresholds={"balanced": (0.3, 0.4), "precise": (0.5, 0.6)},
        rule=ImageRule(30, 20),
        backbone="tutorial",
        files={"model.keras": b"a network"},
    )


def lists_or_refuses(data: bytes) -> None:
    """Fail unless the bytes give rows with a URI each, or an error of genretag, as a manifest or an inventory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ending = {b"P": "list.parquet", b"{": "manifest.json"}.get(data[:1], "list.csv")
        (folder / ending).write_bytes(data)
        (folder / "copies").mkdir()
        source, copies = str(folder / ending), folder / "copies"
        try:
            if ending == "manifest.json":
                found = read_s3_inventory(source, _NoNetwork(), copies)
            else:
                found = read_manifest(source, _NoNetwork(), copies, ())
            for table in found:
                assert table["uri"].null_count == 0
        except (UsageError, StorageError) as error:
            assert str(error).isprintable()


class _NoNetwork(Storage):
    """A storage in which every bucket is missing."""

    def stat(self, uri: str) -> object:  # type: ignore[override]
        if not uri.startswith("/"):
            raise StorageError("not_found", f"{uri}: no network in these tests")
        return super().stat(uri)


def loads_or_refuses(data: bytes) -> None:
    """Fail unless the bytes, as `bundle.json` beside a bundle's files, give a bundle or an error of genretag."""
    with tempfile.TemporaryDirectory() as name:
        for file, content in _bundle().files.items():
            (Path(name) / file).write_bytes(content)
        (Path(name) / "bundle.json").write_bytes(data)
        try:
            assert load_bundle(name, Storage()).model_version == json.loads(data)["model_version"]
        except (UsageError, StorageError) as error:
            assert str(error).isprintable()


def sets_or_refuses(data: bytes) -> None:
    """Fail unless the bytes, as a settings file of `tag`, give settings or an error that ends with exit code 2."""
    before = app.config
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        try:
            app.config = settings_sources(app, Path(file.name))
            app.parse_args(["tag", "posters", "out"], exit_on_error=False, print_error=False)
        except (UsageError, CycloptsError):
            pass
        finally:
            app.config = before


def decodes_or_names_a_reason(data: bytes) -> None:
    """Fail unless the bytes give a picture or a `BadImage`, within `SLOWEST_S` seconds of CPU time."""
    started = time.process_time()
    try:
        pixels = decode(data, RULE, LIMITS).pixels
        assert pixels.shape == (RULE.height, RULE.width, 3)
    except BadImage as bad:
        assert bad.reason in REASONS
        assert bad.message.isprintable()
    assert time.process_time() - started < SLOWEST_S


def reads_or_refuses(data: bytes) -> None:
    """Fail unless the bytes give labels with a report, or a `LabelError`, within `SLOWEST_S` seconds of CPU time."""
    started = time.process_time()
    try:
        labelled, report = read(data)
        assert labelled.multi_hot.shape == (len(labelled.ids), len(labelled.labels))
        assert all(line.isprintable() for line in report.lines())
    except LabelError as error:
        assert str(error).isprintable()
    assert time.process_time() - started < SLOWEST_S


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "decoder": (decodes_or_names_a_reason, image_seeds),
    "labels": (reads_or_refuses, table_seeds),
    "manifests": (lists_or_refuses, manifest_seeds),
    "bundles": (loads_or_refuses, bundle_seeds),
    "settings": (sets_or_refuses, settings_seeds),
}


def bent(seed: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Return `seed` with one to eight random mutations: bytes replaced, removed, doubled, or copied from `others`."""
    data = bytearray(seed)
    for _ in range(chance.randint(1, 8)):
        at, length = chance.randint(0, len(data)), chance.choice((1, 1, 2, 4, 16, 256))
        match chance.randrange(6):
            case 0:
                data[at : at + length] = chance.randbytes(length)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length]
            case 3:
                data[at : at + 1] = chance.choice(_INTERESTING)
            case 4:
                other = chance.choice(others)
                start = chance.randint(0, len(other))
                data[at : at + length] = other[start : start + length]
            case 5:
                data[at : at + 1] = bytes([data[at] ^ 1 << chance.randrange(8)]) if at < len(data) else b""
    return bytes(data)


def fuzz(target: str, seconds: float, seed: int) -> int:
    """Mutate the target's seeds for this number of seconds, and return the number of tries.

    `target` is a key of `TARGETS`. If a check fails, raise its exception, with the input attached as a note.
    """
    check, make_seeds = TARGETS[target]
    seeds, chance, tries = make_seeds(), random.Random(seed), 0
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        data = bent(chance.choice(seeds), seeds, chance)
        try:
            check(data)
        except BaseException as error:
            error.add_note(f"input {tries} of seed {seed}, {len(data)} bytes: {data[:4000].hex()}")
            raise
        tries += 1
    return tries
