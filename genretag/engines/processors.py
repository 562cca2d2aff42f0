"""Which processor this is, and which instructions oneDNN, OpenVINO's library of kernels, may use on it."""

import json
import os
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CAP = "ONEDNN_MAX_CPU_ISA"  # the environment variable by which a process is kept from newer instructions
# oneDNN's name of a set: the set that it extends, and the flags of Linux that a processor must have besides
INSTRUCTION_SETS: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "SSE41": (None, ("sse4_1",)),
    "AVX": ("SSE41", ("avx",)),
    "AVX2": ("AVX", ("avx2", "fma")),
    "AVX2_VNNI": ("AVX2", ("avx_vnni",)),
    "AVX512_CORE": ("AVX2", ("avx512f", "avx512bw", "avx512dq", "avx512vl")),
    "AVX512_CORE_VNNI": ("AVX512_CORE", ("avx512_vnni",)),
    "AVX512_CORE_BF16": ("AVX512_CORE_VNNI", ("avx512_bf16",)),
    "AVX512_CORE_FP16": ("AVX512_CORE_BF16", ("avx512_fp16",)),
    "AVX512_CORE_AMX": ("AVX512_CORE_FP16", ("amx_tile", "amx_int8", "amx_bf16")),
}
EXACT_IN_INT8 = frozenset({"AVX2_VNNI", "AVX512_CORE_VNNI"})  # these add four products at once, in 32 bits
CPU_INFO = Path("/proc/cpuinfo")
ON_BOARD = "engine of "  # how the facts begin that engines leave on a job's board


@dataclass(frozen=True)
class Processor:
    """A processor by its model's name, and the instruction sets that a process may use on it, none where unknown."""

    model: str
    instruction_sets: tuple[str, ...]

    @property
    def saturates_in_int8(self) -> bool:
        """Whether it adds pairs of products of 8-bit integers in 16 bits, where large ones do not fit."""
        return bool(self.instruction_sets) and not EXACT_IN_INT8 & set(self.instruction_sets)


def this_processor(cpu_info: str | None = None, cap: str | None = None) -> Processor:
    """The processor of this machine, as far as this process may use it.

    `cpu_info` is what Linux says of it and `cap` the name of an instruction set; both are found here when not given.
    """
    fields = _fields(_read_cpu_info() if cpu_info is None else cpu_info)
    model = fields.get("model name") or platform.processor() or platform.machine()
    found = _supported(frozenset(fields.get("flags", "").split()))
    allowed = _extended_by((os.environ.get(CAP, "") if cap is None else cap).upper())
    return Processor(model, tuple(name for name in found if not allowed or name in allowed))


def engine_facts(*, precision: str, on_gpu: bool) -> dict[str, Any]:
    """What the engine of this process leaves on a job's board."""
    processor = this_processor()
    facts = {"cpu": processor.model, "instruction_sets": list(processor.instruction_sets)}
    return {f"{ON_BOARD}{platform.node()} {os.getpid()}": {**facts, "on_gpu": on_gpu, "precision": precision}}


def engines_on(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The kinds of engines among the values of a board, each with how many there were as `engines`, most first."""
    said = [value for name, value in board.items() if name.startswith(ON_BOARD)]
    kinds = Counter(json.dumps(value) for value in said)
    return [{**json.loads(kind), "engines": count} for kind, count in kinds.most_common()]


def _read_cpu_info() -> str:
    try:
        return CPU_INFO.read_text(errors="replace")
    except OSError:  # no Linux
        return ""


def _fields(cpu_info: str) -> dict[str, str]:
    """What is said of the first processor."""
    first = cpu_info.split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _supported(flags: frozenset[str]) -> list[str]:
    found: list[str] = []
    for name, (base, needed) in INSTRUCTION_SETS.items():
        if flags.issuperset(needed) and (base is None or base in found):
            found.append(name)
    return found


def _extended_by(cap: str) -> set[str]:
    """The set of this name and all that it extends; none for a name that oneDNN does not know, which caps nothing."""
    allowed = set()
    name: str | None = cap if cap in INSTRUCTION_SETS else None
    while name:
        allowed.add(name)
        name = INSTRUCTION_SETS[name][0]
    return allowed
