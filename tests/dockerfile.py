"""Reads a Dockerfile, and carries out its stages in a folder instead of an image: what Docker does, less the system.

Instructions run as they stand, in the order of the stage and those it is built on. Absolute places of the image are
below the folder; `${PREFIX}` is the one that commands name, so the Dockerfile keeps it in an ARG.
"""

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

INSTRUCTION = re.compile(r"^([A-Z]+)\s+(.*)$", re.DOTALL)
NEEDS_AN_IMAGE = ("apt-get ",)  # what a RUN begins with that changes the system


@dataclass
class Stage:
    """What stands between two FROM lines."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)


def read_stages(file: Path) -> dict[str, Stage]:
    """The stages by name, in order."""
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
    """The stage after those that it is built on."""
    stage = stages[name]
    return [*(lineage(stages, stage.base) if stage.base in stages else []), stage]


def copy_tree(source: Path, target: Path) -> None:
    """Copies a folder into another by links: an installation has a gigabyte, and nobody changes the files."""

    def link(file: str, copy: str) -> None:
        Path(copy).unlink(missing_ok=True)
        os.link(file, copy)

    shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True, copy_function=link)


class Builder:
    """Carries stages out below a folder. `python` is the interpreter that the base image would have."""

    def __init__(self, dockerfile: Path, context: Path, folder: Path, python: Path) -> None:
        self.stages = read_stages(dockerfile)
        self._context, self._folder = context, folder
        self._path = f"{python.parent}:{os.environ['PATH']}"
        self.skipped: list[str] = []

    def build(self, name: str) -> Path:
        """The root of a stage, after all that it copies from has been built too."""
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
