#!/usr/bin/env bash
# Azurite 3.35.0 and deltalake 1.6.6 (delta-rs), Python 3.11, Node 20: the third commit to a Delta table fails.
#
# delta-rs lists the log of a table from the newest version that it knows on. For that, it adds `startFrom=NAME` to Azure's
# request List Blobs. Azurite, Microsoft's emulator, ignores parameters that it does not know, and lists all names. The
# second commit still finds its place. From the third on, delta-rs meets an older version where it expects a newer one,
# and raises "Invalid table version".
#
# It hurts whoever tests a job that writes Delta tables against Azurite: two nights pass, and the third fails, with an
# error that names neither the listing nor the emulator.
#
# Workaround: a proxy in front of Azurite that removes names before `startFrom` from a listing.
#
# Output seen:
#   commits: 0, 1, DeltaError: Invalid table version: 1
#
# The script ends with exit code 1 if this output changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'kill "$azurite" 2> /dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "deltalake==1.6.6" "pyarrow==25.0.0" "azure-storage-blob==12.31.1"
npm install --prefix "$folder" --silent --no-fund --no-audit azurite@3.35.0 > /dev/null
port=$("$folder/venv/bin/python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
node "$folder/node_modules/azurite/dist/src/blob/main.js" --blobHost 127.0.0.1 --blobPort "$port" \
  --inMemoryPersistence --disableTelemetry --skipApiVersionCheck --silent > /dev/null 2>&1 &
azurite=$!

cat > "$folder/commit.py" <<'PYTHON'
import sys
import time

import pyarrow
from azure.core.exceptions import AzureError
from azure.storage.blob import BlobServiceClient
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

account, endpoint = "devstoreaccount1", f"http://127.0.0.1:{sys.argv[1]}/devstoreaccount1"
key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # public, for tests
client = BlobServiceClient(endpoint, credential=key)
for _ in range(100):
    try:
        client.create_container("films")
        break
    except AzureError:
        time.sleep(0.1)
options = {"account_name": account, "account_key": key, "azure_storage_endpoint": endpoint, "allow_http": "true"}
seen = []
for _ in range(3):
    try:
        table = None
        rows = pyarrow.table({"title": ["Alien"]})
        write_deltalake("az://films/table", rows, mode="append", storage_options=options)
        seen.append(str(DeltaTable("az://films/table", storage_options=options).version()))
    except DeltaError as error:
        seen.append(f"DeltaError: {str(error).splitlines()[0]}")
print("commits:", ", ".join(seen))
sys.exit(seen != ["0", "1", "DeltaError: Invalid table version: 1"])
PYTHON
NO_PROXY=127.0.0.1 no_proxy=127.0.0.1 "$folder/venv/bin/python" "$folder/commit.py" "$port"
