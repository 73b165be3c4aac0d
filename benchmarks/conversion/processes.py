"""Run whole processes and measure them: wall-clock and processor time, largest resident size, source cold or warm."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

GB = 1e9
MAKE = Path(__file__).with_name("make_folder.py")
_HIGH_WATER = "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One process: wall-clock and processor seconds, and the largest resident size, MiB."""

    wall_s: float
    cpu_s: float
    memory_mib: float


class FailedError(Exception):
    """A measured process ended with an error; its text is the message."""


def convert(*arguments: str | Path) -> list[str]:
    """Give the command line of `qvl convert`, run by this interpreter."""
    return [sys.executable, "-m", "qvl_core.cli", "convert", *map(str, arguments)]


def measure(command: Sequence[str]) -> Measured:
    """Run one process to its end. Raises FailedError; an interruption ends the process first."""
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True)
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            # Its group, so that a shell's copy ends as well.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        wall = time.perf_counter() - start
        if process.returncode:
            errors.seek(0)
            text = errors.read()[-2000:].decode(errors="replace").strip()
            raise FailedError(f"{' '.join(command)}\nended with {process.returncode}:\n{text}")
    return Measured(wall_s=wall, cpu_s=usage.ru_utime + usage.ru_stime, memory_mib=usage.ru_maxrss / 1024)


def bare_interpreter_mib() -> float:
    """Give the largest size of a Python process that does nothing, as it sees it itself."""
    return int(subprocess.check_output([sys.executable, "-c", _HIGH_WATER])) / 1024


def make_folder(out: Path, *arguments: str) -> int:
    """Write an HF folder (see make_folder.py) and give its bytes."""
    say(f"writing {out.name}")
    done = subprocess.run(
        [sys.executable, str(MAKE), "--out", str(out), *arguments], check=True, stdout=subprocess.PIPE
    )
    return int(json.loads(done.stdout)["bytes"])


def make_cold(folder: Path) -> None:
    """Put everything on the disk, and drop what the kernel holds of the folder's files in memory."""
    os.sync()
    for path in _files(folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def make_warm(folder: Path) -> None:
    """Put everything on the disk, and have the kernel hold the folder's files in memory."""
    os.sync()
    buffer = bytearray(4 * 1024**2)
    for path in _files(folder):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def size_of(folder: Path) -> int:
    """Give the bytes of all files of a folder."""
    return sum(path.stat().st_size for path in _files(folder))


def count_weights(folder: Path) -> int:
    """Give how many weights files a folder has."""
    return sum(path.suffix == ".safetensors" for path in _files(folder))


def remove(*folders: Path) -> None:
    """Remove folders that may be there."""
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)


@contextmanager
def work_folder(parent: Path, needed_gb: float) -> Iterator[Path]:
    """Give a new folder that is removed at the end, whatever happens. Exits where the disk has not the space."""
    parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(parent).free / GB
    if free < needed_gb * 1.05:
        sys.exit(f"{parent}: {needed_gb:.0f} GB are needed, {free:.0f} GB are free; give another --dir")
    folder = Path(tempfile.mkdtemp(prefix="convert-benchmark-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Give median, smallest and largest."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def say(text: str) -> None:
    """Tell what is being done, on stderr."""
    print(f"  {text}", file=sys.stderr, flush=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
