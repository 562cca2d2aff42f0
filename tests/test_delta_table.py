"""Each night is committed to a Delta table atomically, and each file only once, on every store."""

import json
from contextlib import ExitStack, suppress
from random import Random
from urllib.parse import parse_qs

import duckdb
import pyarrow as pa
import pytest
from dying import DEATHS, STEPS, Died, dying_at
from nights import a_run, columns, write_night
from outputs import rows
from store_front import store_front
from test_object_stores import new_bucket

from genretag.commands.compact import compact
from genretag.errors import JobError, UsageError
from genretag.output import delta_table, parquet_files
from genretag.output.table_mark import marked_table
from genretag.output.tables import commit_parts, require_table, switch_files
from genretag.runtime.session import Session
from genretag.settings import CompactSettings, TableSettings
from genretag.storage import Storage, join

pytest.importorskip("deltalake")
DELTA = TableSettings("delta")
CRASHES = 20


@pytest.fixture(params=["folder", "s3", "az", "gs"])
def output(request, tmp_path, monkeypatch):
    """Return the location of an output that does not exist yet."""
    if request.param == "az":
        server = request.getfixturevalue("azure_server")
        address = server.endpoint.rpartition("/")[0]
        front = request.getfixturevalue("_fronts").enter_context(store_front(address, edit=started_from))
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", server.connection_string.replace(address, front.url))
    if request.param == "folder":
        return str(tmp_path / "odd name & of what? #1; [a]*'é" / "genres")
    return join(new_bucket(request, request.param), "genres")


@pytest.fixture
def _fronts():
    with ExitStack() as fronts:
        yield fronts


def started_from(request, body):
    """Return a listing from the name on that the request asks for, as Azure does. Azurite ignores that parameter."""
    start = parse_qs(request.query).get("startFrom", [""])[0]
    if not start:
        return body
    head, *blobs = body.split(b"<Blob>")
    kept = [blob for blob in blobs if blob.split(b"<Name>")[1].split(b"</Name>")[0].decode() >= start]
    end = blobs[-1][blobs[-1].index(b"</Blobs>") :] if blobs else b""
    return b"<Blob>".join([head, *(blob.partition(b"</Blobs>")[0] for blob in kept)]) + end


def commit(output, night, settings=DELTA):
    return commit_parts(settings, str(output), night.run_id, night.model_version, Storage())


def table_of(output):
    """Return the table at its newest version."""
    return delta_table._load(DELTA, str(output), Storage())


def table_rows(output, version=None):
    table = table_of(output)
    if version is not None:
        table.load_as_version(version)
    return table.to_pyarrow_table().drop_columns("dt").sort_by("uri").to_pylist()


def file_rows(output):
    return sorted((without_day(row) for row in rows(output)), key=lambda row: row["uri"])


def without_day(row):
    return {name: value for name, value in row.items() if name != "dt"}


def test_the_table_holds_what_the_files_hold_and_knows_their_days(output):
    write_night(output, a_run())

    assert commit(output, a_run()) == 0

    assert table_rows(output) == file_rows(output)
    database = duckdb.connect()
    database.register("genres", table_of(output).to_pyarrow_dataset())
    found = database.sql("select dt, count(*) from genres group by dt").fetchall()
    assert [(str(day), count) for day, count in found] == [("2026-11-01", 12)]
    log = json.dumps([json.loads(line) for line in first_commit(output).splitlines()])
    assert a_run().run_id in log
    assert "numRecords" in log


def first_commit(output):
    name = join(output, "predictions", "_delta_log", "00000000000000000000.json")
    return bytes(Storage().get(name).data).decode()


def test_each_night_is_one_version_that_readers_see_whole_or_not_at_all(output):
    write_night(output, a_run(0))
    commit(output, a_run(0))
    before = file_rows(output)
    write_night(output, a_run(1), files=5)
    assert table_rows(output) == before, "part files alone are not in the table"

    assert commit(output, a_run(1)) == 1

    assert table_rows(output, version=0) == before
    assert table_rows(output) == file_rows(output)
    assert commit(output, a_run(1)) is None
    assert table_of(output).version() == 1


def test_part_files_are_listed_without_the_files_of_the_tables_log(output):
    written = write_night(output, a_run())
    commit(output, a_run())
    table_of(output).create_checkpoint()

    assert sorted(info.uri for info in parquet_files(join(output, "predictions"), Storage())) == sorted(written)
    assert commit(output, a_run()) is None


def test_merged_files_take_the_place_of_small_ones_in_one_version(output):
    for day in range(2):
        write_night(output, a_run(day))
        commit(output, a_run(day))
    before = table_rows(output)

    done = compact(output, CompactSettings(), Session(quiet=True), DELTA)

    assert (done.files, done.merged) == (6, 2)
    assert table_of(output).version() == 2
    assert table_rows(output) == file_rows(output) == before
    assert len(table_of(output).file_uris()) == 2
    assert commit(output, a_run(2)) is None


def test_the_next_run_commits_the_files_of_a_run_that_died(tmp_path):
    write_night(tmp_path, a_run(0, run="dead"))
    write_night(tmp_path, a_run(0, run="next"))

    commit(tmp_path, a_run(0, run="next"))

    assert table_rows(tmp_path) == file_rows(tmp_path)
    assert table_of(tmp_path).version() == 0


def test_rows_that_others_removed_or_files_that_they_rewrote_do_not_come_back(tmp_path):
    write_night(tmp_path, a_run(0))
    commit(tmp_path, a_run(0))
    table_of(tmp_path).delete("poster_id = 'scored-2026-11-01-20261101T010203Z-ab12-0-0'")
    table_of(tmp_path).optimize.compact()
    write_night(tmp_path, a_run(1))

    commit(tmp_path, a_run(1))

    assert len(table_rows(tmp_path)) == 11 + 12


def test_files_that_another_program_rewrote_are_not_merged(tmp_path):
    write_night(tmp_path, a_run(0))
    commit(tmp_path, a_run(0))
    table_of(tmp_path).optimize.compact()
    before = table_rows(tmp_path)

    compact(str(tmp_path), CompactSettings(), Session(quiet=True), DELTA)

    assert table_rows(tmp_path) == before


def test_another_writer_that_commits_first_is_no_error(tmp_path, monkeypatch):
    from deltalake import DeltaTable

    write_night(tmp_path, a_run(0))
    commit(tmp_path, a_run(0))
    write_night(tmp_path, a_run(1))
    write = DeltaTable.create_write_transaction

    def write_after_another(self, *arguments, **options):
        monkeypatch.setattr(DeltaTable, "create_write_transaction", write)
        table_of(tmp_path).delete("poster_id = 'scored-2026-11-01-20261101T010203Z-ab12-0-0'")
        write(self, *arguments, **options)

    monkeypatch.setattr(DeltaTable, "create_write_transaction", write_after_another)
    commit(tmp_path, a_run(1))

    assert len(table_rows(tmp_path)) == 11 + 12


@pytest.mark.parametrize("step", STEPS)
def test_a_merge_that_dies_is_finished_by_the_next_run(tmp_path, step):
    output = str(tmp_path / "out")
    for day in range(2):
        write_night(output, a_run(day))
        commit(output, a_run(day))
    before = table_rows(output)

    try:
        with dying_at(step):
            compact(output, CompactSettings(), Session(quiet=True), DELTA)
    except pytest.fail.Exception:
        pytest.skip("a merge for a Delta table has no such step")
    assert table_rows(output) == before, "readers see each row once, whenever a merge dies"
    compact(output, CompactSettings(), Session(quiet=True), DELTA)

    assert table_rows(output) == file_rows(output) == before


@pytest.mark.parametrize("seed", range(CRASHES))
def test_after_crashes_between_files_and_commit_each_row_is_in_the_table_once(tmp_path, monkeypatch, seed):
    """Nights and merges die at random moments: before the commit, just before it takes effect, and just after."""
    random, output = Random(seed), str(tmp_path / "out")
    versions = 0
    for day in range(6):
        night = a_run(day, run=f"{seed:04d}")
        write_night(output, night, files=random.randint(1, 4))
        moment = random.choice(["no crash", "before the commit", "in the commit", "after the commit"])
        with monkeypatch.context() as dying:
            write = delta_table._write
            if moment == "in the commit":
                dying.setattr(delta_table, "_write", lambda *arguments: die())
            elif moment == "after the commit":
                dying.setattr(delta_table, "_write", lambda *arguments, write=write: die(write(*arguments)))
            if moment != "before the commit":
                with suppress(Died):
                    commit(output, night)
        versions += moment in ("no crash", "after the commit")
        if versions:
            assert table_of(output).version() == versions - 1, "one version per night"
        if random.random() < 0.4 and versions:
            step = random.choice([step for step in DEATHS if step != "ending old snapshots"])
            before = table_rows(output)
            try:
                with dying_at(step):
                    compact(output, CompactSettings(), Session(quiet=True), DELTA)
            except pytest.fail.Exception:
                pass  # there was nothing to merge, or no such step
            assert table_rows(output) == before
            compact(output, CompactSettings(), Session(quiet=True), DELTA)
            versions = table_of(output).version() + 1
    commit(output, a_run(6, run="last"))

    assert table_rows(output) == file_rows(output)


def die(*arguments):
    raise Died


def test_the_table_is_checked_before_anything_is_scored(tmp_path):
    write_night(tmp_path, a_run())
    require_table(DELTA, str(tmp_path), columns(), Storage())
    commit(tmp_path, a_run())
    require_table(DELTA, str(tmp_path), columns(), Storage())
    more = columns().append(pa.field("is_western", pa.bool_()))

    with pytest.raises(UsageError, match="has other columns than this night: is_western"):
        require_table(DELTA, str(tmp_path), more, Storage())
    with pytest.raises(UsageError, match="feeds the table delta already"):
        require_table(TableSettings("films.genres"), str(tmp_path), columns(), Storage())
    with pytest.raises(UsageError, match="add --table delta"):
        compact(str(tmp_path), CompactSettings(), Session(quiet=True))


def test_the_table_can_be_named_by_its_folder_and_by_no_other(tmp_path):
    write_night(tmp_path, a_run())
    commit(tmp_path, a_run(), TableSettings(f"delta:{tmp_path}/predictions"))

    assert marked_table(str(tmp_path), Storage()) == "delta"
    with pytest.raises(UsageError, match=r"its place is .*/predictions: write --table delta"):
        require_table(TableSettings(f"delta:{tmp_path}/elsewhere"), str(tmp_path), columns(), Storage())
    with pytest.raises(UsageError, match="because of the %"):
        require_table(DELTA, str(tmp_path / "100%20"), columns(), Storage())
    with pytest.raises(UsageError, match="leave out --catalog"):
        TableSettings("delta", "sqlite:///catalog.db")


def test_a_damaged_log_is_one_line(tmp_path):
    write_night(tmp_path, a_run(0))
    commit(tmp_path, a_run(0))
    (tmp_path / "predictions/_delta_log/00000000000000000000.json").write_text("{broken")
    write_night(tmp_path, a_run(1))

    with pytest.raises(UsageError, match="cannot read the Delta table in ") as refused:
        require_table(DELTA, str(tmp_path), columns(), Storage())
    assert "\n" not in str(refused.value)
    with pytest.raises(JobError, match=r"cannot commit to the Delta table in .*; the files are whole and stay"):
        commit(tmp_path, a_run(1))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "deltalake.exceptions", None)

    with pytest.raises(UsageError, match=r"pip install 'genretag\[delta\]'"):
        require_table(DELTA, str(tmp_path), columns(), Storage())


def test_new_files_that_the_table_already_reads_are_kept_if_another_program_rewrote_others(tmp_path):
    """A merge switched the table and died. Before the next run, another program rewrote one of the merged files."""
    output = str(tmp_path / "out")
    for day in range(2):
        write_night(output, a_run(day))
        commit(output, a_run(day))
    before = table_rows(output)
    with dying_at("the first delete"):
        compact(output, CompactSettings(), Session(quiet=True), DELTA)
    table_of(output).delete("poster_id = 'scored-2026-11-01-20261101T010203Z-ab12-0-0'")

    compact(output, CompactSettings(), Session(quiet=True), DELTA)

    gone = "scored-2026-11-01-20261101T010203Z-ab12-0-0"
    assert table_rows(output) == [row for row in before if row["poster_id"] != gone]


def test_a_merge_changes_no_data_for_readers_of_changes_and_retag_does(tmp_path):
    output = str(tmp_path / "out")
    for day in range(2):
        write_night(output, a_run(day))
        commit(output, a_run(day))
    compact(output, CompactSettings(), Session(quiet=True), DELTA)
    files = sorted(info.uri for info in parquet_files(join(output, "predictions"), Storage()))
    Storage().put(new := files[0].replace("-00000", "-00009"), bytes(Storage().get(files[0]).data))

    switch_files(DELTA, output, files[:1], [new], Storage(), same_rows=False)

    assert changes(output, 2) == {False}
    assert changes(output, 3) == {True}


def changes(output, version):
    """Return the values of `dataChange` in the actions of a version."""
    log = bytes(Storage().get(join(output, "predictions", "_delta_log", f"{version:020}.json")).data).decode()
    actions = [json.loads(line) for line in log.splitlines()]
    return {action[kind]["dataChange"] for action in actions for kind in ("add", "remove") if kind in action}
