"""`genretag compact` loses no row and shows none twice, wherever it dies: in a folder, in a bucket, with a table."""

import io
import json
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet
import pytest
from dying import DEATHS, STEPS, dying_at
from nights import a_run, write_night

from genretag.commands import compact as job
from genretag.commands.compact import Compacted, compact
from genretag.errors import OutputHeldError, UsageError
from genretag.output import compaction
from genretag.output import compaction_journal as journal
from genretag.output.compaction import concatenate
from genretag.output.compaction_journal import finish_compaction
from genretag.output.iceberg_catalog import load_table, open_catalog
from genretag.output.lock import LOCK, output_lock
from genretag.output.tables import commit_parts
from genretag.runtime.session import Session
from genretag.settings import NO_TABLE, CompactSettings, TableSettings
from genretag.storage import Storage, join

pytestmark = pytest.mark.slow  # these tests use Iceberg catalogues and an S3 server

STORAGE = Storage()


@pytest.fixture(params=["folder", "bucket"])
def output(request, tmp_path):
    return str(tmp_path / "odd & 100%") if request.param == "folder" else join(request.getfixturevalue("bucket"), "out")


@pytest.fixture
def table(tmp_path):
    pytest.importorskip("pyiceberg")
    return TableSettings("films.genres", f"sqlite:///{tmp_path}/catalog.db")


def merge(output, table=NO_TABLE, **settings):
    """Run `genretag compact` with these settings."""
    return compact(output, CompactSettings(**settings), Session(quiet=True), table)


def files(output, kind="predictions"):
    return sorted(info.uri for page in STORAGE.list(join(output, kind)) for info in page)


def journalled(output):
    """Return the names of the files in the journal of an interrupted merge."""
    return journal._names(join(output, journal.JOURNAL), STORAGE)


def counted(output, kind="predictions"):
    """Count how often each row is in the part files."""
    return counter(row for uri in files(output, kind) for row in table_at(uri).to_pylist())


def counter(found):
    return Counter(json.dumps(row, sort_keys=True, default=str) for row in found)


def table_at(uri):
    return pyarrow.parquet.read_table(io.BytesIO(STORAGE.get(uri).data))


def commit(output, night, table):
    return commit_parts(table, output, night.run_id, night.model_version, STORAGE)


def table_of(output, table):
    """Return the Iceberg table of the output at its current snapshot."""
    with open_catalog(table, output, STORAGE) as catalog:
        return load_table(catalog, table)


def table_rows(output, table):
    """Count how often each row is in the Iceberg table."""
    return counter(table_of(output, table).scan().to_arrow().to_pylist())


def test_a_merge_keeps_rows_columns_and_metadata(output):
    for day in range(3):
        write_night(output, a_run(day), files=4, failed=2)
    predictions, failures, schema = counted(output), counted(output, "failures"), table_at(files(output)[0]).schema

    done = merge(output)

    assert done == Compacted(files=24, merged=6, nights=3, rows=3 * 4 * (4 + 2))
    assert len(files(output)) == len(files(output, "failures")) == 3
    assert (counted(output), counted(output, "failures")) == (predictions, failures)
    assert table_at(files(output)[0]).schema.equals(schema, check_metadata=True)
    assert not journalled(output)


def test_a_second_merge_has_nothing_to_do(output):
    write_night(output, a_run())
    merge(output)
    before = files(output)

    assert merge(output) == Compacted()
    assert files(output) == before


def test_the_current_night_and_later_ones_stay_as_they_are(output):
    today = (datetime.now(UTC).date() - a_run().dt).days
    kept = write_night(output, a_run(today)) + write_night(output, a_run(today + 1))
    write_night(output, a_run(today - 1))

    assert merge(output).nights == 1
    assert set(kept) < set(files(output))


def test_before_limits_the_merge_to_earlier_nights(output):
    write_night(output, a_run(0))
    kept = write_night(output, a_run(1))

    assert merge(output, before="2026-11-02").nights == 1
    assert set(kept) < set(files(output))


def test_models_are_not_mixed_in_a_file(output):
    write_night(output, a_run(run="aaaa", model="one"))
    write_night(output, a_run(run="bbbb", model="two"))

    assert merge(output).merged == 2

    for uri in files(output):
        merged = table_at(uri)
        versions = set(merged["model_version"].to_pylist())
        assert versions == {merged.schema.metadata[b"genretag.model_version"].decode()}


def test_a_merge_fills_files_up_to_the_target_and_leaves_large_ones(output):
    small = write_night(output, a_run(), files=10)
    size = STORAGE.stat(small[0]).size_bytes
    (large,) = write_night(output, a_run(run="big0"), files=1, rows=2_000)

    done = merge(output, target_bytes=4 * size)

    assert large in files(output)
    assert 3 <= done.merged <= 5
    assert sum(counted(output).values()) == 2_040


def test_a_merge_holds_one_row_group_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(compaction, "ROW_GROUP_ROWS", 50)
    write_night(tmp_path, a_run(), files=10, rows=20)

    merge(str(tmp_path))

    footer = pyarrow.parquet.read_metadata(files(str(tmp_path))[0])
    assert [footer.row_group(n).num_rows for n in range(footer.num_row_groups)] == [60, 60, 60, 20]


def test_a_dry_run_changes_nothing(output):
    before = write_night(output, a_run(), failed=1)

    assert merge(output, dry_run=True) == Compacted(files=6, merged=2, nights=1, rows=15)
    assert files(output) + files(output, "failures") == sorted(before, key=lambda uri: ("/failures/" in uri, uri))


def test_readers_never_see_a_row_twice_during_a_merge(tmp_path):
    for day in range(8):
        write_night(tmp_path, a_run(day), files=6)
    ended, seen = threading.Event(), []

    def read():
        query = f"select count(*), count(distinct (uri, etag, model_version)) from '{tmp_path}/predictions/*/*.parquet'"
        while not ended.is_set():
            try:
                seen.append(duckdb.connect().execute(query).fetchall()[0])
            except duckdb.IOException:
                continue  # the merge removed a file between the listing and the read

    reader = threading.Thread(target=read)
    reader.start()
    merge(str(tmp_path))
    ended.set()
    reader.join()

    assert seen
    assert [(all_rows, distinct) for all_rows, distinct in seen if all_rows != distinct] == []


def leave_dead(output, step, table=NO_TABLE):
    """Run a merge that dies at `step`."""
    with dying_at(step):
        merge(output, table)


@pytest.mark.parametrize("step", STEPS)
def test_a_merge_that_died_is_finished_by_the_next(tmp_path, step):
    output = str(tmp_path)
    for day in range(2):
        write_night(output, a_run(day))
    before = counted(output)

    leave_dead(output, step)

    assert set(counted(output).values()) <= {1}, "no reader sees a row twice"
    merge(output)
    assert counted(output) == before
    assert len(files(output)) == 2
    assert not journalled(output)


@pytest.mark.parametrize("step", DEATHS)
def test_a_table_reads_each_row_once_wherever_a_merge_died(output, step, table):
    write_night(output, a_run())
    commit(output, a_run(), table)
    before = counted(output)

    leave_dead(output, step, table)

    assert table_rows(output, table) == before, "at the moment of death"
    assert set(counted(output).values()) <= {1}, "no reader of the files sees a row twice"
    finish_compaction(output, STORAGE, table)
    assert table_rows(output, table) == counted(output) == before
    assert commit(output, a_run(1), table) is None, "what was merged is not added again"
    assert not journalled(output)


def test_the_next_run_of_tag_finishes_a_merge_and_scores_nothing_again(run, few_posters, tmp_path):
    output = str(tmp_path / "out")
    half = sorted(few_posters.iterdir())[:6]
    (tmp_path / "manifest.csv").write_text("\n".join(["uri", *map(str, half)]))
    for images in (tmp_path / "manifest.csv", few_posters):
        run(images, output, date="2026-11-01")
    before = counted(output)
    leave_dead(output, "putting in place")
    assert not files(output), "the moment that it is about"

    record = run(few_posters, output)

    assert (record.scored, record.already_scored) == (0, 12)
    assert counted(output) == before


def test_old_snapshots_expire_when_their_files_are_merged(output, table):
    for day in range(3):
        write_night(output, a_run(day))
        commit(output, a_run(day), table)

    merge(output, table, before="2026-11-02")

    numbers = [snapshot.sequence_number for snapshot in table_of(output, table).snapshots()]
    assert numbers == [5], "three nights, and the two changes of one merge"
    assert table_rows(output, table) == counted(output)


def test_snapshots_older_than_the_merged_night_stay(tmp_path, table):
    for day in range(3):
        write_night(tmp_path, a_run(day))
        commit(str(tmp_path), a_run(day), table)
    first = table_of(str(tmp_path), table).snapshots()[0].snapshot_id
    for uri in files(str(tmp_path)):
        if "dt=2026-11-01" in uri and not uri.endswith("00000.parquet"):
            Path(uri).unlink()  # so that the first night has nothing to merge

    merge(str(tmp_path), table)

    assert table_of(str(tmp_path), table).snapshots()[0].snapshot_id == first


def test_files_that_are_not_in_the_table_are_not_merged(output, table):
    write_night(output, a_run(0))
    commit(output, a_run(0), table)
    dead = write_night(output, a_run(0, run="dead"))

    merge(output, table)

    assert set(dead) < set(files(output)), "or the table would show half of a night"
    assert len(files(output)) == 1 + len(dead)
    commit(output, a_run(1), table)
    assert table_rows(output, table) == counted(output)


def test_a_merge_without_the_table_setting_is_refused_if_the_output_feeds_a_table(tmp_path, table):
    write_night(tmp_path, a_run())
    commit(str(tmp_path), a_run(), table)
    before = files(str(tmp_path))

    with pytest.raises(UsageError, match=r"the table films.genres reads the files .*: add --table films.genres"):
        merge(str(tmp_path))
    assert files(str(tmp_path)) == before


def test_an_interrupted_merge_of_a_table_is_not_finished_without_the_table_setting(tmp_path, table):
    write_night(tmp_path, a_run())
    commit(str(tmp_path), a_run(), table)
    leave_dead(str(tmp_path), "deleting", table)
    before = files(str(tmp_path))

    with pytest.raises(UsageError, match=r"add --table films.genres, and its --catalog, to finish it"):
        finish_compaction(str(tmp_path), STORAGE)
    assert files(str(tmp_path)) == before


def test_a_merge_gives_way_to_a_program_that_rewrote_the_tables_files(tmp_path, table):
    output = str(tmp_path)
    write_night(output, a_run())
    commit(output, a_run(), table)
    leave_dead(output, "the table's first change", table)
    table_of(output, table).delete("poster_id = 'scored-2026-11-01-20261101T010203Z-ab12-0-0'")
    left, before = table_rows(output, table), files(output)

    finish_compaction(output, STORAGE, table)

    assert table_rows(output, table) == left
    assert files(output) == before
    assert not journalled(output)
    assert commit(output, a_run(1), table) is None


def test_a_merge_whose_table_was_dropped_is_given_up(tmp_path, table):
    output = str(tmp_path)
    write_night(output, a_run())
    commit(output, a_run(), table)
    leave_dead(output, "the table's first change", table)
    before = files(output)
    with open_catalog(table, output, STORAGE) as catalog:
        catalog.drop_table("films.genres")

    finish_compaction(output, STORAGE, table)

    assert files(output) == before
    assert not journalled(output)


def test_a_merge_is_refused_while_an_iceberg_tag_needs_the_files(tmp_path, table):
    write_night(tmp_path, a_run())
    commit(str(tmp_path), a_run(), table)
    loaded = table_of(str(tmp_path), table)
    loaded.manage_snapshots().create_tag(loaded.current_snapshot().snapshot_id, "audit").commit()
    before = files(str(tmp_path))

    with pytest.raises(UsageError, match="drop audit first"):
        merge(str(tmp_path), table)
    assert files(str(tmp_path)) == before


def test_a_plan_whose_merged_file_is_gone_deletes_nothing(tmp_path):
    output = str(tmp_path)
    before = write_night(output, a_run())
    leave_dead(output, "the first delete")
    for name in journalled(output):
        if name.endswith(".parquet"):
            (tmp_path / "_compaction" / name).unlink()

    with pytest.raises(UsageError, match="which its plan names: nothing was deleted"):
        merge(output)
    assert files(output) == before


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    before = write_night(tmp_path, a_run())
    (tmp_path / "predictions/dt=2026-11-01/notes.parquet").write_bytes(b"no parquet")

    with pytest.raises(UsageError, match=r"dt=2026-11-01/notes.parquet is no part file"):
        merge(str(tmp_path))
    assert set(before) < set(files(str(tmp_path)))


def test_a_run_that_holds_the_output_is_not_disturbed(output):
    before = write_night(output, a_run())
    with output_lock(output, "nightly", STORAGE, pytest.fail), pytest.raises(OutputHeldError, match="run nightly"):
        merge(output)
    assert files(output) == before


def test_the_command_says_what_it_did(command, tmp_path):
    for day in range(2):
        write_night(tmp_path, a_run(day), files=4)

    assert command("compact", tmp_path, "--dry-run")[:2] == (0, "8 files would become 2 in 2 nights (32 rows)\n")
    assert command("compact", tmp_path, "--quiet")[:2] == (0, "8 files became 2 in 2 nights (32 rows)\n")
    assert command("compact", tmp_path)[:2] == (0, "nothing to merge\n")


def test_part_files_of_versions_are_merged_too(output):
    for part in range(3):
        file = io.BytesIO()
        row = {"uri": "s3://films/a.jpg", "listed_etag": f"old{part}", "etag": "new", "model_version": "m1"}
        pyarrow.parquet.write_table(pa.Table.from_pylist([row]), file)
        STORAGE.put(join(output, "versions", "dt=2026-11-01", f"part-ab12-{part:05d}.parquet"), file.getvalue())
    before = counted(output, "versions")

    assert merge(output).files == 3
    assert (len(files(output, "versions")), counted(output, "versions")) == (1, before)


@pytest.mark.parametrize("place", ["images", "missing"])
def test_a_folder_that_no_run_has_written_to_is_refused_and_left_as_it_is(command, few_posters, tmp_path, place):
    code, out, err = command("compact", tmp_path / place)

    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == (
        f"genretag: there are no predictions in {tmp_path}/{place}: name what `genretag tag` wrote to"
    )
    assert len(list(few_posters.iterdir())) == 12, "no lock was left there either"
    assert not (tmp_path / "missing").exists()


def test_a_merge_that_lost_its_output_writes_no_plan(output, monkeypatch):
    """The merge is suspended before it writes its plan, and another run takes the output over.

    That run removes the new files of the suspended merge, and merges the old files itself.
    """
    before = write_night(output, a_run())

    def concatenate_and_lose_the_output(*arguments, **options):
        concatenate(*arguments, **options)
        STORAGE.delete(join(output, LOCK))
        finish_compaction(output, STORAGE)

    monkeypatch.setattr(job, "concatenate", concatenate_and_lose_the_output)
    with pytest.raises(OutputHeldError, match="was taken over"):
        merge(output)

    assert files(output) == sorted(before)
    assert not journalled(output)


@pytest.mark.parametrize("before", ["yesterday", "9999-01-01"])
def test_the_date_is_checked(command, tmp_path, before):
    code, out, err = command("compact", tmp_path, "--before", before)

    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("genretag: before must ")
