"""Keep what today's build writes, so that a test can continue it with later builds.

    python tests/make_stored.py tests/stored/2026-11

Writes into the folder: a model bundle, a settings file, the posters, and two outputs in a bucket, one with an Iceberg
table (and its catalogue, a SQLite file) and one with a Delta table. The bucket has the name of the folder. All posters
are drawn. Of the last poster, only the file is kept: it is new in the night of the test.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from taggers import LABELS, save_onnx

from genretag.commands.bundle import bundle
from genretag.commands.tag import tag
from genretag.demo.posters import draw_posters
from genretag.demo.s3_server import running_s3_server
from genretag.importing.settings import ImportSettings
from genretag.runtime.session import Session
from genretag.scoring.settings import TagSettings
from genretag.settings import TableSettings
from genretag.storage import Storage, join

POSTERS = 7
TABLE = "films.genres"
SETTINGS = """\
[tag]
images = "{bucket}/posters"
output = "{bucket}/genres"
model = "{bucket}/model"
profile = "balanced"
rows-per-file = 100
error-budget = 0.9
"""


def main(kept: Path) -> None:
    bucket, storage = f"s3://stored-{kept.name}", Storage()
    kept.mkdir(parents=True)
    posters = sorted(draw_posters(60, seed=9), key=lambda poster: len(poster.data))[:POSTERS]
    with tempfile.TemporaryDirectory() as name, running_s3_server(Path(name) / "s3") as server:
        os.environ.update(server.environment())
        server.create_bucket(bucket.removeprefix("s3://"))
        (Path(name) / "labels.txt").write_text("\n".join(LABELS))
        activation = ImportSettings(scale="1/255")
        bundle(str(save_onnx(Path(name))), f"{name}/labels.txt", join(bucket, "model"), activation, Session(quiet=True))
        for poster in posters[:-1]:
            storage.put(join(bucket, "posters", poster.key.rpartition("/")[2]), poster.data)
        storage.put(join(bucket, "posters", "broken.jpg"), b"no picture")
        tables = {"genres": TableSettings(TABLE, f"sqlite:///{name}/catalog.db"), "delta": TableSettings("delta")}
        for output, table in tables.items():
            settings, session = TagSettings(date="2026-11-01", error_budget=0.9, report=False), Session(quiet=True)
            tag(join(bucket, "posters"), join(bucket, output), settings, session, join(bucket, "model"), table)
        for page in storage.list(bucket):
            for info in page:
                file = kept / "bucket" / info.uri.removeprefix(f"{bucket}/")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(bytes(storage.get(info.uri).data))
        shutil.copy(f"{name}/catalog.db", kept / "catalog.db")
    (kept / "new").mkdir()
    (kept / "new" / posters[-1].key.rpartition("/")[2]).write_bytes(posters[-1].data)
    (kept / "genretag.toml").write_text(SETTINGS.format(bucket=bucket))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
