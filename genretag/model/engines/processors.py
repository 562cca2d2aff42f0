"""Processor of this machine, and the instructions that oneDNN, OpenVINO's library of kernels, may use on it."""

import json
import os
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CAP = "ONEDNN_MAX_CPU_ISA"  # the environment variable that keeps a process from newer instructions
# oneDNN's name of a set: the set that it extends, and the Linux flags that a processor must have in addition
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
EXACT_IN_INT8 = frozenset({"AVX2_VNNI", "AVX512_CORE_VNNI"})  # these sets add four products at once, in 32 bits
CPU_INFO = Path("/proc/cpuinfo")
ON_BOARD = "engine of "  # the prefix of facts that engines leave on a job's board


@dataclass(frozen=True)
class Processor:
    """Model name of a processor, and the instruction sets that a process may use on it; empty if they are unknown."""

    model: str
    instruction_sets: tuple[str, ...]

    @property
    def saturates_in_int8(self) -> bool:
        """True if the processor adds pairs of products of 8-bit integers in 16 bits, in which large sums do not fit.

        False if the instruction sets are unknown.
        """
        return bool(self.instruction_sets) and not EXACT_IN_INT8 & set(self.instruction_sets)


def this_processor(cpu_info: str | None = None, cap: str | None = None) -> Processor:
    """Return the processor of this machine, with the instruction sets that this process may use.

    `cpu_info` is the text of `/proc/cpuinfo`; None reads it from Linux. `cap` is oneDNN's name of the newest
    instruction set allowed; None takes it from ONEDNN_MAX_CPU_ISA. An empty or unknown name allows all.
    """
    fields = _fields(_read_cpu_info() if cpu_info is None else cpu_info)
    model = fields.get("model name") or platform.processor() or platform.machine()
    found = _supported(frozenset(fields.get("flags", "").split()))
    allowed = _extended_by((os.environ.get(CAP, "") if cap is None else cap).upper())
    return Processor(model, tuple(name for name in found if not allowed or name in allowed))


def engine_facts(*, precision: str, on_gpu: bool) -> dict[str, Any]:
    """Return facts about the engine and the CPU of this process, for `Board.set`. `engines_on` reads them."""
    processor = this_processor()
    facts = {"cpu": processor.model, "instruction_sets": list(processor.instruction_sets)}
    return {f"{ON_BOARD}{platform.node()} {os.getpid()}": {**facts, "on_gpu": on_gpu, "precision": precision}}


def engines_on(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the kinds of engines that reported to a job's board, most frequent first.

    `board` has the values of the board. An entry has the facts of `engine_facts`, and in `engines` the number of
    engines with these facts.
    """
    said = [value for name, value in board.items() if name.startswith(ON_BOARD)]
    kinds = Counter(json.dumps(value) for value in said)
    return [{**json.loads(kind), "engines": count} for kind, count in kinds.most_common()]


def _read_cpu_info() -> str:
    """Return the text of `/proc/cpuinfo`; empty if it cannot be read, as on other systems than Linux."""
    try:
        return CPU_INFO.read_text(errors="replace")
    except OSError:  # no Linux
        return ""


def _fields(cpu_info: str) -> dict[str, str]:
    """Return the fields of the first processor in the text of `/proc/cpuinfo`, by name."""
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

    Return an empty set for a name that is not in `INSTRUCTION_SETS`. Such a name limits nothing.
    """
    allowed = set()
    name: str | None = cap if cap in INSTRUCTION_SETS else None
    while name:
        allowed.add(name)
        name = INSTRUCTION_SETS[name][0]
    return allowed
