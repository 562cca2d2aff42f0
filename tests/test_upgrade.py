"""Today's build reads and continues what earlier builds wrote (`make_stored.py`), and refuses what newer ones write."""

import json
from pathlib import Path

import deltalake
import pyarrow.parquet
import pytest
from make_stored import TABLE
from outputs import rows

from genretag.commands.compact import compact
from genretag.commands.tag import tag
from genretag.errors import UsageError
from genretag.model.bundle import load_bundle
from genretag.output.iceberg_catalog import load_table, open_catalog
from genretag.output.schema import FORMAT, FORMAT_KEY
from genretag.runtime.session import Session
from genretag.scoring.settings import TagSettings
from genretag.settings import CompactSettings, TableSettings
from genretag.storage import Storage, join

STORED = sorted((Path(__file__).parent / "stored").iterdir())
NIGHT = TagSettings(error_budget=0.9, report=False, date="2026-11-02")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def buckets(s3_server):
    """Make an empty bucket for each earlier build: Iceberg's files name its objects by their URIs."""
    found = {kept: f"s3://stored-{kept.name}" for kept in STORED}
    for bucket in found.values():
        s3_server.create_bucket(bucket.removeprefix("s3://"))
    return found


@pytest.fixture(params=STORED, ids=lambda folder: folder.name)
def stored(request, buckets, tmp_path):
    """Return the folder of an earlier build, and the bucket that has its objects again, with one new poster."""
    kept, storage = request.param, Storage()
    bucket = buckets[kept]
    storage.delete_below(f"{bucket}/")
    for file in (kept / "bucket").rglob("*"):
        if file.is_file():
            storage.put(join(bucket, file.relative_to(kept / "bucket").as_posix()), file.read_bytes())
    (new,) = (kept / "new").iterdir()
    storage.put(join(bucket, "posters", new.name), new.read_bytes())
    (tmp_path / "catalog.db").write_bytes((kept / "catalog.db").read_bytes())
    return kept, bucket


def table_of(name, tmp_path):
    return TableSettings(TABLE, f"sqlite:///{tmp_path}/catalog.db") if name == "genres" else TableSettings("delta")


@pytest.mark.parametrize("name", ["genres", "delta"])
def test_an_output_of_an_earlier_build_is_continued(ray_cluster, stored, tmp_path, name):
    _, bucket = stored
    output, table, storage = join(bucket, name), table_of(name, tmp_path), Storage()
    before = {row["uri"]: row for row in rows(output)}

    record = tag(join(bucket, "posters"), output, NIGHT, Session(quiet=True), join(bucket, "model"), table)
    merged = compact(output, CompactSettings(before="2026-11-20"), Session(quiet=True), table)

    after = {row["uri"]: row for row in rows(output)}
    assert (record.listed, record.already_scored, record.already_failed, record.scored) == (8, 6, 1, 1)
    assert len(before) == 6 and {uri: after[uri] for uri in before} == before
    assert len(after) == 7, merged
    if name == "delta":
        in_table = deltalake.DeltaTable(join(output, "predictions"), storage_options=storage.delta_options(output))
        uris = in_table.to_pyarrow_table(columns=["uri"])["uri"].to_pylist()
    else:
        with open_catalog(table, output, storage) as catalog:
            uris = load_table(catalog, table).scan().to_arrow()["uri"].to_pylist()
    assert sorted(uris) == sorted(after)


def test_a_bundle_of_an_earlier_build_gives_the_same_answers(ray_cluster, stored, tmp_path):
    _, bucket = stored
    again = tmp_path / "again"

    tag(join(bucket, "posters"), str(again), NIGHT, Session(quiet=True), join(bucket, "model"))

    found = {row["uri"]: row for row in rows(again)}
    for row in rows(join(bucket, "genres")):
        assert found[row["uri"]]["model_version"] == row["model_version"]
        for column in (name for name in row if name.startswith("p_")):
            assert found[row["uri"]][column] == pytest.approx(row[column], abs=0.01)


def test_a_settings_file_of_an_earlier_build_is_read(process, stored):
    kept, _ = stored

    done = process("--config", kept / "genretag.toml", "tag", "--no-report")

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 posters scored, 0 failed, 6 already scored, 1 failed before")


def test_every_part_file_says_its_format(run, few_posters, tmp_path):
    (few_posters / "broken.jpg").write_bytes(b"no picture")

    run(few_posters, tmp_path / "out")

    for kind in ("predictions", "failures"):
        (part,) = (tmp_path / "out" / kind).rglob("*.parquet")
        assert pyarrow.parquet.read_schema(part).metadata[FORMAT_KEY] == FORMAT


def of_a_newer_build(uri, storage):
    """Give a part file the format 2."""
    table = pyarrow.parquet.read_table(uri.removeprefix("s3://"), filesystem=storage.filesystem(uri)[0])
    changed = table.replace_schema_metadata({**table.schema.metadata, FORMAT_KEY: b"2"})
    filesystem, path = storage.filesystem(uri)
    with filesystem.open(path, "wb") as file:
        pyarrow.parquet.write_table(changed, file)


@pytest.mark.parametrize("command", ["tag", "compact", "gallery", "retag"])
def test_an_output_of_a_newer_build_is_refused_with_a_line_and_left_as_it_is(process, stored, command):
    _, bucket = stored
    output, storage = join(bucket, "newer"), Storage()
    for page in storage.list(join(bucket, "delta", "predictions", "dt=2026-11-01")):
        for info in page:
            data, place = storage.get(info.uri).data, info.uri.replace("/delta/", "/newer/")
            storage.put(place.replace("-00000", "-00001"), bytes(data))  # `compact` reads days of several files
            storage.put(place, bytes(data))
            of_a_newer_build(place, storage)
    before = sorted((info.uri, info.etag) for page in storage.list(output) for info in page)
    arguments = {
        "tag": ("tag", join(bucket, "posters"), output, "--model", join(bucket, "model")),
        "retag": ("retag", output, "--profile", "top-1", "--model", join(bucket, "model")),
        "compact": ("compact", output, "--before", "2026-11-20"),
        "gallery": ("gallery", output),
    }

    done = process(*arguments[command])

    assert done.returncode == 2, done.stdout + done.stderr
    assert "has the format 2 of a newer genretag" in done.stderr.splitlines()[-1]
    assert sorted((info.uri, info.etag) for page in storage.list(output) for info in page) == before


def test_a_bundle_of_a_newer_build_is_refused(stored):
    _, bucket = stored
    place, storage = join(bucket, "model", "bundle.json"), Storage()
    facts = json.loads(bytes(storage.get(place).data))
    storage.put(place, json.dumps({**facts, "format_version": 2}).encode())

    with pytest.raises(UsageError, match="this genretag reads version 1"):
        load_bundle(join(bucket, "model"), storage)
