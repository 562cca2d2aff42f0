"""With a key index, the worklist is the same as without one, whatever happened to the index or to the part files."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genretag.output import list_output
from genretag.scoring import key_index
from genretag.scoring.inventory import SCHEMA, Inventory, inventory_of
from genretag.scoring.worklist import make_worklist
from genretag.storage import Storage, StorageError

COUNTS = ("to_score", "listed", "already_scored", "already_failed")


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


def hold(output, name, *keys, model_version="m1", folder="predictions/dt=2026-11-22"):
    """Write the part file `name` with a row for each (uri, etag) key."""
    (output / folder).mkdir(parents=True, exist_ok=True)
    columns = {"uri": [uri for uri, _ in keys], "etag": [etag for _, etag in keys]}
    table = pa.table({**columns, "model_version": [model_version] * len(keys)})
    pyarrow.parquet.write_table(table, output / folder / f"{name}.parquet")


def worklist(output, *keys, storage=None, model_version="m1"):
    """Make the worklist of the (uri, etag) keys `keys`. Return its rows as dictionaries, and its counts."""
    keys = keys or [("another", "1")]
    spool = output.parent / "spool"
    shutil.rmtree(spool, ignore_errors=True)
    spool.mkdir(parents=True)
    table = inventory_of([uri for uri, _ in keys])
    table = table.set_column(2, SCHEMA.field("etag"), pa.array([etag for _, etag in keys], pa.string()))
    pyarrow.parquet.write_table(table, spool / "inventory.parquet")
    inventory, storage = Inventory(spool / "inventory.parquet", len(table), may_repeat=True), storage or Storage()
    made = make_worklist(inventory, list_output(str(output), storage), model_version, storage)
    rows = made.table().select(["uri", "etag", "listed_etags", "scored_etags", "failed_etags"]).to_pylist()
    return rows, {name: getattr(made, name) for name in COUNTS}


def uris(made):
    """Return the URIs of what `worklist` returned."""
    return [row["uri"] for row in made[0]]


def without_index(output, *keys):
    """Make the worklist of a copy of the output that has no key index."""
    copy = output.parent / "copy" / "out"
    shutil.rmtree(copy, ignore_errors=True)
    if output.exists():
        shutil.copytree(output, copy, ignore=shutil.ignore_patterns(key_index.FOLDER))
    return worklist(copy, *keys)


def segments(output):
    return sorted((output / key_index.FOLDER).rglob("*.arrow"))


class ReadParts(Storage):
    """A storage that records which part files are opened."""

    def __init__(self):
        super().__init__()
        self.opened = []

    def open(self, info):
        self.opened.append(info.uri.rpartition("/")[2])
        return super().open(info)


def test_part_files_in_the_index_are_not_read_again(output):
    hold(output, "part-1", ("a", "1"))
    worklist(output, ("a", "1"))
    hold(output, "part-2", ("b", "1"))

    storage = ReadParts()
    made = worklist(output, ("a", "1"), ("b", "1"), ("c", "1"), storage=storage)

    assert uris(made) == ["c"]
    assert storage.opened == ["part-2.parquet"]
    storage.opened.clear()
    assert uris(worklist(output, ("a", "1"), ("b", "1"), ("c", "1"), storage=storage)) == ["c"]
    assert storage.opened == []


def test_a_changed_object_is_to_score_and_its_row_has_the_etag_of_its_prediction(output):
    hold(output, "part-1", ("a", "1"), ("b", "1"))
    worklist(output)

    storage = ReadParts()
    rows, _ = worklist(output, ("a", "2"), ("b", "1"), ("c", "1"), storage=storage)

    assert [(row["uri"], row["scored_etags"]) for row in rows] == [("a", ["1"]), ("c", None)]
    assert storage.opened == ["part-1.parquet"], "read for the etags of a"


def test_an_etag_of_versions_is_known_through_the_index(output):
    hold(output, "part-1", ("a", "read"))
    worklist(output)
    table = pa.table({"uri": ["a"], "listed_etag": ["listed"], "etag": ["read"], "model_version": ["m1"]})
    (output / "versions").mkdir()
    pyarrow.parquet.write_table(table, output / "versions" / "part-1.parquet")

    assert uris(worklist(output, ("a", "listed"))) == []
    assert uris(worklist(output, ("a", "third"))) == ["a"]


def test_each_model_version_has_an_index_of_its_own_rows(output):
    hold(output, "part-1", ("a", "1"))
    hold(output, "part-2", ("b", "1"), model_version="m2")
    for _ in range(2):
        assert uris(worklist(output, ("a", "1"), ("b", "1"))) == ["b"]
        assert uris(worklist(output, ("a", "1"), ("b", "1"), model_version="m2")) == ["a"]

    assert [path.parent.name for path in segments(output)] == ["m1", "m2"]


def test_rows_of_a_part_file_that_was_removed_are_to_score_again(output):
    hold(output, "part-1", ("a", "1"))
    hold(output, "part-2", ("b", "1"))
    worklist(output)
    (output / "predictions" / "dt=2026-11-22" / "part-1.parquet").unlink()

    assert uris(worklist(output, ("a", "1"), ("b", "1"))) == ["a"]


def test_a_part_file_that_was_written_again_counts_with_its_new_rows(output):
    hold(output, "part-1", ("a", "1"), ("b", "1"))
    worklist(output)
    hold(output, "part-1", ("c", "1"))

    assert uris(worklist(output, ("a", "1"), ("b", "1"), ("c", "1"))) == ["a", "b"]


def test_merged_part_files_are_read_and_the_others_are_not(output):
    hold(output, "part-1", ("a", "1"))
    hold(output, "part-2", ("b", "1"))
    hold(output, "part-3", ("c", "1"))
    worklist(output)
    for name in ("part-1", "part-2"):
        (output / "predictions" / "dt=2026-11-22" / f"{name}.parquet").unlink()
    hold(output, "merged", ("a", "1"), ("b", "1"))

    storage = ReadParts()
    assert uris(worklist(output, ("a", "1"), ("b", "1"), ("c", "1"), storage=storage)) == []
    assert storage.opened == ["merged.parquet"]


def test_a_segment_takes_in_the_smaller_ones(output):
    for night in range(40):
        hold(output, f"part-{night}", *((f"{night}-{number}", "1") for number in range(3)))
        worklist(output)

    assert len(segments(output)) <= 6, "about the logarithm of 40"
    keys = [(f"{night}-{number}", "1") for night in range(40) for number in range(3)]
    assert uris(worklist(output, *keys, ("new", "1"))) == ["new"]


def truncated(path):
    path.write_bytes(path.read_bytes()[:-40])


def emptied(path):
    path.write_bytes(b"")


def garbled(path):
    path.write_bytes(b"no Arrow file" * 9)


def of_another_format(path):
    path.write_bytes(path.read_bytes().replace(b'"format": "1, DuckDB', b'"format": "0, DuckDB'))


def without_metadata(path):
    _write(path, pa.table({"uri": [1], "etag": [1], "part": [0]}))


def with_other_columns(path):
    table = pa.ipc.open_file(path).read_all()
    _write(path, table.rename_columns(["x", "y", "z"]))


def with_text_digests(path):
    table = pa.ipc.open_file(path).read_all()
    _write(path, table.set_column(0, "uri", table["uri"].cast(pa.string())))


def with_numbers_of_no_part(path):
    table = pa.ipc.open_file(path).read_all()
    _write(path, table.set_column(2, "part", pa.array([200] * len(table), pa.uint8())))


def _write(path, table):
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


DAMAGE = [
    truncated, emptied, garbled, of_another_format, without_metadata, with_other_columns, with_text_digests,
    with_numbers_of_no_part,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_segment_is_named_in_a_warning_and_replaced(output, caplog, damage):
    hold(output, "part-1", ("a", "1"))
    hold(output, "part-2", ("b", "1"), model_version="m2")
    worklist(output)
    (segment,) = segments(output)
    damage(segment)

    assert uris(worklist(output, ("a", "1"), ("b", "1"))) == ["b"]

    assert [segment.name in record.message for record in caplog.records] == [True]
    caplog.clear()
    assert len(segments(output)) == 1
    assert segments(output) != [segment]
    storage = ReadParts()
    assert uris(worklist(output, ("a", "1"), ("b", "1"), storage=storage)) == ["b"]
    assert (storage.opened, caplog.records) == ([], [])


def test_a_segment_of_another_output_is_of_no_use(output, tmp_path):
    hold(output, "part-1", ("a", "1"), ("b", "1"))
    worklist(output)
    other = tmp_path / "other" / "out"
    hold(other, "part-9", ("z", "1"))
    worklist(other)
    shutil.copy(segments(other)[0], segments(output)[0].parent)

    assert uris(worklist(output, ("a", "1"), ("b", "1"), ("z", "1"))) == ["z"]
    assert len(segments(output)) == 1


class Killed(BaseException):
    """Stands for a process that is killed."""


class Dying(Storage):
    """A storage that dies at the `nth` write or deletion, before or after it takes effect."""

    def __init__(self, nth, *, before):
        super().__init__()
        self.left, self.before = nth, before

    def put(self, uri, data):
        self._do(lambda: super(Dying, self).put(uri, data))

    def delete(self, uri):
        self._do(lambda: super(Dying, self).delete(uri))

    def _do(self, action):
        self.left -= 1
        if self.left or not self.before:
            action()
        if not self.left:
            raise Killed


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_run_may_die_at_any_moment_while_the_index_is_saved(output, nth, before):
    for night in range(2):  # two segments, which the third night merges with its own
        hold(output, f"part-{night}", *((f"{night}-{number}", "1") for number in range(8 // (night + 1))))
        worklist(output)
    assert len(segments(output)) == 2
    hold(output, "part-9", *((f"9-{number}", "1") for number in range(20)))
    keys = [(f"{night}-{number}", "1") for night in (0, 1, 9) for number in range(30)]
    expected = without_index(output, *keys)

    with pytest.raises(Killed):
        worklist(output, *keys, storage=Dying(nth, before=before))

    for _ in range(2):
        assert worklist(output, *keys) == expected
    assert len(segments(output)) == 1, "what the dead run left is gone"


def test_a_segment_that_the_store_does_not_deliver_is_kept(output, caplog, monkeypatch):
    hold(output, "part-1", ("a", "1"))
    worklist(output)
    (segment,) = segments(output)

    def fail(_storage, uri, _max_bytes=None):
        raise StorageError("unavailable", f"no {uri}")

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "get", fail)
        assert uris(worklist(output, ("a", "1"), ("b", "1"))) == ["b"]
        assert [segment.name in record.message for record in caplog.records] == [True]

    assert segment in segments(output)
    storage = ReadParts()
    assert uris(worklist(output, ("a", "1"), ("b", "1"), storage=storage)) == ["b"]
    assert storage.opened == []
    assert len(segments(output)) == 1, "one of two segments with the same keys is of no use"


def test_the_index_of_an_output_in_a_bucket_is_read_too(bucket, tmp_path, caplog):
    parts = ["part-1", "part-2"]
    for name in parts:
        hold(tmp_path, name, (name, "1"))
        data = (tmp_path / "predictions" / "dt=2026-11-22" / f"{name}.parquet").read_bytes()
        Storage().put(f"{bucket}/out/predictions/dt=2026-11-22/{name}.parquet", data)

    storage = ReadParts()
    for opened in (parts, []):
        spool = Path(tempfile.mkdtemp(dir=tmp_path))
        pyarrow.parquet.write_table(inventory_of(["new"]), spool / "inventory.parquet")
        inventory = Inventory(spool / "inventory.parquet", 1, may_repeat=False)
        make_worklist(inventory, list_output(f"{bucket}/out", storage), "m1", storage)
        assert sorted(storage.opened) == [f"{name}.parquet" for name in opened]
        storage.opened.clear()
    assert caplog.records == []


def test_a_store_that_refuses_the_index_costs_a_warning(output, caplog, monkeypatch):
    hold(output, "part-1", ("a", "1"))

    def refuse(*_):
        raise StorageError("access_denied", "no")

    monkeypatch.setattr(Storage, "put", refuse)

    assert uris(worklist(output, ("a", "1"), ("b", "1"))) == ["b"]
    assert [record.message for record in caplog.records] == [
        "the key index is not saved, so the next run reads more part files: no"
    ]


def test_a_segment_stores_equal_profiles_once():
    profile = ((b"genretag.profile", b"balanced"),)
    parts = [key_index.IndexedPart(f"part-{number}", 1, "e", 7, profile if number else ()) for number in range(300)]
    numbers = np.arange(300)
    segment = key_index.sort_keys(np.arange(300, dtype=np.uint64), np.zeros(300, np.uint64), numbers, parts)

    data = key_index.to_bytes(segment, "salt")
    again, salt = key_index.from_bytes(data)

    assert (again.parts, salt) == (tuple(parts), "salt")
    assert again.numbers.tolist() == numbers.tolist()
    assert data.count(b"balanced") == 2, "an Arrow file has its metadata at the beginning and at the end"


KEYS = st.tuples(st.sampled_from("abcdef"), st.sampled_from(["", "1", "2", "3"]))
EVENTS = st.one_of(
    st.tuples(st.just("score"), st.integers(0, 3), st.lists(KEYS, min_size=1, max_size=4)),
    st.tuples(st.just("remove"), st.integers(0, 3), st.just([])),
    st.tuples(st.just("lose"), st.integers(0, 3), st.just([])),
    st.tuples(st.just("look"), st.just(0), st.lists(KEYS, max_size=6)),
)


@given(events=st.lists(EVENTS, max_size=12), listed=st.lists(KEYS, min_size=1, max_size=8))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_with_an_index_the_worklist_is_the_same_as_without(tmp_path, events, listed):
    """Events: part files are written, written again and removed, segments are lost, and worklists are made."""
    output = tmp_path / "out"
    shutil.rmtree(output, ignore_errors=True)
    for event, number, keys in events:
        if event == "score":
            hold(output, f"part-{number}", *keys)
        elif event == "remove":
            (output / "predictions" / "dt=2026-11-22" / f"part-{number}.parquet").unlink(missing_ok=True)
        elif event == "lose":
            for path in segments(output)[number:]:
                path.unlink()
        else:
            worklist(output, *keys)

    assert worklist(output, *listed) == without_index(output, *listed)
