"""docker/Dockerfile passes a linter, its files exist, and its steps work in a fresh environment without Docker."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from dockerfile import Builder, copy_tree, lineage, read_stages
from manifests import OVERLAYS, REPOSITORY, build, pod_templates, strings
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray._private import ray_constants

DOCKERFILE = REPOSITORY / "docker" / "Dockerfile"
TARGETS = ("cpu", "train", "gpu")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def _pinned(*files):
    """Return the names of the packages that these files pin."""
    lines = [line for file in files for line in (REPOSITORY / file).read_text().splitlines() if "==" in line]
    return {canonicalize_name(line.partition("==")[0]) for line in lines}


def _asked(target):
    """Return the names of the packages that a target requires, with those of all its extras."""
    run = next(rest for kind, rest in read_stages(DOCKERFILE)[f"install-{target}"].instructions if kind == "RUN")
    todo, found = re.search(r"'\.\[([\w,-]+)\]'", run)[1].split(","), list(PROJECT["dependencies"])
    while todo:
        for line in PROJECT["optional-dependencies"][todo.pop()]:
            requirement = Requirement(line)
            if requirement.name == PROJECT["name"]:
                todo += requirement.extras
            else:
                found.append(line)
    return {canonicalize_name(Requirement(line).name) for line in found}


def test_hadolint_finds_nothing():
    linted = subprocess.run(["hadolint", DOCKERFILE], capture_output=True, text=True, env=_with_our_programs())

    assert (linted.returncode, linted.stdout) == (0, "")


def _with_our_programs():
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_without_root_and_has_a_health_check_and_labels(target):
    steps = [step for stage in lineage(read_stages(DOCKERFILE), target) for step in stage.instructions]
    last = dict(steps)

    assert last["USER"] == "1000:1000"
    asked = json.loads(last["HEALTHCHECK"].partition(" CMD ")[2])
    assert asked[-1] == f"http://127.0.0.1:{ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT}/api/local_raylet_healthz"
    assert f"ARG VERSION={PROJECT['version']}" in DOCKERFILE.read_text()
    labels = " ".join(rest for kind, rest in steps if kind == "LABEL")
    assert all(f"org.opencontainers.image.{name}=" in labels for name in ("licenses", "revision", "version"))
    assert json.loads(last["CMD"])[0] in PROJECT["scripts"]


@pytest.mark.parametrize("target", TARGETS)
def test_all_packages_of_a_target_are_pinned(target):
    files = ["constraints.txt"] + (["docker/constraints-gpu.txt"] if target == "gpu" else [])

    assert _asked(target) <= _pinned(*files)


def test_only_the_scoring_target_is_without_tensorflow():
    assert [any("tensorflow" in name for name in _asked(target)) for target in TARGETS] == [False, True, True]


def test_dockerignore_allows_exactly_the_files_that_the_dockerfile_copies():
    allowed = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        word
        for stage in read_stages(DOCKERFILE).values()
        for kind, rest in stage.instructions
        if kind == "COPY" and "--from" not in rest
        for word in shlex.split(rest)[:-1]
    }

    assert copied == allowed
    assert all((REPOSITORY / name).exists() for name in copied)


def test_the_images_that_manifests_name_are_targets():
    named = {text for overlay in OVERLAYS for item in build(overlay) for text in strings(list(pod_templates(item)))}

    assert {image.rpartition("-")[2] for image in named if image.startswith("genretag:")} == set(TARGETS)


@pytest.mark.slow
def test_the_steps_of_the_scoring_image_install_a_genretag_that_works_without_tensorflow(
    tmp_path, few_posters, monkeypatch
):
    """This is the only test that installs packages. If pip has the wheels, it takes half a minute."""
    monkeypatch.setenv("PIP_NO_COMPILE", "1")  # compiling all modules takes longer than all other steps
    python = _fresh_python(tmp_path / "python")
    builder = Builder(DOCKERFILE, REPOSITORY, tmp_path / "stages", python)

    image = builder.build("cpu")

    # The only skipped commands are those that install packages of Debian, in the stages `sources` and `base`.
    assert [command.partition(" ")[0] for command in builder.skipped] == ["apt-get"] * 2
    copy_tree(image / "usr" / "local", python.parents[1])
    poster = next(few_posters.iterdir())
    assert "Usage: genretag" in _run(python.parent / "genretag", "--help")
    assert f"{poster}: " in _run(python.parent / "genretag", "predict", poster)
    assert "ray, version" in _run(python.parent / "ray", "--version")
    absent = (
        "import importlib.util as u; print([n for n in ('tensorflow', 'keras', 'sklearn', 'nncf') if u.find_spec(n)])"
    )
    assert _run(python, "-c", absent) == "[]\n"


def _fresh_python(folder):
    """Make a virtual environment in the folder, and return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder / "bin" / "python"


def _run(*command):
    environment = {n: v for n, v in os.environ.items() if n not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout
