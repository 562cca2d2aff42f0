"""Each night is committed to an Iceberg table atomically, and each file only once: in SQLite and a REST catalogue."""

import sys
import uuid

import duckdb
import pyarrow as pa
import pytest
from nights import a_run, columns, write_night
from outputs import ODD, rows

from genretag.commands.compact import compact
from genretag.demo.s3_server import running_s3_server
from genretag.errors import JobError, UsageError
from genretag.output import parquet_files
from genretag.output.iceberg_catalog import is_new_database, load_table, open_catalog
from genretag.output.iceberg_table import entries
from genretag.output.table_mark import marked_table
from genretag.output.tables import commit_parts, require_table
from genretag.runtime.session import Session
from genretag.settings import CompactSettings, TableSettings
from genretag.storage import Storage, join

pytestmark = pytest.mark.slow  # these tests use catalogues and an S3 server

pytest.importorskip("pyiceberg")
TABLE = "films.genres"


@pytest.fixture(scope="module")
def rest_server(tmp_path_factory):
    with running_s3_server(tmp_path_factory.mktemp("rest"), iceberg=True) as server:
        yield server


@pytest.fixture(params=["folder", "bucket", "rest"])
def place(request, tmp_path, monkeypatch):
    """Return an output and the settings of its table.

    The catalogue is a file in the output folder, another SQLite file, or a REST server.
    """
    if request.param == "folder":
        return str(tmp_path / ODD), TableSettings(TABLE)
    if request.param == "bucket":
        bucket = request.getfixturevalue("bucket")
        return join(bucket, "genres"), TableSettings(TABLE, f"sqlite:///{tmp_path}/catalog.db")
    server = request.getfixturevalue("rest_server")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    name = f"catalog-{uuid.uuid4().hex[:8]}"
    for key, value in server.create_catalog(name).items():
        monkeypatch.setenv(f"PYICEBERG_CATALOG__WEED__{key.upper().replace('.', '__').replace('-', '_')}", value)
    server.create_bucket(f"out-{name}")
    return f"s3://out-{name}/genres", TableSettings(TABLE, "weed")


def commit(place, night, settings=None):
    output, own = place
    return commit_parts(settings or own, output, night.run_id, night.model_version, Storage())


def table_of(place):
    """Return the table at its current snapshot. Later commits do not change the returned object."""
    output, settings = place
    with open_catalog(settings, output, Storage()) as catalog:
        return load_table(catalog, settings)


def table_rows(table):
    return table.scan().to_arrow().sort_by("uri").to_pylist()


def file_rows(output):
    return sorted(rows(output), key=lambda row: row["uri"])


def test_the_table_holds_what_the_files_hold(place):
    write_night(place[0], a_run())

    snapshot_id = commit(place, a_run())

    table = table_of(place)
    assert table_rows(table) == file_rows(place[0])
    assert table.current_snapshot().snapshot_id == snapshot_id
    properties = table.current_snapshot().summary.additional_properties
    assert properties["genretag.run_id"] == a_run().run_id
    assert properties["genretag.model_version"] == "model1"


@pytest.mark.parametrize("name", ["Movie%20Posters", "O Brother, Where Art Thou?", "my genres #1", "uri=x"])
def test_the_default_catalogue_of_a_folder_is_a_file_in_it(tmp_path, name):
    place = str(tmp_path / name), TableSettings(TABLE)
    write_night(place[0], a_run())

    assert is_new_database(place[1], place[0])
    commit(place, a_run())

    assert (tmp_path / name / "_catalog.db").is_file()
    assert not is_new_database(place[1], place[0])
    assert [folder.name for folder in tmp_path.iterdir()] == [name]
    assert table_rows(table_of(place)) == file_rows(place[0])


def test_each_night_is_one_snapshot_that_readers_see_whole_or_not_at_all(place):
    write_night(place[0], a_run(0))
    commit(place, a_run(0))
    before = table_of(place)
    seen = table_rows(before)
    write_night(place[0], a_run(1), files=5)
    assert table_rows(table_of(place)) == seen, "part files alone are not in the table"

    commit(place, a_run(1))

    assert table_rows(before) == seen, "who began to read before the commit reads what was there then"
    after = table_of(place)
    assert table_rows(after) == file_rows(place[0])
    assert [s.sequence_number for s in after.snapshots()] == [1, 2]


def test_a_second_commit_of_the_same_night_adds_nothing(place):
    write_night(place[0], a_run())
    commit(place, a_run())

    assert commit(place, a_run()) is None
    assert len(table_of(place).snapshots()) == 1


def test_files_of_a_run_that_died_before_its_commit_are_committed_by_the_next_run(place):
    write_night(place[0], a_run(0, run="dead"))
    write_night(place[0], a_run(0, run="next"))

    commit(place, a_run(0, run="next"))

    table = table_of(place)
    assert table_rows(table) == file_rows(place[0])
    assert len(table.snapshots()) == 1


def test_a_run_that_died_after_its_commit_is_not_committed_again(place):
    write_night(place[0], a_run(0, run="dead"))
    commit(place, a_run(0, run="dead"))
    write_night(place[0], a_run(0, run="next"))

    commit(place, a_run(0, run="next"))

    assert table_rows(table_of(place)) == file_rows(place[0])


def test_rows_that_others_removed_from_the_table_do_not_come_back(place):
    write_night(place[0], a_run(0))
    commit(place, a_run(0))
    table_of(place).delete("poster_id = 'scored-2026-11-01-20261101T010203Z-ab12-0-0'")
    left = table_rows(table_of(place))
    write_night(place[0], a_run(1))

    commit(place, a_run(1))

    assert len(left) == 11
    assert len(table_rows(table_of(place))) == 11 + 12


def test_an_output_without_rows_creates_no_table(place):
    assert commit(place, a_run()) is None

    assert is_new_database(place[1], place[0]) or table_of(place) is None


def test_a_commit_is_retried_if_another_writer_commits_first(place, monkeypatch):
    from pyiceberg.table import Transaction

    write_night(place[0], a_run(0))
    commit(place, a_run(0))
    write_night(place[0], a_run(1))
    add_files = Transaction.add_files

    def add_after_another(self, *arguments, **options):
        monkeypatch.setattr(Transaction, "add_files", add_files)
        commit(place, a_run(1, run="rival"))  # another run commits, without holding the lock
        add_files(self, *arguments, **options)

    monkeypatch.setattr(Transaction, "add_files", add_after_another)
    assert commit(place, a_run(1)) is None

    assert table_rows(table_of(place)) == file_rows(place[0]), "nothing is in the table twice"


def test_merged_files_take_the_place_of_small_ones_in_one_step(place):
    for day in range(2):
        write_night(place[0], a_run(day))
        commit(place, a_run(day))
    before = table_rows(table_of(place))

    done = compact(place[0], CompactSettings(), Session(quiet=True), place[1])

    assert (done.files, done.merged) == (6, 2)
    assert table_rows(table_of(place)) == file_rows(place[0]) == before
    files = [info.uri for info in parquet_files(join(place[0], "predictions"), Storage())]
    assert sorted(entries(table_of(place))) == sorted(files)
    assert commit(place, a_run(2)) is None


def test_a_commit_that_always_conflicts_fails_and_leaves_the_table_unchanged(place, monkeypatch):
    from pyiceberg.exceptions import CommitFailedException
    from pyiceberg.table import Table

    write_night(place[0], a_run(0))
    commit(place, a_run(0))
    before = table_rows(table_of(place))
    write_night(place[0], a_run(1))

    def too_late(*arguments, **options):
        raise CommitFailedException("branch main has changed")

    with monkeypatch.context() as rivals:
        rivals.setattr(Table, "_do_commit", too_late)
        rivals.setattr("genretag.output.iceberg_table.WAIT_S", 0)
        with pytest.raises(JobError, match=r"branch main has changed; .* run the same command again"):
            commit(place, a_run(1))

    assert table_rows(table_of(place)) == before
    commit(place, a_run(1))
    assert table_rows(table_of(place)) == file_rows(place[0])


def test_if_the_catalogue_is_gone_at_the_commit_the_next_commit_adds_the_rows(tmp_path):
    place = str(tmp_path / "out"), TableSettings(TABLE)
    write_night(place[0], a_run())

    with pytest.raises(
        JobError, match=r"cannot commit to the table films.genres of http://127.0.0.1:9: .*run the same"
    ):
        commit(place, a_run(), TableSettings(TABLE, "http://127.0.0.1:9"))

    commit(place, a_run())
    assert table_rows(table_of(place)) == file_rows(place[0])


def test_duckdb_queries_the_table(place):
    write_night(place[0], a_run())
    commit(place, a_run())

    genres = table_of(place).scan(selected_fields=("genres", "is_drama")).to_arrow()  # noqa: F841 - DuckDB reads it
    found = duckdb.sql("select count(*), count_if(list_contains(genres, 'Drama') = is_drama) from genres").fetchall()
    assert found == [(12, 12)]


def test_the_table_is_checked_before_anything_is_scored(place):
    require_table(place[1], place[0], columns(), Storage())
    write_night(place[0], a_run())
    commit(place, a_run())

    require_table(place[1], place[0], columns(), Storage())


def test_the_check_of_the_table_writes_nothing(tmp_path):
    require_table(TableSettings(TABLE), str(tmp_path / "out"), columns(), Storage())
    require_table(TableSettings(TABLE, f"sqlite:///{tmp_path}/new.db"), str(tmp_path / "out"), columns(), Storage())

    assert not list(tmp_path.iterdir())


def test_without_a_table_nothing_happens(tmp_path):
    write_night(tmp_path / "out", a_run())

    require_table(TableSettings(), str(tmp_path / "out"), columns(), Storage())
    assert commit((str(tmp_path / "out"), TableSettings()), a_run()) is None
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["predictions"]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (columns().remove(0), "poster_id"),
        (columns().append(pa.field("p_opera", pa.float32())), "p_opera"),
        (columns().set(1, pa.field("uri", pa.int64(), nullable=False)), "uri"),
    ],
)
def test_a_table_with_other_columns_is_refused(tmp_path, changed, named):
    write_night(tmp_path / "out", a_run())
    commit((str(tmp_path / "out"), TableSettings(TABLE)), a_run())

    with pytest.raises(UsageError, match=rf"films.genres has other columns than this night: {named}; name another"):
        require_table(TableSettings(TABLE), str(tmp_path / "out"), changed, Storage())


def test_a_type_that_iceberg_lacks_is_refused_before_the_first_night(tmp_path):
    carried = columns().append(pa.field("runtime", pa.month_day_nano_interval()))

    with pytest.raises(UsageError, match=r"cannot use the table films.genres of .*runtime"):
        require_table(TableSettings(TABLE), str(tmp_path / "out"), carried, Storage())


def test_a_table_with_an_additional_nullable_column_is_accepted(tmp_path):
    place = str(tmp_path / "out"), TableSettings(TABLE)
    write_night(place[0], a_run(0))
    commit(place, a_run(0))
    with table_of(place).update_schema() as change:
        from pyiceberg.types import StringType

        change.add_column("checked_by", StringType())
    write_night(place[0], a_run(1))

    require_table(place[1], place[0], columns(), Storage())
    commit(place, a_run(1))
    assert len(table_rows(table_of(place))) == 24


def test_a_partitioned_table_is_refused(tmp_path):
    place = str(tmp_path / "out"), TableSettings(TABLE)
    write_night(place[0], a_run())
    commit(place, a_run())
    with table_of(place).update_spec() as change:
        change.add_field("scored_at", "day")

    with pytest.raises(UsageError, match="is partitioned"):
        require_table(place[1], place[0], columns(), Storage())


@pytest.mark.parametrize(
    ("catalog", "says"),
    [
        ("http://127.0.0.1:9", r"cannot reach the table films.genres of http://127.0.0.1:9: "),
        ("nowhere", r"no catalogue nowhere \(it has .*\): name one of them"),
        ("ftp://nowhere", r"cannot use the table films.genres of ftp://nowhere: Could not infer the catalog type"),
        ("sqlite:////no/such/folder/x.db", r"cannot make the catalogue /no/such/folder/x.db"),
        ("postgresql://me:secret@127.0.0.1:9/db", r"of postgresql://\*\*\*@127.0.0.1:9/db: "),
    ],
)
def test_an_unusable_catalogue_is_refused_in_one_line(tmp_path, catalog, says):
    with pytest.raises(UsageError, match=says) as refused:
        require_table(TableSettings(TABLE, catalog), str(tmp_path / "out"), columns(), Storage())
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("output", ["gs://films/genres", "az://films/genres"])
def test_an_output_on_another_cloud_is_refused_with_a_way_out(output):
    with pytest.raises(UsageError, match=r"not in .*films/genres: use a Delta table \(--table delta\)"):
        is_new_database(TableSettings(TABLE, "https://catalog.example.org"), output)


def test_an_output_in_a_bucket_needs_a_named_catalogue():
    with pytest.raises(UsageError, match="Add --catalog"):
        require_table(TableSettings(TABLE), "s3://films/genres", columns(), Storage())


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    for name in ("pyiceberg.catalog", "pyiceberg.io.pyarrow"):
        monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(UsageError, match=r"pip install 'genretag\[iceberg\]'"):
        require_table(TableSettings(TABLE, "http://127.0.0.1:9"), str(tmp_path / "out"), columns(), Storage())


def test_a_table_needs_a_namespace_and_a_catalogue_needs_a_table():
    with pytest.raises(UsageError, match=r"NAMESPACE.TABLE, such as films.genres, or delta, not 'genres'"):
        TableSettings("genres")
    with pytest.raises(UsageError, match="add --table"):
        TableSettings(catalog="sqlite:////x.db")


def test_an_output_feeds_only_one_table(tmp_path):
    output = str(tmp_path / "out")
    write_night(output, a_run())
    commit((output, TableSettings(TABLE)), a_run())

    assert marked_table(output, Storage()) == TABLE
    with pytest.raises(UsageError, match=r"feeds the table films.genres already"):
        require_table(TableSettings("films.others"), output, columns(), Storage())
    with pytest.raises(UsageError, match=r"feeds the table films.genres already"):
        commit((output, TableSettings("films.others")), a_run())
