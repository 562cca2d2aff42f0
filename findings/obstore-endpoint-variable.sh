#!/usr/bin/env bash
# obstore 0.12.1 (object_store 0.14.2), Python 3.11: the variable AWS_ENDPOINT_URL_S3 overrides the argument `endpoint`.
#
# A program opens `S3Store(bucket, endpoint=A)` while the environment has AWS_ENDPOINT_URL_S3=B. obstore sends every
# request to B, signed with the keys that were meant for A, without a warning. boto3 does the opposite: its argument
# `endpoint_url` overrides all variables. obstore's documentation says that `aws_endpoint_url_s3` takes precedence over
# `endpoint` "when both are set". A reader may think that both are arguments. The variable AWS_ENDPOINT_URL does not
# override the argument.
#
# Workaround: pass the argument under both names: S3Store(bucket, endpoint=A, aws_endpoint_url_s3=A).
#
# Output seen ("argument" and "variable" are the servers that received the request):
#   only AWS_ENDPOINT_URL in the environment -> asked: argument
#   AWS_ENDPOINT_URL_S3 in the environment   -> asked: variable
#   the argument under both names            -> asked: argument
#
# The script ends with exit code 1 if this output changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "obstore==0.12.1"

cat > "$folder/ask.py" <<'PYTHON'
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import obstore
from obstore.store import S3Store

asked = []


def serve(name):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(name)
            self.send_response(200)
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Mon, 23 Nov 2026 10:00:00 GMT")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


argument, variable = serve("argument"), serve("variable")


def ask(environment, **arguments):
    asked.clear()
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        os.environ.pop(name, None)
    os.environ.update(environment)
    options = {"access_key_id": "any", "secret_access_key": "any", "region": "us-east-1"}
    store = S3Store("bucket", client_options={"allow_http": True}, **options, **arguments)
    obstore.get(store, "key")
    return asked[0]


seen = {
    "only AWS_ENDPOINT_URL in the environment": ask({"AWS_ENDPOINT_URL": variable}, endpoint=argument),
    "AWS_ENDPOINT_URL_S3 in the environment  ": ask({"AWS_ENDPOINT_URL_S3": variable}, endpoint=argument),
    "the argument under both names           ": ask(
        {"AWS_ENDPOINT_URL_S3": variable}, endpoint=argument, aws_endpoint_url_s3=argument
    ),
}
for case, name in seen.items():
    print(f"{case} -> asked: {name}")
sys.exit(list(seen.values()) != ["argument", "variable", "argument"])
PYTHON
NO_PROXY=127.0.0.1 no_proxy=127.0.0.1 "$folder/venv/bin/python" "$folder/ask.py"
