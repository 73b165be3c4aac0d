"""Measure `qvl data check` on generated rows; print JSON.

    python benchmarks/data_check.py [--rows 100000] [--small 10000] [--images 4000] [--rounds 3] [--dir DIR]
                                    [--checkpoint DIR] [--quick]

LLaVA-like rows: one JPEG of 160 to 512 pixels a side (a tenth has none, a tenth two), one to three questions and
answers, most of 150 to 400 tokens, in one JSON Lines file over some thousands of different files. Each round is a new
process of the command with a cold cache folder, and so pays for Python, the tokenizer and the pass over the records.

    seconds        wall time of the whole command, first byte to last; the smallest of the rounds, `spread` all of them
    rows_per_s     rows / seconds
    cpu_s          user and system time of all its processes
    peak_mib       largest resident memory of the command and its workers together, sampled every 50 ms
    growth         peak_mib of `rows` divided by that of `small`: what flat memory means

The rows are the same in every round and on every machine; the files of JPEG differ by the version of Pillow.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
_COMMAND = "from qvl_core.cli.app import main; import sys; sys.exit(main(sys.argv[1:]))"
_RECIPE = """schema = 1
task = "sft"

[model]
name = "qwen2.5-vl-tiny"
dtype = "float32"

[weights]
source = "{checkpoint}"
init = "random"

[data]
sources = [{{ path = "{rows}", format = "llava", media_root = "{media}" }}]
sequence_length = 2048
cache_dir = "{cache}"

[train]
steps = 10
micro_batch = 1
global_batch = 8

[train.optimizer]
name = "adamw"
lr = 1e-4

[launch]
device = "cpu"

[output]
dir = "{cache}/run"
"""
_WORDS = [
    "the",
    "a",
    "of",
    "and",
    "in",
    "is",
    "on",
    "with",
    "to",
    "at",
    "by",
    "man",
    "woman",
    "child",
    "dog",
    "cat",
    "street",
    "table",
    "red",
    "blue",
    "green",
    "wooden",
    "small",
    "large",
    "left",
    "right",
    "behind",
    "standing",
    "sitting",
    "holding",
    "wearing",
    "image",
    "picture",
    "shows",
    "there",
    "are",
    "two",
    "three",
    "people",
    "building",
    "sky",
    "tree",
    "water",
    "window",
    "light",
    "dark",
    "background",
    "foreground",
    "bottle",
    "plate",
    "book",
    "computer",
    "bicycle",
    "train",
    "what",
    "color",
    "how",
    "many",
    "where",
]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--small", type=int, default=10_000, help="rows of the run that memory is compared with")
    parser.add_argument("--images", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=None, help="where the files are made")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "recipes" / "tiny" / "checkpoint")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows and images, one round")
    words, _ = parser.parse_known_args()
    if words.quick:
        words.rows, words.small, words.images, words.rounds = 10_000, 1_000, 400, 1
    with TemporaryDirectory(prefix="data-check-", dir=words.dir) as folder:
        print(json.dumps(measure(Path(folder), words), indent=2))


def measure(folder: Path, words: argparse.Namespace) -> dict[str, Any]:
    """Make the files and measure both sizes."""
    media = folder / "media"
    make_images(media, words.images)
    found: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "images": words.images}
    for name, rows in (("small", words.small), ("large", words.rows)):
        path = folder / f"{name}.jsonl"
        write_rows(path, rows, words.images)
        rounds = [check(folder, path, words.checkpoint, number) for number in range(words.rounds)]
        best = min(rounds, key=lambda one: one["seconds"])
        assert best["records"] == rows, best
        found[name] = {
            "rows": rows,
            "file_mib": round(path.stat().st_size / 2**20, 1),
            **best,
            "rows_per_s": round(rows / best["seconds"]),
            "peak_mib": max(one["peak_mib"] for one in rounds),
            "spread_s": sorted(one["seconds"] for one in rounds),
        }
    found["growth"] = round(found["large"]["peak_mib"] / found["small"]["peak_mib"], 3)
    return found


def make_images(folder: Path, count: int) -> None:
    """Write smooth JPEGs with edges in them, about as large on disk as photographs of their size."""
    folder.mkdir()
    for number in range(count):
        random_of = np.random.default_rng(number)
        height, width = random_of.integers(160, 513, 2).tolist()
        coarse = random_of.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:06d}.jpg", quality=80)


def write_rows(path: Path, count: int, images: int) -> None:
    """Write the rows; row i is the same in every file."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            file.write(json.dumps(_row(random.Random(number), images)) + "\n")


def _row(source: random.Random, images: int) -> dict[str, Any]:
    media = source.choices((0, 1, 2), (1, 8, 1))[0]
    turns = []
    for place in range(source.randint(1, 3)):
        marker = "<image>\n" * media if place == 0 else ""
        turns.append({"from": "human", "value": marker + _sentence(source, 4, 10)})
        turns.append({"from": "gpt", "value": _sentence(source, 4, 30)})
    row: dict[str, Any] = {"id": f"{source.getrandbits(48):012x}", "conversations": turns}
    paths = [f"{source.randrange(images):06d}.jpg" for _ in range(media)]
    return {**row, "image": paths[0] if media == 1 else paths} if media else row


def _sentence(source: random.Random, least: int, most: int) -> str:
    return " ".join(source.choice(_WORDS) for _ in range(source.randint(least, most))).capitalize() + "."


def check(folder: Path, rows: Path, checkpoint: Path, number: int) -> dict[str, Any]:
    """Run the command once with an empty cache folder and watch it."""
    cache = folder / f"cache-{rows.stem}-{number}"
    recipe = folder / f"{rows.stem}.toml"
    recipe.write_text(_RECIPE.format(checkpoint=checkpoint, rows=rows, media=folder / "media", cache=cache))
    command = [sys.executable, "-c", _COMMAND, "data", "check", str(recipe), "--format", "json"]
    before = os.times()
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        peak = _watch(process)
        assert process.stdout is not None
        report = json.loads(process.stdout.read())
    seconds = time.monotonic() - start
    after = os.times()
    assert process.returncode == 0, process.returncode
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {
        "seconds": round(seconds, 2),
        "cpu_s": round(cpu, 2),
        "peak_mib": round(peak / 2**20),
        "records": report["sources"][0]["records"],
        "mean_tokens": round(report["lengths"]["mean"], 1),
        "own_seconds": report["seconds"],
    }


def _watch(process: subprocess.Popen[bytes]) -> int:
    """Give the largest sum of resident bytes of a process and its children until it ends."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(_resident(pid) for pid in _tree(process.pid)))
        time.sleep(0.05)
    return peak


def _tree(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        try:
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


if __name__ == "__main__":
    main()
