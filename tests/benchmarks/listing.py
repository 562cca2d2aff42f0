"""List a large prefix with 1, 4 and 16 listers, from a stub S3 server with a fixed delay per page.

    python tests/benchmarks/listing.py --keys 1000000 --latency-ms 50

A stub is used because the upload of a million objects to a real store takes an hour. A store on this machine answers
much faster than AWS, which takes 50 to 100 ms. The stub runs in its own process and shares the machine with the
listers. On few cores this, and not the latency, limits the gain of more listers.
"""

import argparse
import bisect
import multiprocessing
import os
import resource
import time
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import patch

import genretag.storage.s3_listing as s3_listing
from genretag.storage import Storage

SHAPES: dict[str, Callable[[int], str]] = {
    "numbers": lambda number: f"posters/{number:09d}.jpg",
    # Fibonacci hashing, so that all keys differ.
    "hex": lambda number: f"posters/{number * 0x9E3779B97F4A7C15 % 2**64:016x}.jpg",
}
ANSWER = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>films</Name><EncodingType>url</EncodingType>\
<KeyCount>{count}</KeyCount><IsTruncated>{more}</IsTruncated>{token}{contents}</ListBucketResult>"""
BEHIND_KEY = (
    "</Key><LastModified>2026-11-23T01:02:03.000Z</LastModified>"
    "<ETag>&quot;d41d8cd98f00b204e9800998ecf8427e&quot;</ETag><Size>33000</Size>"
    "<StorageClass>STANDARD</StorageClass></Contents>"
)


def serve(
    keys: list[str], latency_s: float, port: "multiprocessing.Queue[int]", requests: "multiprocessing.Value"
) -> None:
    """Answer ListObjectsV2 from a sorted list of keys, until the process is killed."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version, sys_version = "AmazonS3", ""
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            due = time.monotonic() + latency_s
            with requests.get_lock():
                requests.value += 1
            body = page_of(keys, dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))).encode()
            time.sleep(max(0.0, due - time.monotonic()))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    ThreadingHTTPServer.request_queue_size = 128
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.put(server.server_port)
    server.serve_forever()


def page_of(keys: list[str], query: dict[str, str]) -> str:
    """Return one answer to ListObjectsV2. The continuation token is the last key of the page before."""
    prefix, size = query.get("prefix", ""), int(query.get("max-keys", "1000"))
    after = query.get("continuation-token") or query.get("start-after", "")
    start = max(bisect.bisect_left(keys, prefix), bisect.bisect_right(keys, after))
    end = min(start + size, bisect.bisect_left(keys, prefix + "\U0010ffff"))
    found = keys[start:end]
    more = bool(found) and end < len(keys) and keys[end].startswith(prefix)
    return ANSWER.format(
        count=len(found),
        more=str(more).lower(),
        token=f"<NextContinuationToken>{urllib.parse.quote(found[-1])}</NextContinuationToken>" if more else "",
        contents="".join([f"<Contents><Key>{key}{BEHIND_KEY}" for key in found]),  # these keys need no XML escapes
    )


def measure(listers: int, requests: Any) -> tuple[int, int, float, float]:
    """List the prefix once. Return keys, requests, seconds, and CPU seconds of this process."""
    storage, before = Storage(), requests.value
    started, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    with patch.object(s3_listing, "LISTERS", listers):
        keys = sum(len(table) for table in storage.list_tables("s3://films/posters"))
    seconds, use = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    cpu = use.ru_utime + use.ru_stime - used.ru_utime - used.ru_stime
    return keys, requests.value - before, seconds, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="numbers")
    options = parser.parse_args()

    keys = sorted(map(SHAPES[options.shape], range(options.keys)))
    port, requests = multiprocessing.Queue(), multiprocessing.Value("i", 0)
    server = multiprocessing.Process(target=serve, args=(keys, options.latency_ms / 1000, port, requests), daemon=True)
    server.start()
    secrets = {"AWS_ACCESS_KEY_ID": "stub", "AWS_SECRET_ACCESS_KEY": "stub", "AWS_REGION": "us-east-1"}
    os.environ.update(secrets, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port.get()}")
    print(f"{options.keys:,} keys ({options.shape}), {options.latency_ms:g} ms a page")
    print("listers      keys/s  requests  seconds  CPU s  times one lister")
    single = 0.0
    measure(1, requests)  # warm-up: imports, and the first connection
    for listers in (1, 4, 16):
        found, made, seconds, cpu = measure(listers, requests)
        assert found == options.keys, f"{found} keys came, not {options.keys}"
        rate = found / seconds
        single = single or rate
        print(
            f"{listers:7} {found / seconds:11,.0f} {made:9,} {seconds:8.1f} {cpu:6.1f} {found / seconds / single:17.1f}"
        )
    server.terminate()
    server.join()


if __name__ == "__main__":
    main()
