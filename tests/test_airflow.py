"""The Airflow DAG runs commands that genretag has, and reacts to each exit code as it should."""

import ast
import importlib.util
import runpy

import pytest
from manifests import KUBERNETES, REPOSITORY, as_genretag_reads

from genretag import cli, errors

FILE = REPOSITORY / "cluster" / "airflow" / "genretag_night.py"


def _constant(name):
    """Return the value of a constant of the DAG without importing Airflow. Names in it become strings."""
    for node in ast.parse(FILE.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(_without_names(node.value))
    raise AssertionError(name)


def _without_names(node):
    class Names(ast.NodeTransformer):
        def visit_Name(self, found):
            return ast.Constant(found.id)

    return Names().visit(node)


def test_it_tags_a_night_with_settings_that_genretag_has():
    settings = KUBERNETES / "overlays" / "cpu" / "genretag.toml"

    command, arguments = as_genretag_reads(["genretag", *_constant("TAG"), "2026-11-25"], settings)

    assert (command, arguments["settings"].date) == ("tag", "2026-11-25")


def test_it_submits_with_options_that_genretag_has():
    settings = pytest.importorskip("genretag.settings").SubmitSettings
    command, *options = _constant("SUBMIT")

    assert command in cli.app
    assert {option.lstrip("-").replace("-", "_") for option in options} <= set(settings.__dataclass_fields__)


def test_the_exit_codes_are_genretag_s():
    assert _constant("FINAL") == {errors.EXIT_USAGE: "AirflowFailException", errors.EXIT_HELD: "AirflowSkipException"}


@pytest.mark.skipif(
    not importlib.util.find_spec("airflow"), reason="Airflow, which wants an environment of its own, is not here"
)
def test_airflow_loads_the_dag_and_reacts_to_each_exit_code():
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

    found = runpy.run_path(str(FILE))

    found["judge"](0, "")
    for code, raised in {
        1: AirflowException,
        2: AirflowFailException,
        3: AirflowSkipException,
        143: AirflowException,
    }.items():
        with pytest.raises(raised, match=f"exit code {code}: why") as caught:
            found["judge"](code, "why")
        assert caught.type is raised
