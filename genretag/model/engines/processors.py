"""Processor of this machine, and the instruction sets that int8 inference may use on it.

OpenVINO computes with the library oneDNN. The environment variable ONEDNN_MAX_CPU_ISA keeps oneDNN from using newer
instruction sets.
"""

import json
import os
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CAP = "ONEDNN_MAX_CPU_ISA"  # environment variable: oneDNN uses no instruction set newer than this one
# oneDNN's name of an instruction set -> the set that it extends, and the further CPU flags in Linux that it needs
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
EXACT_IN_INT8 = frozenset({"AVX2_VNNI", "AVX512_CORE_VNNI"})  # VNNI adds four products at once in 32 bits
CPU_INFO = Path("/proc/cpuinfo")
ON_BOARD = "engine of "  # prefix of the names of engine facts on the `Board`, the job's progress actor


@dataclass(frozen=True)
class Processor:
    """A processor's model name, and oneDNN's names of the instruction sets that a process may use on it.

    `instruction_sets` is empty if they are unknown.
    """

    model: str
    instruction_sets: tuple[str, ...]

    @property
    def saturates_in_int8(self) -> bool:
        """True if the processor adds pairs of 8-bit products in 16 bits, so that large sums do not fit.

        False if the instruction sets are unknown.
        """
        return bool(self.instruction_sets) and not EXACT_IN_INT8 & set(self.instruction_sets)


def this_processor(cpu_info: str | None = None, cap: str | None = None) -> Processor:
    """Return the processor of this machine, with the instruction sets that this process may use.

    `cpu_info` is the text of `/proc/cpuinfo`; None reads that file. `cap` is oneDNN's name of the newest instruction
    set that is allowed; None takes the name from the environment variable ONEDNN_MAX_CPU_ISA. If the name is empty or
    unknown, all instruction sets are allowed.
    """
    fields = _fields(_read_cpu_info() if cpu_info is None else cpu_info)
    model = fields.get("model name") or platform.processor() or platform.machine()
    found = _supported(frozenset(fields.get("flags", "").split()))
    allowed = _extended_by((os.environ.get(CAP, "") if cap is None else cap).upper())
    return Processor(model, tuple(name for name in found if not allowed or name in allowed))


def engine_facts(*, precision: str, on_gpu: bool) -> dict[str, Any]:
    """Return a report on this process's engine: a name with host and process id -> CPU, precision and more.

    Each process sends its report to the `set` method of the job's `Board` (a Ray actor with the progress of the job).
    `engines_on` reads the reports of all processes.
    """
    processor = this_processor()
    facts = {"cpu": processor.model, "instruction_sets": list(processor.instruction_sets)}
    return {f"{ON_BOARD}{platform.node()} {os.getpid()}": {**facts, "on_gpu": on_gpu, "precision": precision}}


def engines_on(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the kinds of engines that took part in a job, most frequent first.

    `board` maps names to values: all that the job's processes sent to its `Board`, a Ray actor. The reports from
    `engine_facts` are among the values. An entry of the result is such a report, and `engines` in the entry is the
    number of equal reports.
    """
    said = [value for name, value in board.items() if name.startswith(ON_BOARD)]
    kinds = Counter(json.dumps(value) for value in said)
    return [{**json.loads(kind), "engines": count} for kind, count in kinds.most_common()]


def _read_cpu_info() -> str:
    """Return the text of `/proc/cpuinfo`, or an empty text if the file cannot be read (it exists only on Linux)."""
    try:
        return CPU_INFO.read_text(errors="replace")
    except OSError:  # not on Linux
        return ""


def _fields(cpu_info: str) -> dict[str, str]:
    """Return the fields of the first processor in the text of `/proc/cpuinfo`: field name -> value."""
    first = cpu_info.split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _supported(flags: frozenset[str]) -> list[str]:
    """Return oneDNN's names of the instruction sets that a processor with these Linux flags has."""
    found: list[str] = []
    for name, (base, needed) in INSTRUCTION_SETS.items():
        if flags.issuperset(needed) and (base is None or base in found):
            found.append(name)
    return found


def _extended_by(cap: str) -> set[str]:
    """Return the instruction set `cap` and all sets that it extends.

    If `cap` is not in `INSTRUCTION_SETS`, return an empty set, which means no limit.
    """
    allowed = set()
    name: str | None = cap if cap in INSTRUCTION_SETS else None
    while name:
        allowed.add(name)
        name = INSTRUCTION_SETS[name][0]
    return allowed
