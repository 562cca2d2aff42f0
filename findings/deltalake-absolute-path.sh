#!/usr/bin/env bash
# deltalake 1.6.6 (delta-rs), Python 3.11: a file that a Delta log names by an absolute path cannot be read.
#
# Delta's protocol (PROTOCOL.md, "Add File and Remove File") says of the path of an `add` action that it is relative to
# the table's folder, or an absolute path as a URI. Spark's shallow clones use the second form. deltalake commits such an
# action without an error. Afterwards it looks for the file below the table's folder, and encodes the `%` of the path
# once more.
#
# It hurts whoever makes a Delta table over Parquet files that are elsewhere, for example beside the folder of the table.
# The commit succeeds, and the first reader fails.
#
# Workaround: put the table's folder above the files, and name them by relative paths.
#
# Output seen:
#   relative path: 2 rows
#   absolute path: committed as version 0, then FileNotFoundError below the table's folder
#
# The script ends with exit code 1 if this output changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "deltalake==1.6.6" "pyarrow==25.0.0"

cat > "$folder/absolute.py" <<'PYTHON'
import json
import os
import sys

import pyarrow
import pyarrow.parquet
from deltalake import DeltaTable, Schema
from deltalake.transaction import AddAction, create_table_with_add_actions

base = sys.argv[1]
rows = pyarrow.table({"title": ["Alien", "Brazil"]})
seen = []
for form in ("relative", "absolute"):
    table = f"{base}/{form}"
    place = f"{table}/films.parquet" if form == "relative" else f"{base}/elsewhere/films.parquet"
    for parent in (table, os.path.dirname(place)):
        os.makedirs(parent, exist_ok=True)
    pyarrow.parquet.write_table(rows, place)
    path = "films.parquet" if form == "relative" else f"file://{place}"
    action = AddAction(path, os.path.getsize(place), {}, 0, True, json.dumps({"numRecords": len(rows)}))
    create_table_with_add_actions(table, Schema.from_arrow(rows.schema), [action])
    opened = DeltaTable(table)
    try:
        seen.append(f"{form} path: {opened.to_pyarrow_table().num_rows} rows")
    except FileNotFoundError as error:
        where = "below the table's folder" if f"{table}/file:" in str(error) else str(error)
        seen.append(f"{form} path: committed as version {opened.version()}, then FileNotFoundError {where}")
print("\n".join(seen))
sys.exit(
    seen
    != [
        "relative path: 2 rows",
        "absolute path: committed as version 0, then FileNotFoundError below the table's folder",
    ]
)
PYTHON
"$folder/venv/bin/python" "$folder/absolute.py" "$folder"
