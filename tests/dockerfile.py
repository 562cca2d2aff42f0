"""Run the stages of a Dockerfile in a folder, without Docker and without an image.

A stage runs its own instructions after those of the stages that it is built on. Absolute paths of the image become
paths below the folder. RUN commands with `apt-get` are skipped. The variables of ARG and ENV are set for RUN commands,
with their paths below the folder. So the Dockerfile names its install prefix only as `${PREFIX}`.
"""

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

INSTRUCTION = re.compile(r"^([A-Z]+)\s+(.*)$", re.DOTALL)
NEEDS_AN_IMAGE = ("apt-get ",)  # RUN commands that begin like this need a real image, and are skipped


@dataclass
class Stage:
    """A stage of a Dockerfile: its name, the image or stage it is built on, and its instructions."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)


def read_stages(file: Path) -> dict[str, Stage]:
    """Return the stages of a Dockerfile by name, in the order of the file."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for line in filter(None, map(str.strip, text.splitlines())):
        match = INSTRUCTION.match(line)
        assert match, line
        if match[1] == "FROM":
            base, _, name = match[2].partition(" AS ")
            stage = stages[name] = Stage(name, base)
        elif stage:
            stage.instructions.append((match[1], match[2]))
    return stages


def lineage(stages: dict[str, Stage], name: str) -> list[Stage]:
    """Return the stages that `name` is built on, the base first, and then the stage itself."""
    stage = stages[name]
    return [*(lineage(stages, stage.base) if stage.base in stages else []), stage]


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder into another with hard links: an installation has a gigabyte, and nobody changes the files."""

    def link(file: str, copy: str) -> None:
        Path(copy).unlink(missing_ok=True)
        os.link(file, copy)

    shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True, copy_function=link)


class Builder:
    """Runs the stages of a Dockerfile below `folder`, each in a subfolder with the stage's name.

    `context` is the folder that COPY reads from. `python` is the interpreter that stands in for that of the base image.
    `skipped` collects the RUN commands that need a real image.
    """

    def __init__(self, dockerfile: Path, context: Path, folder: Path, python: Path) -> None:
        self.stages = read_stages(dockerfile)
        self._context, self._folder = context, folder
        self._path = f"{python.parent}:{os.environ['PATH']}"
        self.skipped: list[str] = []

    def build(self, name: str) -> Path:
        """Run a stage, after all stages that it copies from, and return its folder. A stage runs only once."""
        root = self._folder / name
        if root.exists():
            return root
        root.mkdir(parents=True)
        work = root
        variables = {"HOME": str(root), "PATH": self._path, "TMPDIR": str(self._folder)}
        for kind, rest in [step for stage in lineage(self.stages, name) for step in stage.instructions]:
            if kind == "WORKDIR":
                work = root / rest.lstrip("/")
                work.mkdir(parents=True, exist_ok=True)
            elif kind in ("ARG", "ENV"):
                variables |= {n: self._inside(root, v) for n, v in (pair.split("=", 1) for pair in shlex.split(rest))}
            elif kind == "COPY":
                self._copy(rest, root, work)
            elif kind == "RUN":
                self._run(rest, work, variables)
        return root

    def _inside(self, root: Path, value: str) -> str:
        return str(root) + value if value.startswith("/") else value

    def _copy(self, rest: str, root: Path, work: Path) -> None:
        words = shlex.split(rest)
        source_root = self._context
        if words[0].startswith("--from="):
            source_root = self.build(words.pop(0).removeprefix("--from="))
        *sources, target = words
        place = root / target.lstrip("/") if target.startswith("/") else work / target
        for source in sources:
            path = source_root / source.lstrip("/")
            if path.is_dir() and source_root != self._context:
                copy_tree(path, place)
            elif path.is_dir():
                shutil.copytree(path, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                into_folder = target.endswith("/") or len(sources) > 1
                (place if into_folder else place.parent).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place / path.name if into_folder else place)

    def _run(self, rest: str, work: Path, variables: dict[str, str]) -> None:
        command = re.sub(r"^(--mount=\S+\s+)+", "", rest).strip()
        if command.startswith(NEEDS_AN_IMAGE):
            self.skipped.append(command)
            return
        environment = {n: v for n, v in os.environ.items() if n.startswith("PIP_") or n.lower().endswith("_proxy")}
        environment |= {"PIP_CACHE_DIR": os.environ.get("PIP_CACHE_DIR", str(Path.home() / ".cache" / "pip"))}
        done = subprocess.run(
            ["sh", "-ec", command], cwd=work, env={**environment, **variables}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
