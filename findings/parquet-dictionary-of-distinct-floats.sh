#!/usr/bin/env bash
# pyarrow 26.0.1 writes a dictionary for a float column in which every value is different, although the file gets
# larger.
#
# A column of model probabilities (float32, all distinct) gains nothing from a dictionary. The file holds each value in
# the dictionary, and also an index into the dictionary for each row. pyarrow falls back to plain values only if the
# dictionary exceeds `dictionary_pagesize_limit` (1 MiB, which is 262,144 floats). pyarrow does not check whether the
# dictionary makes the column larger. DuckDB 2.0.0 writes plain values for the same column.
#
# Output seen (bytes per value, 50,000 values of 4 bytes, no compression):
#   pyarrow, its defaults        5.95 RLE_DICTIONARY
#   pyarrow, use_dictionary off  4.00 PLAIN
#   duckdb, its defaults         4.00
#
# The script stops with an AssertionError if this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1 duckdb==2.0.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

folder, values = sys.argv[1], 50_000
rows = pa.table({"p": np.random.default_rng(1).random(values, dtype=np.float32)})
assert len(np.unique(rows["p"].to_numpy())) > 0.99 * values


def column(file):
    found = pq.read_metadata(file).row_group(0).column(0)
    return found.total_compressed_size / values, found.encodings


pq.write_table(rows, f"{folder}/default.parquet", compression="none")
pq.write_table(rows, f"{folder}/plain.parquet", compression="none", use_dictionary=False)
duckdb.sql(f"copy rows to '{folder}/duckdb.parquet' (format parquet, compression uncompressed)")
sizes = {name: column(f"{folder}/{name}.parquet") for name in ("default", "plain", "duckdb")}
for name, (size, encodings) in sizes.items():
    print(f"{name:8} {size:.2f} bytes a value, {', '.join(encodings)}")
assert "RLE_DICTIONARY" in sizes["default"][1], "pyarrow wrote no dictionary"
assert sizes["default"][0] > 1.4 * sizes["plain"][0], "the dictionary makes the column no larger any more"
assert sizes["duckdb"][0] < 1.1 * sizes["plain"][0], "DuckDB wrote a dictionary too"
PYTHON
