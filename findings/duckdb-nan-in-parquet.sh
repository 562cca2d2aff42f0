#!/usr/bin/env bash
# DuckDB does not find NaN in a Parquet file, because it answers from the column statistics, which leave NaN out.
#
# Versions: duckdb 2.0.0, pyarrow 26.0.1, Python 3.11.
#
# The Parquet format has two rules for the statistics of a float column. A writer must not write NaN as minimum or
# maximum. A reader that looks for NaN must ignore both values. pyarrow follows the rule for writers. DuckDB does not
# follow the rule for readers.
#
# The first file holds 0.2, 0.3 and NaN. DuckDB evaluates `isnan(x)`, `x = 'NaN'` and `not (x between 0 and 1)` from the
# bounds 0.2 and 0.3, and returns no row. If the same file has no statistics, all three conditions return the row.
# The second file holds 0.2 and NaN. Minimum and maximum are equal, so DuckDB treats the column as constant. Then even
# `not isfinite(x)` and `cast(x as varchar) = 'nan'` return no row.
# Workaround: `isnan(x + 0 * random())` returns the row in all three files, because it cannot use the statistics.
#
# The problem is reported for comparisons, and the issue is open: https://github.com/duckdb/duckdb/issues/25521
# Consequence: a data check in SQL that looks for NaN in Parquet files reports nothing, although there is NaN.
#
# Output seen (the number of rows that each condition returns):
#   two numbers, statistics      isnan 0, = NaN 0, not between 0, not isfinite 1, as text 1, with random 1
#   one number, statistics       isnan 0, = NaN 0, not between 0, not isfinite 0, as text 0, with random 1
#   two numbers, no statistics   isnan 1, = NaN 1, not between 1, not isfinite 1, as text 1, with random 1
#
# The script ends with exit code 1 if the output differs.
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
