#!/usr/bin/env bash
# DuckDB answers questions about NaN from Parquet statistics, which leave NaN out.
#
# Versions: duckdb 2.0.0, pyarrow 26.0.1, Python 3.11.
# The Parquet format says of the statistics of a float column: NaN must not be written as minimum or maximum, and a
# reader that looks for NaN must ignore both. pyarrow keeps to the first half. DuckDB does not keep to the second half:
# of a file with 0.2, 0.3 and NaN it answers `isnan(x)`, `x = 'NaN'` and `not (x between 0 and 1)` by the bounds 0.2 and
# 0.3, and finds no row. Without statistics in the file, all three find the row. If the file holds one number and NaN,
# even `not isfinite(x)` and `cast(x as varchar) = 'nan'` find nothing: the column counts as constant.
# `isnan(x + 0 * random())` finds the row in all three files.
# Reported for comparisons, and open: https://github.com/duckdb/duckdb/issues/25521
# A check for broken values that runs on Parquet is silent about the values that it was written for.
#
# Output seen:
#   two numbers, statistics      isnan 0, = NaN 0, not between 0, not isfinite 1, as text 1, with random 1
#   one number, statistics       isnan 0, = NaN 0, not between 0, not isfinite 0, as text 0, with random 1
#   two numbers, no statistics   isnan 1, = NaN 1, not between 1, not isfinite 1, as text 1, with random 1
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet duckdb==2.0.0 pyarrow==26.0.1
cd "$folder"
cat > try.py <<'PYTHON'
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

CONDITIONS = {
    "isnan": "isnan(x)",
    "= NaN": "x = 'NaN'::float",
    "not between": "not (x between 0 and 1)",
    "not isfinite": "not isfinite(x)",
    "as text": "cast(x as varchar) = 'nan'",
    "with random": "isnan(x + 0 * random())",
}
for name, values, statistics in (
    ("two numbers, statistics", [0.2, 0.3, float("nan")], True),
    ("one number, statistics", [0.2, float("nan")], True),
    ("two numbers, no statistics", [0.2, 0.3, float("nan")], False),
):
    pq.write_table(pa.table({"x": pa.array(values, pa.float32())}), "x.parquet", write_statistics=statistics)
    found = {
        title: duckdb.sql(f"select count(*) from 'x.parquet' where {condition}").fetchall()[0][0]
        for title, condition in CONDITIONS.items()
    }
    print(f"{name:<28} " + ", ".join(f"{title} {count}" for title, count in found.items()))
PYTHON
"$folder/venv/bin/python" try.py | tee seen.txt
diff seen.txt <(sed -n 's/^#   //p' "$here/$(basename "$0")")
