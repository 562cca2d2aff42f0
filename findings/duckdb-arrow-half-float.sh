#!/bin/sh
# DuckDB reads lists of float16 from a Parquet file, but takes no Arrow table with the same column.
#
# Versions: duckdb 2.0.0, pyarrow 26.0.1, numpy 2.4.6, Python 3.11.
#
# Embeddings are often stored in float16. A query over the Parquet file works: the column has the type FLOAT[]. A query
# over the Arrow table that pyarrow read from that file stops when the table is registered, even if the query does not
# use the column. So a program that streams Parquet batches through DuckDB breaks once its files get such a column.
#
# Output seen:
#   from the Parquet file: FLOAT[], similarity 1.0
#   from the Arrow table: NotImplementedException, Unsupported Internal Arrow Type e
#   from the Arrow table, cast to float32: FLOAT[4]
#
# What to do: leave the column out of the batches, or cast it to float32.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q duckdb==2.0.0 pyarrow==26.0.1 numpy==2.4.6
cat > "$folder/try.py" <<'PY'
import sys

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

values = np.random.default_rng(1).random(20).astype(np.float16)
table = pa.table({"name": list("abcde"), "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values), 4)})
file = f"{sys.argv[1]}/embeddings.parquet"
pq.write_table(table, file)
database = duckdb.connect()

similarity = "array_cosine_similarity(embedding::float[4], embedding::float[4])"
kind, same = database.sql(f"select typeof(embedding), {similarity} from '{file}'").fetchall()[0]
assert (kind, round(same, 6)) == ("FLOAT[]", 1.0), (kind, same)
print(f"from the Parquet file: {kind}, similarity {same:.1f}")

try:
    database.register("half", pq.read_table(file))
    database.sql("select name from half").fetchall()
    raise SystemExit("changed: DuckDB takes the Arrow table")
except duckdb.NotImplementedException as error:
    assert "Unsupported Internal Arrow Type e" in str(error), error
    print(f"from the Arrow table: {type(error).__name__}, Unsupported Internal Arrow Type e")

embedding = pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float32)), 4)
database.register("as_float32", table.set_column(1, "embedding", embedding))
(kind,) = database.sql("select typeof(embedding) from as_float32").fetchall()[0]
assert kind == "FLOAT[4]", kind
print(f"from the Arrow table, cast to float32: {kind}")
PY
"$folder/venv/bin/python" "$folder/try.py" "$folder"
