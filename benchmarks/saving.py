"""Measure saving and resuming against plain writing and reading of the same bytes; print JSON.

    python benchmarks/saving.py [--dir DIR] [--rounds 5] [--quick]

One process, the `small` model (92 M parameters, fp32: weights and two moments, 1.1 GB; with --quick a quarter of it),
random numbers. In each round, one after another in an order that changes from round to round:

    copy            what a save stops the step for, in seconds: the tensors into host buffers that are there already (a
                    run makes them beside its first steps; without that it takes `unprepared_copy`)
    memcpy          the same bytes between plain arrays of numpy
    save            from the beginning until the checkpoint has its name, in the background, with nothing else to do
    save_in_line    the same with train.save.background = false
    write           the same bytes into one file: write, fsync
    write_checked   that, and SHA-256 of the bytes, which a checkpoint has of each tensor
    resume          open the newest checkpoint, compare all checksums, read weights and moments
    read            the same bytes out of the plain file
    read_checked    that, and SHA-256 of the bytes

Files are taken out of the page cache before they are read. A ratio is the median of the rounds' ratios; `spread` has
the smallest and the largest. A checkpoint is removed before the next one is written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qvl_core.layout import Layout
from qvl_core.params import parameter_table
from qvl_core.specs.hf_config import to_hf_config
from qvl_core.specs.model_spec import ModelSpec
from qvl_train.checkpoint import TrainingState, checkpoint_path, open_checkpoint, read_optimizer, read_weights
from qvl_train.commit import Origin
from qvl_train.save import Saver
from qvl_train.snapshot import Contents
from qvl_train.stored_tensor import StoredTensor
from training.shape import SMALL

ROOT = Path(__file__).resolve().parent.parent
PIECE_BYTES = 1 << 24
PAIRS = (
    ("copy", "memcpy"),
    ("save", "write"),
    ("save", "write_checked"),
    ("save_in_line", "write_checked"),
    ("resume", "read"),
    ("resume", "read_checked"),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, default=ROOT / "runs", help="on the disk that is to be measured")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a quarter of the bytes")
    words, _ = parser.parse_known_args()
    words.dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="saving-", dir=words.dir) as folder:
        bench = Bench(Path(folder), small_spec(quick=words.quick))
        print(json.dumps(bench.report(words.rounds), indent=2))


def small_spec(*, quick: bool) -> ModelSpec:
    """Give the shape `small`; quick: with a quarter of the layers and of the vocabulary."""
    part = 4 if quick else 1
    text = replace(SMALL.text, num_layers=SMALL.text.num_layers // part, vocab_size=SMALL.text.vocab_size // part)
    depth = SMALL.vision.depth // part
    vision = replace(SMALL.vision, depth=depth, full_attention_blocks=(depth - 1,))
    return replace(SMALL, name="qwen2.5-vl-custom", vision=vision, text=text)


class Bench:
    """Contents of a checkpoint in memory, and what is measured on them."""

    def __init__(self, folder: Path, spec: ModelSpec) -> None:
        self._folder, self._spec, self._step = folder, spec, 0
        chance = np.random.default_rng(0)
        rows = parameter_table(spec)
        self._weights = {row.name: chance.random(row.shape, np.float32) for row in rows}
        self._moments = {
            f"{row.name}.{kind}": chance.random(row.shape, np.float32)
            for row in rows
            for kind in ("moment1", "moment2")
        }
        self._arrays = [*self._weights.values(), *self._moments.values()]
        self._plain = [np.zeros_like(array) for array in self._arrays]
        side = folder / "source"
        side.mkdir()
        (side / "config.json").write_text(json.dumps(to_hf_config(spec)))
        self._origin = Origin(spec=spec, side_files=side, source_revision="benchmark")
        self._savers = {in_background: self._saver(in_background) for in_background in (True, False)}

    def report(self, rounds: int) -> dict[str, Any]:
        """Measure some rounds after one that warms up, and give the figures in seconds."""
        unprepared = self._save(in_background=True)[0]
        self._write(checked=False)
        found: dict[str, list[float]] = {}
        for number in range(rounds):
            parts: list[Callable[[], dict[str, float]]] = [self._saves, self._writes, self._reads, self._memcpy]
            for part in parts[number % len(parts) :] + parts[: number % len(parts)]:
                for name, seconds in part().items():
                    found.setdefault(name, []).append(seconds)
        size = sum(array.nbytes for array in self._arrays)
        ratios = {}
        for one, other in PAIRS:
            values = [a / b for a, b in zip(found[one], found[other], strict=True)]
            ratios[f"{one} / {other}"] = {"median": round(statistics.median(values), 3), "spread": _spread(values)}
        seconds = {
            name: {"median": round(statistics.median(times), 4), "spread": _spread(times)}
            for name, times in found.items()
        }
        return {
            "bytes": size,
            "rounds": rounds,
            "unprepared_copy": round(unprepared, 4),
            "seconds": seconds,
            "ratios": ratios,
        }

    def _saver(self, in_background: bool) -> Saver:
        from qvl_core.parallel.single import SingleWorld

        world = SingleWorld(Layout.single(self._spec))
        return Saver(world, self._folder / "run", self._origin, keep=1, in_background=in_background)

    def _save(self, *, in_background: bool) -> tuple[float, float]:
        """Save; give the seconds until the step could go on, and until all was done."""
        self._step += 1
        saver = self._savers[in_background]
        contents = Contents(weights=_stored(self._weights), optimizer=_stored(self._moments))
        state = TrainingState(step=self._step, consumed_samples=0, run_id="benchmark", has_optimizer=True)
        started = time.perf_counter()
        saver.start(state, contents)
        copied = time.perf_counter() - started
        saver.finish()
        return copied, time.perf_counter() - started

    def _saves(self) -> dict[str, float]:
        copy, save = self._save(in_background=True)
        return {"copy": copy, "save": save, "save_in_line": self._save(in_background=False)[1]}

    def _memcpy(self) -> dict[str, float]:
        return {"memcpy": _timed(lambda: [np.copyto(to, a) for to, a in zip(self._plain, self._arrays, strict=True)])}

    def _writes(self) -> dict[str, float]:
        checked = _timed(lambda: self._write(checked=True))
        return {"write": _timed(lambda: self._write(checked=False)), "write_checked": checked}

    def _write(self, *, checked: bool) -> None:
        path = self._folder / "plain"
        path.unlink(missing_ok=True)
        with path.open("wb", buffering=0) as file:
            for array in self._arrays:
                data, digest = array.reshape(-1).view(np.uint8).data, hashlib.sha256()
                for start in range(0, len(data), PIECE_BYTES):
                    if checked:
                        digest.update(data[start : start + PIECE_BYTES])
                    file.write(data[start : start + PIECE_BYTES])
            os.fsync(file.fileno())

    def _reads(self) -> dict[str, float]:
        plain = self._folder / "plain"
        _forget(plain)
        read = _timed(lambda: _read(plain, checked=False))
        _forget(plain)
        checked = _timed(lambda: _read(plain, checked=True))
        newest = checkpoint_path(self._folder / "run", self._step)
        for path in newest.iterdir():
            _forget(path)
        return {"read": read, "read_checked": checked, "resume": _timed(lambda: self._resume(newest))}

    def _resume(self, path: Path) -> None:
        from qvl_core.parallel.mesh import Coordinate

        layout, place = Layout.single(self._spec), Coordinate(pp=0, dp=0, tp=0)
        opened = open_checkpoint(path)
        shapes = {name: array.shape for name, array in self._moments.items()}
        for arrays in (read_weights(opened, layout, place), read_optimizer(opened, layout, place, shapes)):
            for _ in arrays:
                pass


def _stored(arrays: dict[str, NDArray[np.float32]]) -> list[StoredTensor]:
    def one(name: str, array: NDArray[np.float32]) -> StoredTensor:
        return StoredTensor(name=name, dtype="F32", shape=array.shape, read=lambda: array)

    return [one(name, array) for name, array in arrays.items()]


def _read(path: Path, *, checked: bool) -> None:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            if checked:
                digest.update(piece)


def _forget(path: Path) -> None:
    """Take a file out of the page cache, as far as the system agrees."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _spread(values: list[float]) -> list[float]:
    return [round(min(values), 4), round(max(values), 4)]


if __name__ == "__main__":
    main()
