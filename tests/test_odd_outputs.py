"""Posters and outputs in folders and prefixes of any name: every command takes them as they are."""

import pytest
from outputs import ODD, rows

from genretag.storage import join


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_nights_a_report_a_table_a_merge_and_a_gallery(
    kind, run, few_posters, small_bundle, command, storage, tmp_path, request
):
    pytest.importorskip("pyiceberg")
    posters = tmp_path / ODD / "posters"
    posters.parent.mkdir(parents=True)
    few_posters.rename(posters)
    uris = [str(file) for file in sorted(posters.iterdir())]
    some = tmp_path / ODD / "some.csv"
    some.write_text("uri\n" + "".join('"{}"\n'.format(uri.replace('"', '""')) for uri in uris[:5]))
    output = join(str(tmp_path) if kind == "folder" else request.getfixturevalue("bucket"), ODD, "genres")
    table = ("--table", "films.genres", "--catalog", f"sqlite:///{tmp_path}/c.db")

    run(some, output, date="2026-11-01")
    record = run(posters, output, date="2026-11-01", report=True)
    runs = [
        command("tag", posters, output, *table, "--model", small_bundle),
        command("compact", output, *table),
        command("gallery", output),
    ]

    assert [code for code, _, _ in runs] == [0, 0, 0], runs
    assert sorted(row["uri"] for row in rows(output)) == uris
    found = {info.uri.removeprefix(f"{output}/") for page in storage.list(output) for info in page}
    assert len([name for name in found if name.startswith("predictions/dt=2026-11-01/")]) == 1, "merged"
    assert {f"runs/{record.run_id}/run.html", "gallery.html"} <= found
