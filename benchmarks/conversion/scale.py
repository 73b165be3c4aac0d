"""The cost of a byte at several sizes, and with few and many output files; each beside a synced copy of the same."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from conversion.processes import (
    GB,
    convert,
    count_weights,
    make_cold,
    make_folder,
    measure,
    remove,
    say,
    size_of,
    spread,
)

# 7B width: bytes of embedding and head, of one text layer and of one vision layer, in GB.
ENDS_GB, TEXT_GB, VISION_GB = 2.27, 0.466, 0.0395
SMALL_VOCABULARY = 8192
SMALL_ENDS_GB = 0.21
# 32 layers at least, for as many stages.
MANY_STAGES = ("--model", "qwen2.5-vl-7b", "--text", "3", "--vision", "29")
LAYOUTS = {1: (1, 1), 8: (2, 4), 128: (4, 32)}
SHARD_GIB = {1: "1000", 8: "0.6", 128: "0.012"}


def measure_scale(work: Path, sizes: list[float], rounds: int) -> dict[str, Any]:
    """Give seconds for a GB, cold, by size and by number of files."""
    report: dict[str, Any] = {"rounds": rounds, "by_size": {}, "by_files": {}}
    hf = work / "hf"
    for size in sizes:
        make_folder(hf, *_model_of(size))
        commands = {
            "import tp2 pp2": ["import", "--hf", hf, "--tp", "2", "--pp", "2"],
            "export": ["export", "--hf", hf],
        }
        report["by_size"][f"{size_of(hf) / GB:.2f} GB"] = _compare(work, hf, commands, rounds)
        remove(hf)
    make_folder(hf, *MANY_STAGES)
    commands = {}
    for count, (tp, pp) in LAYOUTS.items():
        commands[f"import, {count}"] = ["import", "--hf", hf, "--tp", tp, "--pp", pp]
        commands[f"export, {count}"] = ["export", "--hf", hf, "--max-shard-gib", SHARD_GIB[count]]
    report["by_files"] = _compare(work, hf, commands, rounds)
    return report


def _model_of(size_gb: float) -> list[str]:
    """Give a model of about this size: layers of 7B's width, and a small vocabulary where the whole one is too much."""
    small = size_gb < ENDS_GB + 2 * TEXT_GB
    vision = 2 if small else 8
    ends = SMALL_ENDS_GB if small else ENDS_GB
    text = max(2, round((size_gb - ends - vision * VISION_GB) / TEXT_GB))
    model = ["--model", "qwen2.5-vl-7b", "--text", str(text), "--vision", str(vision)]
    return [*model, "--vocabulary", str(SMALL_VOCABULARY)] if small else model


def _compare(work: Path, hf: Path, commands: dict[str, list[Any]], rounds: int) -> dict[str, Any]:
    """Measure every command after a copy of its own."""
    out, size = work / "out", size_of(hf)
    copy = ["sh", "-c", 'cp -r "$0" "$1" && sync -f "$1"', str(hf), str(out)]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    files: dict[str, int] = {}
    memory: dict[str, float] = {}
    for number in range(rounds):
        for name, words in commands.items():
            say(f"{size / GB:.2f} GB, {name}, round {number + 1} of {rounds}")
            make_cold(hf)
            copied = measure(copy)
            remove(out)
            make_cold(hf)
            own = measure(convert(*words, "--out", out))
            files[name] = count_weights(out)
            memory[name] = max(memory.get(name, 0.0), own.memory_mib)
            remove(out)
            seconds[name].append((own.wall_s, copied.wall_s))
    return {
        name: {
            "weights_files": files[name],
            "seconds_per_gb": spread([own / (size / GB) for own, _ in pairs]),
            "cp_sync_seconds_per_gb": round(statistics.median(copied / (size / GB) for _, copied in pairs), 2),
            "ratio_to_cp_sync": spread([own / copied for own, copied in pairs]),
            "memory_mib": round(memory[name], 1),
        }
        for name, pairs in seconds.items()
    }
