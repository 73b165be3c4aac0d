"""72B at full width, 2 text and 2 vision layers, through every command under an enforced memory limit."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from conversion.processes import bare_interpreter_mib, make_cold, make_folder, measure, remove, say, size_of

LIMIT_MIB = 512
MODEL = ("--model", "qwen2.5-vl-72b", "--text", "2", "--vision", "2")
MEMORY_GB = 26.5
LIMITED = Path(__file__).with_name("limited.py")
# Where the two kinds of memory control group are mounted, and what each calls the limit.
CGROUPS = {
    "v2": (Path("/sys/fs/cgroup"), "memory.max"),
    "v1": (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
}


def measure_memory(work: Path) -> dict[str, Any]:
    """Give what each command needed. A command that needs more than the limit ends this with its error."""
    hf, first, second, back = (work / name for name in ("hf", "tp8-pp2", "tp1-pp2", "back"))
    make_folder(hf, *MODEL)
    base = bare_interpreter_mib()
    wide, staged = ("--tp", "8", "--pp", "2"), ("--pp", "2")
    steps = {
        "import tp8 pp2": (hf, ["import", "--hf", hf, "--out", first, *wide]),
        "reshard tp8 pp2 to pp2": (first, ["reshard", "--sharded", first, "--out", second, *staged]),
        "export pp2": (second, ["export", "--sharded", second, "--out", back]),
        "verify HF against export": (back, ["verify", hf, back]),
    }
    done_with = {"export pp2": first, "verify HF against export": second}
    report: dict[str, Any] = {
        "source_bytes": size_of(hf),
        "bare_interpreter_mib": round(base, 1),
        "limit": f"address space: the interpreter's after its imports + {LIMIT_MIB} MiB",
    }
    with memory_cgroup(int((base + LIMIT_MIB) * 1024**2)) as (group, what):
        report["cgroup"] = what
        for name, (source, words) in steps.items():
            say(f"{name}, limited")
            remove(*([done_with[name]] if name in done_with else []))
            make_cold(source)
            inside = ["--cgroup", str(group)] if group else []
            command = [sys.executable, str(LIMITED), str(LIMIT_MIB), *inside, "convert", *map(str, words)]
            found = measure(command)
            report[name] = {
                "memory_mib_beyond_interpreter": round(found.memory_mib - base, 1),
                "wall_s": round(found.wall_s, 1),
            }
    return report


@contextmanager
def memory_cgroup(limit: int) -> Iterator[tuple[Path | None, str]]:
    """Give a control group with this limit, files held in memory included, or None and why there is none."""
    reasons = []
    for version, (root, name) in CGROUPS.items():
        group = root / f"convert-benchmark-{os.getpid()}"
        try:
            group.mkdir()
        except OSError as error:
            reasons.append(f"{version}: {error.strerror}")
            continue
        try:
            # In a folder that is no control group, the kernel has put nothing.
            if not (group / name).exists():
                reasons.append(f"{version}: {root} has no memory controller")
                continue
            try:
                (group / name).write_text(str(limit))
            except OSError as error:
                reasons.append(f"{version}: {error.strerror}")
                continue
            yield group, f"{version}, {name} = {limit} bytes, which count the kernel's copies of files as well"
            return
        finally:
            with suppress(OSError):
                group.rmdir()
    yield None, f"none could be made: {'; '.join(reasons)}"
