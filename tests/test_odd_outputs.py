"""Posters and outputs may be in folders and prefixes of any name: every command uses the names unchanged."""

import pytest
from outputs import ODD, rows

from genretag.storage import join


@pytest.mark.parametrize("kind", ["folder", pytest.param("bucket", marks=pytest.mark.slow)])
def test_tag_report_compact_and_gallery_work_in_a_folder_with_an_odd_name(
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
