"""The worklist is the inventory less what the output holds for this version of object and model."""

import pyarrow as pa
import pyarrow.parquet
import pytest

from genretag.errors import UsageError
from genretag.storage import Storage
from genretag.tagging.inventory import SCHEMA, inventory_of, read_inventory
from genretag.tagging.worklist import make_worklist


def objects(*pairs):
    """An inventory of (uri, etag) pairs."""
    table = inventory_of([uri for uri, _ in pairs])
    return table.set_column(2, SCHEMA.field("etag"), pa.array([etag for _, etag in pairs]))


def hold(output, kind, *rows):
    """Writes a part file of (uri, etag, model_version) rows below the output."""
    folder = output / kind / "dt=2026-11-22"
    folder.mkdir(parents=True, exist_ok=True)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(("uri", "etag", "model_version"))}
    pyarrow.parquet.write_table(pa.table(columns), folder / f"part-{len(list(folder.iterdir()))}.parquet")


def keys(worklist):
    return list(zip(worklist.posters["uri"].to_pylist(), worklist.posters["etag"].to_pylist(), strict=True))


def test_into_an_empty_output_everything_is_to_do(tmp_path):
    worklist = make_worklist(objects(("a", "1"), ("b", "1")), str(tmp_path), "m1", Storage())

    assert keys(worklist) == [("a", "1"), ("b", "1")]
    assert (worklist.listed, worklist.already_scored, worklist.already_failed) == (2, 0, 0)


def test_what_was_scored_or_failed_is_left_out(tmp_path):
    hold(tmp_path, "predictions", ("a", "1", "m1"), ("b", "1", "m1"))
    hold(tmp_path, "failures", ("c", "1", "m1"))

    worklist = make_worklist(objects(("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")), str(tmp_path), "m1", Storage())

    assert keys(worklist) == [("d", "1")]
    assert (worklist.listed, worklist.already_scored, worklist.already_failed) == (4, 2, 1)


def test_a_changed_object_and_a_new_model_are_scored_again(tmp_path):
    hold(tmp_path, "predictions", ("a", "1", "m1"), ("b", "1", "m1"))

    assert keys(make_worklist(objects(("a", "2"), ("b", "1")), str(tmp_path), "m1", Storage())) == [("a", "2")]
    assert len(make_worklist(objects(("a", "1"), ("b", "1")), str(tmp_path), "m2", Storage()).posters) == 2


def test_failures_are_retried_on_request_unless_they_were_scored_since(tmp_path):
    hold(tmp_path, "failures", ("a", "1", "m1"), ("b", "1", "m1"))
    hold(tmp_path, "predictions", ("b", "1", "m1"))
    inventory = objects(("a", "1"), ("b", "1"))

    kept = make_worklist(inventory, str(tmp_path), "m1", Storage())
    retried = make_worklist(inventory, str(tmp_path), "m1", Storage(), retry_failed=True)

    assert (keys(kept), kept.already_scored, kept.already_failed) == ([], 1, 1)
    assert (keys(retried), retried.already_scored, retried.already_failed) == ([("a", "1")], 1, 0)


def test_an_object_that_is_named_twice_counts_once(tmp_path):
    worklist = make_worklist(objects(("a", "1"), ("a", "1"), ("b", "1")), str(tmp_path), "m1", Storage())

    assert keys(worklist) == [("a", "1"), ("b", "1")]
    assert (worklist.listed, worklist.duplicates) == (2, 1)


def test_a_half_written_temporary_file_is_not_read(tmp_path):
    hold(tmp_path, "predictions", ("a", "1", "m1"))
    (tmp_path / "predictions" / "dt=2026-11-22" / ".part-9.parquet.1a2b.tmp").write_bytes(b"PAR1 half of")

    assert keys(make_worklist(objects(("a", "1"), ("b", "1")), str(tmp_path), "m1", Storage())) == [("b", "1")]


def test_a_folder_is_listed_by_its_keys(few_posters):
    inventory = read_inventory(str(few_posters), Storage())

    assert inventory.schema == SCHEMA
    file = sorted(few_posters.iterdir())[0]
    assert inventory.slice(0, 1).drop_columns(["etag", "last_modified"]).to_pylist() == [
        {"poster_id": file.stem, "uri": str(file), "size": file.stat().st_size}
    ]


def test_an_output_inside_the_images_is_not_listed(few_posters):
    output = few_posters / "genres"
    hold(output, "predictions", ("a", "1", "m1"))

    inventory = read_inventory(str(few_posters), Storage(), leave_out=str(output))

    assert len(inventory) == 12


def test_a_csv_manifest_names_posters_anywhere(few_posters, tmp_path):
    first, second = sorted(few_posters.iterdir())[:2]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(f"uri,poster_id,year\n{first},007,1987\nimages/{second.name},008,1988\n")

    inventory = read_inventory(str(manifest), Storage())

    assert inventory["poster_id"].to_pylist() == ["007", "008"]
    assert inventory["uri"].to_pylist() == [str(first), str(second)]
    assert inventory["etag"].to_pylist() == [Storage().stat(str(file)).etag for file in (first, second)]


def test_a_parquet_manifest_with_etags_is_believed(tmp_path):
    manifest = tmp_path / "manifest.parquet"
    pyarrow.parquet.write_table(pa.table({"uri": ["s3://films/a.jpg"], "etag": ["1"]}), manifest)

    inventory = read_inventory(str(manifest), Storage())

    assert inventory.select(["poster_id", "etag"]).to_pylist() == [{"poster_id": "a", "etag": "1"}]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.csv", b"url\na.jpg\n", r"no column `uri`: it has url"),
        ("m.csv", b"uri\n", "has no rows"),
        ("m.csv", b"uri,poster_id\na.jpg,\n", r"no `poster_id` in row 1"),
        ("m.csv", b"", "cannot be read"),
        ("m.parquet", b"not parquet", "cannot be read"),
    ],
)
def test_a_bad_manifest_is_explained(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(UsageError, match=says):
        read_inventory(str(tmp_path / name), Storage())


def test_looking_for_work_writes_nothing(tmp_path):
    make_worklist(objects(("a", "1")), str(tmp_path / "output"), "m1", Storage())

    assert not (tmp_path / "output").exists()
