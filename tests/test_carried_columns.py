"""Columns of a manifest that the user names with `--carry` are copied to the output."""

import subprocess
import sys
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet
import pytest
from outputs import rows

from genretag.errors import UsageError
from genretag.scoring.inventory import carried_fields, take_inventory
from genretag.storage import Storage

BERLIN = pa.timestamp("ns", "Europe/Berlin")
PRINTS_TYPES = """
import sys, tempfile
from pathlib import Path
from genretag.storage import Storage
from genretag.scoring.inventory import take_inventory
with tempfile.TemporaryDirectory() as folder:
    print(*take_inventory(sys.argv[1], Storage(), Path(folder), carry=("seen", "made")).schema.field("carried").type)
"""


@pytest.fixture
def manifest(few_posters, tmp_path):
    """Write a Parquet manifest of twelve whole posters and a broken one, with additional columns."""
    (few_posters / "broken.jpg").write_bytes(b"no picture")
    files = sorted(few_posters.iterdir())
    table = pa.table(
        {
            "uri": [str(file) for file in files],
            "title": [f"Film, the {number}th" for number in range(13)],
            "year": pa.array([None, *range(1980, 1992)], pa.int16()),
            "cast": [["a"]] * 13,
            "width": [1.0] * 13,
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "films.parquet")
    return tmp_path / "films.parquet"


def test_carried_columns_keep_their_types_in_predictions_and_failures(run, manifest, tmp_path):
    run(manifest, tmp_path / "out", carry=("title", "year"))

    expected = {row["uri"]: (row["title"], row["year"]) for row in pyarrow.parquet.read_table(manifest).to_pylist()}
    got = [row for kind in ("predictions", "failures") for row in rows(tmp_path / "out", kind)]
    assert {row["uri"]: (row["title"], row["year"]) for row in got} == expected
    part = next((tmp_path / "out").glob("predictions/*/*.parquet"))
    assert pyarrow.parquet.read_schema(part).field("year").type == pa.int16()


def test_columns_of_a_csv_are_text(run, few_posters, tmp_path):
    file = sorted(few_posters.iterdir())[0]
    (tmp_path / "films.csv").write_text(f'uri,"the ""year"""\n{file},1987\n')

    run(tmp_path / "films.csv", tmp_path / "out", carry=('the "year"',))

    assert rows(tmp_path / "out")[0]['the "year"'] == "1987"


@pytest.mark.parametrize(
    ("carry", "says"),
    [
        ("yaer", "no column 'yaer' to carry: did you mean year"),
        ("cast", "column 'cast' is VARCHAR"),
        ("width", "'width' cannot be carried: the output has a column of that name"),
    ],
)
def test_a_column_that_cannot_be_carried_is_refused(run, manifest, tmp_path, carry, says):
    with pytest.raises(UsageError, match=says):
        run(manifest, tmp_path / "out", carry=(carry,))
    assert not (tmp_path / "out").exists()


def test_a_folder_has_no_columns_to_carry(run, few_posters, tmp_path):
    with pytest.raises(UsageError, match="--carry takes columns of a manifest"):
        run(few_posters, tmp_path / "out", carry=("title",))


def test_an_output_with_other_carried_columns_is_refused(run, manifest, tmp_path):
    run(manifest, tmp_path / "out", carry=("title",))

    with pytest.raises(UsageError, match=r"other columns.* they differ in title"):
        run(manifest, tmp_path / "out")


def films(tmp_path, files, **columns):
    """Write a Parquet manifest of these files with additional columns, and return its path."""
    pyarrow.parquet.write_table(pa.table({"uri": [str(file) for file in files], **columns}), tmp_path / "films.parquet")
    return tmp_path / "films.parquet"


def types_of(output, kind="predictions"):
    """Return the types that the column `seen` has in the part files."""
    return {pyarrow.parquet.read_schema(file).field("seen").type for file in output.glob(f"{kind}/*/*.parquet")}


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Sao_Paulo"])
def test_the_types_of_carried_times_do_not_depend_on_the_machine_s_time_zone(few_posters, tmp_path, zone):
    file, noon = sorted(few_posters.iterdir())[0], datetime(2026, 11, 1, 12)
    manifest = films(
        tmp_path,
        [file],
        seen=pa.array([noon], pa.timestamp("us", "Europe/Berlin")),
        made=pa.array([noon], "timestamp[ns]"),
    )
    command = [sys.executable, "-c", PRINTS_TYPES, str(manifest)]

    done = subprocess.run(
        command, capture_output=True, text=True, env={"TZ": zone, "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    )

    assert done.stdout.split("pyarrow.Field")[1:] == ["<seen: timestamp[us, tz=UTC]> ", "<made: timestamp[us]>\n"], (
        done.stderr
    )


def test_a_time_with_a_zone_is_the_same_moment_in_utc(few_posters, tmp_path):
    file, noon = sorted(few_posters.iterdir())[0], datetime(2026, 11, 1, 12, tzinfo=UTC)
    manifest = films(tmp_path, [file], seen=pa.array([noon], BERLIN))

    found = take_inventory(str(manifest), Storage(), tmp_path, carry=("seen",)).table()

    assert found["carried"].to_pylist() == [{"seen": noon}]


def test_a_carried_column_of_nulls_takes_its_type_from_earlier_nights(run, few_posters, tmp_path):
    first, second = sorted(few_posters.iterdir())[:2]
    run(films(tmp_path, [first], seen=pa.array([3], pa.int16())), tmp_path / "out", carry=("seen",))

    run(films(tmp_path, [second], seen=pa.nulls(1)), tmp_path / "out", carry=("seen",))

    assert types_of(tmp_path / "out") == {pa.int16()}
    assert {row["uri"]: row["seen"] for row in rows(tmp_path / "out")} == {str(first): 3, str(second): None}


def test_a_carried_column_of_nulls_is_text_in_a_new_output(run, few_posters, tmp_path):
    first, second = sorted(few_posters.iterdir())[:2]
    run(films(tmp_path, [first], seen=pa.nulls(1)), tmp_path / "out", carry=("seen",))

    run(films(tmp_path, [second], seen=["in May"]), tmp_path / "out", carry=("seen",))

    assert types_of(tmp_path / "out") == {pa.string()}


@pytest.mark.parametrize(
    ("tonight", "held", "type_"),
    [
        (pa.int16(), None, pa.int16()),
        (pa.int16(), pa.string(), pa.int16()),  # the types differ, so `tag` then refuses the output
        (pa.null(), None, pa.string()),
        (pa.null(), pa.int16(), pa.int16()),
        (pa.null(), pa.null(), pa.null()),  # an output that an earlier genretag wrote
        (pa.timestamp("us", "UTC"), None, pa.timestamp("us", "UTC")),
        (pa.timestamp("us", "UTC"), BERLIN, BERLIN),
        (pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("ns")),
        (pa.timestamp("us"), BERLIN, pa.timestamp("us")),
    ],
)
def test_carried_columns_take_the_types_of_the_output_if_they_fit(tonight, held, type_):
    schema = pa.schema([("uri", pa.string())] + ([("seen", held)] if held else []))

    assert carried_fields(pa.struct([("seen", tonight)]), schema) == (pa.field("seen", type_),)
