"""The rounds in docs/chaos-rounds.csv lost nothing, and the docs say of them what the query says."""

import duckdb
import pytest
from conftest import REPOSITORY

RECORD = REPOSITORY / "docs" / "chaos-rounds.csv"
QUERY = REPOSITORY / "docs" / "chaos-rounds.sql"
PAGE = REPOSITORY / "docs" / "measurements.md"


@pytest.fixture
def rounds(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    return duckdb.sql("select * from read_csv('docs/chaos-rounds.csv')").to_arrow_table().to_pylist()


def test_no_round_lost_a_poster_or_wrote_it_twice(rounds):
    assert len({row["seed"] for row in rounds}) == len(rounds)
    for row in rounds:
        assert (row["lost"], row["twice"], row["scored"] + row["failed"]) == (0, 0, row["posters"]), row["seed"]
        assert row["right"] is not (row["wrong_because"] is not None), row["seed"]


def test_the_table_in_the_docs_is_what_the_query_says(rounds):
    found = duckdb.sql(QUERY.read_text())
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in found.fetchall()]

    page = PAGE.read_text()
    assert [line for line in lines if line not in page] == [], "\n".join(lines)


def _cell(value):
    return f"{int(value):,}" if not isinstance(value, str) else value
