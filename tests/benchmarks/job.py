"""Run `genretag bench` on a bucket of an S3 server on this machine.

    python tests/benchmarks/job.py [--images FOLDER] --posters 10000 --rounds 3 [--json FILE] [further options of bench]

Starts a SeaweedFS and fills a bucket with the posters of a folder, or with drawn ones. If there are too few, they are
repeated under other keys. Then runs the command there. In all measurements, the store runs on the same machine and uses
some of its CPU time.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from peer_posters import fill_bucket

from genretag.commands.bench import drawn_folder
from genretag.demo.s3_server import running_s3_server
from genretag.storage import join

BUCKET = "s3://bench"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of posters")
    parser.add_argument("--posters", type=int, default=10_000)
    options, further = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="job-") as name, running_s3_server(Path(name) / "store") as server:
        os.environ.update(server.environment())
        server.create_bucket("bench")
        folder = options.images or drawn_folder(Path(name) / "posters", 160)
        files = sorted(folder.rglob("*.jpg"))[: options.posters]
        fill_bucket(join(BUCKET, "posters"), (file.read_bytes() for file in files), options.posters)
        arguments = ["bench", join(BUCKET, "posters"), "--output", join(BUCKET, "genres")]
        command = [sys.executable, "-m", "genretag.cli", *arguments, "--posters", str(options.posters), *further]
        return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
