"""`make demo`: run `genretag tag` on drawn posters in a local S3 server, then query the output with DuckDB."""

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from genretag.demo.posters import DrawnPoster, draw_posters
from genretag.demo.s3_server import S3Server, running_s3_server
from genretag.reports.run_facts import run_ids
from genretag.storage import Storage

POSTERS, BROKEN_SHARE, LARGE_SHARE = 300, 0.04, 0.04
BUCKET = "genretag-demo"
PAGES = Path("build/demo")  # the folder of the HTML pages that remain after the demo
IMAGES, OUTPUT = f"s3://{BUCKET}/posters", f"s3://{BUCKET}/genres"

FIRST_GENRES = f"""\
select genres[1] as first_genre, count(*) as posters, round(avg(len(genres)), 1) as genres_each,
       min(width || ' x ' || height) as smallest
from read_parquet('{OUTPUT}/predictions/dt=*/*.parquet')
group by all order by posters desc limit 8"""  # noqa: S608 - a constant
FAILURES = f"""\
select stage, reason, count(*) as posters, min(poster_id) as example
from read_parquet('{OUTPUT}/failures/**/*.parquet')
group by all order by posters desc"""  # noqa: S608 - a constant


def main() -> None:
    """Start an S3 server, fill a bucket with posters, tag them twice, and query the output.

    Afterwards, two HTML pages remain in the folder `PAGES`, and no process is running.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="genretag-demo-") as folder, running_s3_server(Path(folder)) as server:
        os.environ.update(server.environment())
        _fill(server)
        command = [sys.executable, "-m", "genretag.cli", "tag", IMAGES, OUTPUT]
        _say(f"tagging:  genretag tag {IMAGES} {OUTPUT}")
        subprocess.run(command, check=True)
        _say("the next night, there are no new posters:  the same command")
        subprocess.run(command, check=True)
        _query(FIRST_GENRES)
        print("  (The model was trained on real posters. It takes most of these drawings for documentaries.)")  # noqa: T201
        _query(FAILURES)
        _say("pages to look at, in any browser:")
        _keep_pages()
    _say(f"done in {time.monotonic() - started:.0f} s, nothing is left running. Now your own posters:")
    print("  .venv/bin/genretag tag FOLDER-OR-s3://PREFIX OUTPUT\n  .venv/bin/genretag predict POSTER...")  # noqa: T201


def _fill(server: S3Server) -> None:
    """Draw posters, some of them broken, upload them to the bucket, and print the number of each kind of damage."""
    _say(f"drawing {POSTERS} posters, some of them broken, into {IMAGES} on a local SeaweedFS server")
    server.create_bucket(BUCKET)
    storage = Storage()

    def upload(poster: DrawnPoster) -> str:
        storage.put(f"s3://{BUCKET}/{poster.key}", poster.data)
        return poster.broken or "whole"

    drawn = draw_posters(POSTERS, seed=1, broken_share=BROKEN_SHARE, large_share=LARGE_SHARE)
    with ThreadPoolExecutor(8) as threads:
        kinds = Counter(threads.map(upload, drawn))
    print("  " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))  # noqa: T201


def _keep_pages() -> None:
    """Save the first run's report and a gallery of posters in `PAGES`, because the server's data is deleted later."""
    PAGES.mkdir(parents=True, exist_ok=True)
    storage, first_night = Storage(), run_ids(OUTPUT, Storage())[0]
    report = PAGES / "report.html"
    report.write_bytes(bytes(storage.get(f"{OUTPUT}/runs/{first_night}/run.html").data))
    gallery = PAGES / "gallery.html"
    subprocess.run([sys.executable, "-m", "genretag.cli", "gallery", OUTPUT, "--html", gallery, "--quiet"], check=True)
    print(f"  what happened that night:  {report.absolute()}")  # noqa: T201
    print(f"  its posters and genres:    {gallery.absolute()}")  # noqa: T201


def _query(sql: str) -> None:
    """Print a SQL query and its result. DuckDB reads the output from the S3 server."""
    import duckdb

    _say("asking DuckDB:")
    print("  " + sql.replace("\n", "\n  "))  # noqa: T201
    database = duckdb.connect()
    filesystem, _ = Storage().filesystem(OUTPUT)
    database.register_filesystem(filesystem)
    print(database.sql(sql))  # noqa: T201


def _say(text: str) -> None:
    """Print a heading."""
    print(f"\n» {text}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
