"""Columns of the manifest that go through to the output on request."""

import pyarrow as pa
import pyarrow.parquet
import pytest
from outputs import rows

from genretag.errors import UsageError


@pytest.fixture
def manifest(few_posters, tmp_path):
    """A Parquet manifest of twelve posters and a broken one, with columns of its owner."""
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


def test_they_come_out_with_their_types_beside_scores_and_failures(run, manifest, tmp_path):
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


def test_an_output_keeps_its_columns(run, manifest, tmp_path):
    run(manifest, tmp_path / "out", carry=("title",))

    with pytest.raises(UsageError, match=r"other columns.* they differ in title"):
        run(manifest, tmp_path / "out")
