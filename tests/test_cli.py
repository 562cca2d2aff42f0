"""A mistake of the user gives one clear line and exit code 2, without a traceback or half-written files."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from genretag.model.bundle import DEFAULT_BUNDLE
from genretag.storage import join


@pytest.fixture
def refused(command):
    """Return a function that runs a command, requires that it is refused with exit code 2, and returns its one line."""

    def run(*arguments):
        code, out, err = command(*arguments)
        lines = [line for line in err.splitlines() if line.startswith("genretag: ")]
        assert (code, out, len(lines)) == (2, "", 1), (code, out, err)
        assert "Traceback" not in err
        return lines[0].removeprefix("genretag: ")

    return run


def test_a_missing_folder(refused, tmp_path):
    line = refused("tag", tmp_path / "nothing", tmp_path / "out")

    assert line == f"cannot read the images: {tmp_path}/nothing is not a folder"
    assert not (tmp_path / "out").exists()


def test_an_empty_folder(refused, tmp_path):
    (tmp_path / "empty").mkdir()

    line = refused("tag", tmp_path / "empty", tmp_path / "out")

    assert line.startswith(f"there is no image at {tmp_path}/empty")
    assert not (tmp_path / "out").exists()


def test_a_bucket_without_access(refused, bucket, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")

    assert f"the credentials for {bucket} are refused" in refused("tag", bucket, tmp_path / "out")


def test_a_missing_bucket(refused, s3_server, tmp_path):
    assert "does not exist" in refused("tag", "s3://there-is-no-such-bucket", tmp_path / "out")


def test_an_output_that_is_not_writable(refused, few_posters, tmp_path):
    (tmp_path / "file").write_text("in the way")

    line = refused("tag", few_posters, tmp_path / "file" / "out")

    assert line.startswith(f"cannot write to the output {tmp_path}/file/out")


def test_an_output_without_access(refused, few_posters, bucket, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")

    line = refused("tag", few_posters, join(bucket, "genres"))

    assert line.startswith(f"cannot read what {bucket}/genres holds already (the credentials for {bucket}")


def test_an_unknown_flag(refused):
    assert refused("tag", "a", "b", "--batchsize", "3") == ("Unknown option: --batchsize. Did you mean --batch-size?")


def test_an_unknown_command(refused):
    assert 'Unknown command "tga". Did you mean "tag"?' in refused("tga")


def test_a_value_of_the_wrong_kind(refused):
    assert refused("tag", "a", "b", "--batch-size", "many").startswith("Invalid value for --batch-size")
    assert refused("tag", "a", "b", "--batch-size", "0") == "batch_size must be at least 1, not 0"
    assert refused("tag", "a", "b", "--date", "yesterday") == "date must be YYYY-MM-DD, not 'yesterday'"


def test_an_unknown_variable_in_the_environment(refused, monkeypatch):
    monkeypatch.setenv("GENRETAG_TAG_BATCHSIZE", "3")

    assert "did you mean GENRETAG_TAG_BATCH_SIZE?" in refused("tag", "a", "b")


def _links(service, address="10.96.12.7", port="8265"):
    """Return the environment variables that Kubernetes sets for a service."""
    name = service.upper().replace("-", "_")
    tcp = f"{name}_PORT_{port}_TCP"
    return {
        f"{name}_SERVICE_HOST": address,
        f"{name}_SERVICE_PORT": port,
        f"{name}_SERVICE_PORT_DASHBOARD": port,
        f"{name}_PORT": f"tcp://{address}:{port}",
        tcp: f"tcp://{address}:{port}",
        f"{tcp}_PROTO": "tcp",
        f"{tcp}_PORT": port,
        f"{tcp}_ADDR": address,
    }


@pytest.mark.parametrize("service", ["genretag-tag-x7k2p-head-svc", "genretag-tag", "genretag", "ray"])
def test_variables_that_kubernetes_sets_for_services_are_ignored(refused, monkeypatch, tmp_path, service):
    for name, value in _links(service).items():
        monkeypatch.setenv(name, value)

    line = refused("tag", tmp_path / "nothing", tmp_path / "out")

    assert line == f"cannot read the images: {tmp_path}/nothing is not a folder"


def test_a_misspelt_setting_is_an_error_next_to_variables_of_kubernetes(refused, monkeypatch, tmp_path):
    for name, value in (_links("genretag-tag-head") | {"GENRETAG_TAG_SERVICE_PORTS": "1"}).items():
        monkeypatch.setenv(name, value)

    line = refused("tag", tmp_path / "nothing", tmp_path / "out")

    assert line.startswith("unknown setting GENRETAG_TAG_SERVICE_PORTS in the environment")


def test_a_user_without_a_home_can_predict(few_posters):
    """OpenVINO looks for the home folder of the user."""
    line = ["unshare", "--user", "--map-user=54321"]
    if subprocess.run([*line, "true"], capture_output=True).returncode:
        pytest.skip("no user namespace can be made here")
    poster = next(few_posters.iterdir())
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME")}

    line += [sys.executable, "-m", "genretag.cli", "predict", str(poster)]
    ended = subprocess.run(line, capture_output=True, text=True, env=environment)

    assert (ended.returncode, ended.stdout.startswith(f"{poster}: ")) == (0, True), ended.stderr


@pytest.mark.parametrize("given", ["variable", "flag"])
def test_the_url_of_the_dashboard_is_refused_as_the_address_of_a_cluster(
    refused, few_posters, tmp_path, monkeypatch, given
):
    url = "http://127.0.0.1:8265"
    if given == "variable":
        monkeypatch.setenv("RAY_ADDRESS", url)

    line = refused("tag", few_posters, tmp_path / "out", *(("--address", url) if given == "flag" else ()))

    assert line.startswith(f"{url} is the address of Ray's dashboard")
    assert f"genretag submit --address {url}" in line
    assert list((tmp_path / "out").rglob("*.parquet")) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[tag]\nbatchsize = 3\n", "batch-size"),
        ("[tga]\nbatch_size = 3\n", "unknown table [tga]"),
        ("[tag\n", "is not TOML"),
    ],
)
def test_a_wrong_settings_file(refused, tmp_path, text, says):
    (tmp_path / "nightly.toml").write_text(text)

    assert says in refused("tag", "a", "b", "--config", tmp_path / "nightly.toml")


def test_a_missing_settings_file(refused, tmp_path):
    assert "cannot read the settings file" in refused("tag", "a", "b", "--config", tmp_path / "nightly.toml")


def test_flags_override_the_environment_which_overrides_the_file(refused, few_posters, tmp_path, monkeypatch):
    (tmp_path / "nightly.toml").write_text(
        f'[tag]\nimages = "{few_posters}"\noutput = "{tmp_path}/out"\nprofile = "from-file"\n'
    )
    nightly = ("tag", "--config", tmp_path / "nightly.toml")

    assert "no threshold profile 'from-file'" in refused(*nightly)
    monkeypatch.setenv("GENRETAG_TAG_PROFILE", "from-environment")
    assert "no threshold profile 'from-environment'" in refused(*nightly)
    assert "no threshold profile 'from-flag'" in refused(*nightly, "--profile", "from-flag")


def test_a_bundle_that_was_altered(refused, few_posters, tmp_path):
    shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle")
    (tmp_path / "bundle" / "openvino.bin").write_bytes(b"other weights")

    line = refused("tag", few_posters, tmp_path / "out", "--model", tmp_path / "bundle")

    assert "openvino.bin was altered" in line
    assert not (tmp_path / "out").exists()


def test_a_csv_without_the_needed_columns(refused, few_posters, tmp_path):
    (tmp_path / "labels.csv").write_text("title,year\nHeat,1995\n")

    line = refused(
        "train", "--labels", tmp_path / "labels.csv", "--images", few_posters, "--output", tmp_path / "bundle"
    )

    assert str(tmp_path / "labels.csv") in line
    assert not (tmp_path / "bundle").exists()


def test_a_csv_of_other_images(refused, few_posters, tmp_path):
    (tmp_path / "labels.csv").write_text("id,labels\n" + "".join(f"film{n},Drama|War\n" for n in range(50)))

    line = refused(
        "train", "--labels", tmp_path / "labels.csv", "--images", few_posters, "--output", tmp_path / "bundle"
    )

    assert "is the name of an image" in line


@pytest.mark.parametrize(
    ("table", "flag", "says"),
    [
        ("id,War,Drama\n" + "a,1,-1\nb,-1,1\n" * 20, "--false-value", "columns hold -1"),
        (
            "id,labels\n" + "a,War Film\nb,War News\nc,Sad Film\nd,Sad News\n",
            "--label-separator",
            "one label or several",
        ),
        ("id,War\n" + "".join(f"{n},{n % 2}.5\n" for n in range(9)), "--labels-column", "no labels among"),
        ("id,War\n" + "".join(f"{n},{n % 4}\n" for n in range(40)), "--true-value", "20 of 40 rows cannot be used"),
    ],
)
@pytest.mark.parametrize("verb", ["train", "evaluate", "gallery"])
def test_an_ambiguous_table_of_labels_is_refused_and_the_line_names_the_flag_that_decides(
    refused, few_posters, tmp_path, verb, table, flag, says
):
    (tmp_path / "labels.csv").write_text(table)
    words = {
        "train": ("train", "--images", few_posters, "--output", tmp_path / "out"),
        "evaluate": ("evaluate", DEFAULT_BUNDLE, "--images", few_posters),
        "gallery": ("gallery", tmp_path / "out"),
    }[verb]

    line = refused(*words, "--labels", tmp_path / "labels.csv")

    assert str(tmp_path / "labels.csv") in line
    assert says in line
    assert flag in line
    assert not (tmp_path / "out").exists()


def test_how_a_table_was_read_is_in_the_log_before_training_starts_unless_quiet(process, few_posters, tmp_path):
    ids = sorted(poster.stem for poster in few_posters.iterdir())
    (tmp_path / "labels.csv").write_text("id,War,Drama\n" + "".join(f"{id},1,-1\n" for id in ids))
    train = (
        "train", "--labels", tmp_path / "labels.csv", "--images", few_posters, "--output", tmp_path / "out",
        "--false-value", "-1", "--min-positives", "1",
    )  # fmt: skip

    loud, quiet = process(*train), process(*train, "--quiet")

    assert [line[9:] for line in loud.stderr.splitlines()[1:7]] == [
        f"{tmp_path}/labels.csv: 12 rows (0/1 columns) of 12 posters with labels; kept 12 posters with 1 labels",
        "  ids: column id",
        "  labels: columns 'War', 'Drama'",
        "  truth values: yes: '1' 12; no: '-1' 12",
        "  posters by label: War 12",
        "  labels left out, too few posters: 1 ('Drama': 0)",
    ]
    assert loud.stderr.splitlines()[7][9:] == "  images: found for 12 of 12 posters"
    assert (loud.returncode, quiet.returncode, len(quiet.stderr.splitlines())) == (2, 2, 1), "too few posters to train"


def test_settings_of_training_that_cannot_work(refused):
    train = ("train", "--labels", "a", "--images", "b", "--output", "c")

    assert "no backbone 'lite9'" in refused(*train, "--backbone", "lite9")
    assert "cannot be shared by 3 workers" in refused(*train, "--workers", "3")
    assert "or a range such as 1..4, not '4..1'" in refused(*train, "--workers", "4..1")
    assert "--resume needs --checkpoints" in refused(*train, "--workers", "1..4", "--resume")


def test_settings_of_an_evaluation_that_cannot_work(refused, tmp_path):
    evaluate = ("evaluate", "model", "--labels", "a", "--images", "b")

    assert refused(*evaluate, "--split", "train") == "there is no split 'train': choose from test, validation, all"
    assert refused(*evaluate, "--bootstrap", "3") == "bootstrap must be at least 20, not 3"
    assert "there is no folder for" in refused(*evaluate, "--json", tmp_path / "nowhere" / "figures.json")
    assert "no model bundle at" in refused(*evaluate)


def test_predict_without_a_poster(refused):
    assert refused("predict") == "name at least one poster: genretag predict POSTER..."


def test_a_bundle_in_the_way_is_not_overwritten(refused, small_bundle, poster_folder):
    before = (Path(small_bundle) / "bundle.json").read_bytes()

    line = refused(
        "train", "--labels", poster_folder.parent / "labels.csv", "--images", poster_folder,
        "--output", small_bundle, "--min-positives", "5",
    )  # fmt: skip

    assert "there is a bundle at" in line
    assert (Path(small_bundle) / "bundle.json").read_bytes() == before


COMMANDS = [
    "tag",
    "compact",
    "train",
    "requantize",
    "evaluate",
    "report",
    "gallery",
    "bench",
    "submit",
    "predict",
    "warehouse",
]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example(command, name):
    code, out, _ = command(name, "--help")

    assert code == 0
    assert f"Usage: genretag {name}" in out
    assert f"Example: genretag {name}" in out


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from genretag.cli import main; main(['--help']); print("
        "{'ray', 'tensorflow', 'keras', 'openvino', 'pyarrow', 'numpy', 'PIL'} & set(sys.modules), file=sys.stderr)"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == "set()\n"


def test_a_job_prints_what_it_did_and_where(command, ray_cluster, few_posters, bucket, small_bundle):
    code, out, _ = command("tag", few_posters, join(bucket, "genres"), "--model", small_bundle, "--quiet")

    assert code == 0
    assert out.startswith("12 posters scored, 0 failed, 0 already scored, 0 failed before, 12 listed: s3://")


def test_nothing_follows_the_last_line_of_a_command(tmp_path):
    """A thread that still waits keeps DuckDB's objects alive, and DuckDB's binding reports each of them."""
    program = f"""
import duckdb, threading
from genretag.cli import main
def wait(connection):
    threading.Event().wait()
threading.Thread(target=wait, args=(duckdb.connect(),), daemon=True).start()
main(["tag", {str(tmp_path / "nothing")!r}, {str(tmp_path / "out")!r}])
"""

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)

    assert ended.returncode == 2
    assert ended.stderr == f"genretag: cannot read the images: {tmp_path}/nothing is not a folder\n"


def test_a_reader_that_stops_reading_gets_no_traceback():
    """As with `genretag warehouse ... | head -1`."""
    command = [sys.executable, "-m", "genretag.cli", "warehouse", "--dialect", "duckdb", "--location", "/any/where"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    running.stdout.close()  # before the command has started, so that nobody reads its first line
    err = running.stderr.read()

    assert (running.wait(120), err) == (141, "")
