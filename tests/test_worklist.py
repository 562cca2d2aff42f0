"""The worklist is the inventory without posters that the output already has for this version and model."""

import pyarrow as pa
import pyarrow.parquet
import pytest

from genretag.output import list_output
from genretag.scoring.inventory import SCHEMA, Inventory, inventory_of, take_inventory
from genretag.scoring.shards import POSTERS_PER_STEP, posters_of, remove_shards, steps, write_shards
from genretag.scoring.worklist import make_worklist
from genretag.storage import Storage


@pytest.fixture
def worklist_of(tmp_path):
    """Return a function that makes the worklist of (uri, etag) pairs for the output in `tmp_path / "out"`."""

    def worklist_of(*pairs, model_version="m1", output=tmp_path / "out", **options):
        table = inventory_of([uri for uri, _ in pairs])
        table = table.set_column(2, SCHEMA.field("etag"), pa.array([etag for _, etag in pairs]))
        folder = tmp_path / "spool"
        folder.mkdir(exist_ok=True)
        (folder / "night.duckdb").unlink(missing_ok=True)
        pyarrow.parquet.write_table(table, folder / "inventory.parquet")
        inventory = Inventory(folder / "inventory.parquet", len(table), may_repeat=True)
        return make_worklist(inventory, list_output(str(output), Storage()), model_version, Storage(), **options)

    return worklist_of


def hold(output, kind, *rows):
    """Write a part file of (uri, etag, model_version) rows to the folder `kind` of the output."""
    folder = output / kind / "dt=2026-11-22"
    folder.mkdir(parents=True, exist_ok=True)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(("uri", "etag", "model_version"))}
    pyarrow.parquet.write_table(pa.table(columns), folder / f"part-{len(list(folder.iterdir()))}.parquet")


def fail(output, *rows, night=0):
    """Write a part file of failures of the model m1. Rows are (uri, etag, stage, reason)."""
    folder = output / "failures" / f"dt=2026-11-{night + 1:02}"
    folder.mkdir(parents=True, exist_ok=True)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(("uri", "etag", "stage", "reason"))}
    columns["model_version"] = ["m1"] * len(rows)
    pyarrow.parquet.write_table(pa.table(columns), folder / f"part-{len(list(folder.iterdir()))}.parquet")


def list_versions(output, *rows):
    """Write (uri, listed_etag, etag) rows of the model m1 to `versions/`."""
    folder = output / "versions" / "dt=2026-11-22"
    folder.mkdir(parents=True)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(("uri", "listed_etag", "etag"))}
    pyarrow.parquet.write_table(pa.table(columns | {"model_version": ["m1"] * len(rows)}), folder / "part-0.parquet")


def keys(worklist):
    """Return the (uri, etag) pairs of a worklist."""
    posters = worklist.table()
    return list(zip(posters["uri"].to_pylist(), posters["etag"].to_pylist(), strict=True))


def test_with_an_empty_output_every_poster_is_to_score(worklist_of):
    worklist = worklist_of(("a", "1"), ("b", "1"))

    assert keys(worklist) == [("a", "1"), ("b", "1")]
    assert (worklist.to_score, worklist.listed, worklist.already_scored, worklist.already_failed) == (2, 2, 0, 0)


def test_scored_and_failed_posters_are_left_out(worklist_of, tmp_path):
    hold(tmp_path / "out", "predictions", ("a", "1", "m1"), ("b", "1", "m1"))
    hold(tmp_path / "out", "failures", ("c", "1", "m1"))

    worklist = worklist_of(("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"))

    assert keys(worklist) == [("d", "1")]
    assert (worklist.to_score, worklist.listed, worklist.already_scored, worklist.already_failed) == (1, 4, 2, 1)


def test_a_changed_object_and_a_new_model_are_scored_again(worklist_of, tmp_path):
    hold(tmp_path / "out", "predictions", ("a", "1", "m1"), ("b", "1", "m1"))

    assert keys(worklist_of(("a", "2"), ("b", "1"))) == [("a", "2")]
    assert worklist_of(("a", "1"), ("b", "1"), model_version="m2").to_score == 2


def test_failures_are_retried_on_request_unless_they_were_scored_since(worklist_of, tmp_path):
    hold(tmp_path / "out", "failures", ("a", "1", "m1"), ("b", "1", "m1"))
    hold(tmp_path / "out", "predictions", ("b", "1", "m1"))

    kept = worklist_of(("a", "1"), ("b", "1"))
    retried = worklist_of(("a", "1"), ("b", "1"), retry_failed=True)

    assert (kept.to_score, kept.already_scored, kept.already_failed) == (0, 1, 1)
    assert (keys(retried), retried.already_scored, retried.already_failed) == ([("a", "1")], 1, 0)


def test_an_object_that_is_named_twice_counts_once(worklist_of):
    worklist = worklist_of(("a", "1"), ("a", "1"), ("b", "1"))

    assert keys(worklist) == [("a", "1"), ("b", "1")]
    assert (worklist.listed, worklist.duplicates) == (2, 1)


def test_rows_that_the_output_holds_twice_count_once(worklist_of, tmp_path):
    hold(tmp_path / "out", "predictions", ("a", "1", "m1"), ("a", "1", "m1"))

    assert worklist_of(("a", "1"), ("b", "1")).already_scored == 1


def test_an_object_with_several_listed_etags_has_one_row_with_all_of_them(worklist_of):
    worklist = worklist_of(("a", "2"), ("a", "1"), ("b", "1"), ("a", "3"))

    posters = worklist.table().select(["uri", "etag", "listed_etags"]).to_pylist()
    assert posters == [
        {"uri": "a", "etag": "1", "listed_etags": ["1", "2", "3"]},
        {"uri": "b", "etag": "1", "listed_etags": None},
    ]
    assert (worklist.to_score, worklist.listed, worklist.duplicates) == (2, 2, 2)


def test_a_new_etag_is_to_score_and_its_row_has_the_etags_that_the_output_has(worklist_of, tmp_path):
    hold(tmp_path / "out", "predictions", ("a", "1", "m1"), ("b", "1", "m1"))
    fail(tmp_path / "out", ("a", "0", "decode", "truncated"))

    worklist = worklist_of(("a", "1"), ("a", "2"), ("b", "1"), ("c", "1"))

    names = ["uri", "etag", "scored_etags", "failed_etags"]
    assert worklist.table().select(names).to_pylist() == [
        {"uri": "a", "etag": "2", "scored_etags": ["1"], "failed_etags": ["0"]},
        {"uri": "c", "etag": "1", "scored_etags": None, "failed_etags": None},
    ]
    assert (worklist.listed, worklist.already_scored, worklist.already_failed) == (3, 1, 0)


def test_a_listed_etag_is_known_if_versions_links_it_to_a_row(worklist_of, tmp_path):
    hold(tmp_path / "out", "predictions", ("a", "2", "m1"))
    fail(tmp_path / "out", ("b", "2", "decode", "empty"))
    list_versions(tmp_path / "out", ("a", "1", "2"), ("b", "1", "2"), ("c", "1", "2"))

    worklist = worklist_of(("a", "1"), ("b", "1"), ("c", "1"))

    assert keys(worklist) == [("c", "1")], "the row of c is gone, so it is to be made again"
    assert (worklist.already_scored, worklist.already_failed) == (1, 1)


def test_etags_that_an_earlier_genretag_stored_with_quotes_still_match(worklist_of, tmp_path):
    hold(tmp_path / "out", "predictions", ("a", 'W/"AbC', "m1"), ("b", '"1"', "m1"), ("c", f"{0xABC:032X}", "m1"))

    assert worklist_of(("a", "AbC"), ("b", "1"), ("c", f"{0xABC:032x}")).to_score == 0


@pytest.mark.parametrize("reason", ["unavailable", "timeout"])
def test_a_poster_that_the_store_did_not_deliver_is_retried_up_to_the_limit(worklist_of, tmp_path, reason):
    for night in range(3):
        fail(tmp_path / "out", ("a", "1", "fetch", reason), night=night)
        assert worklist_of(("a", "1"), retries=3).to_score == 1
    fail(tmp_path / "out", ("a", "1", "fetch", reason), night=3)

    worklist = worklist_of(("a", "1"), retries=3)

    assert (worklist.to_score, worklist.already_failed) == (0, 1), "tried on four nights"
    assert worklist_of(("a", "1"), retries=4).to_score == 1
    assert worklist_of(("a", "2"), retries=3).to_score == 1, "another version has its own nights"
    assert worklist_of(("a", "1"), retries=0, retry_failed=True).to_score == 1


@pytest.mark.parametrize(
    ("stage", "reason"),
    [("fetch", "access_denied"), ("fetch", "not_found"), ("decode", "empty"), ("decode", "timeout")],
)
def test_a_poster_with_a_permanent_failure_is_not_retried(worklist_of, tmp_path, stage, reason):
    fail(tmp_path / "out", ("a", "1", "fetch", "unavailable"))
    fail(tmp_path / "out", ("a", "1", stage, reason), night=1)

    assert worklist_of(("a", "1")).already_failed == 1


def test_a_scored_poster_stays_scored_whatever_failed_before(worklist_of, tmp_path):
    fail(tmp_path / "out", ("a", "1", "fetch", "timeout"))
    hold(tmp_path / "out", "predictions", ("a", "1", "m1"))

    worklist = worklist_of(("a", "1"))

    assert (worklist.to_score, worklist.already_scored, worklist.already_failed) == (0, 1, 0)


def test_a_half_written_temporary_file_is_not_read(worklist_of, tmp_path):
    hold(tmp_path / "out", "predictions", ("a", "1", "m1"))
    (tmp_path / "out" / "predictions" / "dt=2026-11-22" / ".part-9.parquet.1a2b.tmp").write_bytes(b"PAR1 half of")

    assert keys(worklist_of(("a", "1"), ("b", "1"))) == [("b", "1")]


def test_making_the_worklist_writes_nothing_to_the_output(worklist_of, tmp_path):
    worklist_of(("a", "1"))

    assert not (tmp_path / "out").exists()


def test_shards_hold_the_worklist_in_whole_steps_and_the_first_step_in_parts(worklist_of, tmp_path):
    pairs = [(f"{number:04}", "1") for number in range(2 * POSTERS_PER_STEP + 5)]

    blocks = write_shards(worklist_of(*pairs), str(tmp_path / "out"), "run1", Storage())

    shards = [posters_of(block, Storage()) for block in blocks]
    assert [len(shard) for shard in shards] == [32] * 8 + [POSTERS_PER_STEP, 5]
    assert pa.concat_tables(shards)["uri"].to_pylist() == [uri for uri, _ in pairs]
    assert [len(step) for step in steps(pa.concat_tables(shards))] == [POSTERS_PER_STEP, POSTERS_PER_STEP, 5]


def test_shards_of_a_dead_run_are_removed(worklist_of, tmp_path):
    worklist = worklist_of(("a", "1"))
    write_shards(worklist, str(tmp_path / "out"), "dead", Storage())
    write_shards(worklist, str(tmp_path / "out"), "alive", Storage())

    assert [file.parent.name for file in (tmp_path / "out").rglob("*.parquet")] == ["alive"]
    remove_shards(str(tmp_path / "out"), Storage())
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["uri=x", "a=b", "etag=1/[a]*", "it's"])
def test_names_of_folders_above_the_temporary_files_do_not_change_the_worklist(few_posters, tmp_path, name):
    spool = tmp_path / "spool" / name
    (tmp_path / "spool" / "etag=1" / "a").mkdir(parents=True)
    spool.mkdir(parents=True)

    inventory = take_inventory(str(few_posters), Storage(), spool)
    worklist = make_worklist(inventory, list_output(str(tmp_path / "out"), Storage()), "m1", Storage())

    assert worklist.table().select(inventory.schema.names).equals(inventory.table().sort_by("uri"))
    assert worklist.to_score == 12
