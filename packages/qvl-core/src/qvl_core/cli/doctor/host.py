"""The machine: Python, operating system, cores, memory, limits, locale, and variables of an earlier run."""

from __future__ import annotations

import importlib
import os
import platform
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from qvl_core.cli.doctor.guard import LACKS, PYTHON
from qvl_core.cli.doctor.row import Row
from qvl_core.cli.doctor.versions import installed_version, release
from qvl_core.cli.terminal import bytes_text
from qvl_core.launch.environment import is_left_over

GIB = 1024**3
OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 12)
MACHINES = ("x86_64", "aarch64")
# Below this, the newest wheels of av and pyarrow do not install.
WHEEL_GLIBC = (2, 28)
SHARED_MEMORY = "/dev/shm"  # noqa: S108 (its size is read, nothing is written)
# HCCL opens a file for each connection; CANN's installation notes ask for this many.
ASCEND_OPEN_FILES = 65535


# No package of this time was made later than it: a clock before it is wrong. 2026-01-01, seconds since 1970.
EARLIEST_S = 1_767_225_600
# A clock this far ahead makes every file that others write look old.
LATEST_S = EARLIEST_S + 15 * 366 * 86_400


# Modules that Python is built without, and says so in its log only, where these libraries' headers are missing.
BUILT_WITH = MappingProxyType({"ctypes": "libffi", "ssl": "openssl", "zlib": "zlib", "bz2": "bzip2", "lzma": "xz"})
# MindSpore and the launcher need the first, what reads data the other.
NEEDED_MODULES = ("ctypes", "zlib")
# What cannot be imported without ssl, and whom that stops; the rest of qvl, and MindSpore, can.
SSL_USERS = MappingProxyType(
    {"httpcore2": "transformers, which reads tokenizers", "pyarrow": "Parquet files", "uvicorn": "`qvl serve`"}
)
USERS = MappingProxyType(
    {
        "ssl": "pip, and here by nothing that is installed",
        "bz2": "datasets and pandas, not by qvl",
        "lzma": "datasets and pandas, not by qvl",
    }
)


def check_host() -> Row:
    """Name this machine: reports of several are told apart by it."""
    return Row(check="host", level="ok", evidence=platform.node() or "without a name")


def check_python(version: tuple[int, ...] = sys.version_info[:3], lacking: Sequence[str] | None = None) -> Row:
    """Check that MindSpore has wheels for this Python, and that nothing of Python's own is `lacking`."""
    lacking = [name for name in BUILT_WITH if not _imports(name)] if lacking is None else lacking
    evidence = f"Python {'.'.join(str(part) for part in version)} ({sys.executable})"
    fix = "use Python 3.10 to 3.12, for example: conda create -n qvl python=3.11"
    if not OLDEST_PYTHON <= version[:2] <= NEWEST_PYTHON:
        return Row(check=PYTHON, level="fail", evidence=evidence, fix=fix)
    if not lacking:
        return Row(check=PYTHON, level="ok", evidence=evidence)
    evidence += f"; {LACKS} {', '.join(lacking)}: built on a machine without {_headers(lacking)}"
    fix = f"install {_headers(lacking)} with headers and build Python again, or: conda create -n qvl python=3.11"
    users = [f"{name} ({use})" for name, use in SSL_USERS.items() if installed_version(name) is not None]
    if (set(lacking) & set(NEEDED_MODULES)) or ("ssl" in lacking and users):
        evidence += f"; ssl is needed by {', '.join(users)}" if "ssl" in lacking and users else ""
        return Row(check=PYTHON, level="fail", evidence=evidence, fix=fix)
    evidence += "".join(f"; {name} is needed by {USERS[name]}" for name in lacking)
    return Row(check=PYTHON, level="warn", evidence=evidence, fix=fix)


def _headers(modules: Sequence[str]) -> str:
    return ", ".join(BUILT_WITH[name] for name in modules)


def _imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def check_machine(system: str = "", machine: str = "", libc: tuple[str, str] | None = None) -> Row:
    """Check operating system, architecture and C library against what MindSpore has wheels for."""
    system, machine = system or platform.system(), machine or platform.machine()
    name, version = libc or platform.libc_ver()
    evidence = f"{system} {machine}, {name or 'unknown C library'} {version}, page size {os.sysconf('SC_PAGE_SIZE')}"
    if system != "Linux" or machine not in MACHINES:
        fix = "run qvl on Linux, x86_64 or aarch64; recipes can be checked anywhere"
        return Row(check="machine", level="warn", evidence=evidence, fix=fix)
    if name != "glibc":
        fix = "use a system with glibc (not Alpine): MindSpore has no wheel for others"
        return Row(check="machine", level="fail", evidence=evidence, fix=fix)
    if release(version) < WHEEL_GLIBC:
        fix = "pip install 'av<15' 'pyarrow<21', the last ones for this glibc, or a newer system"
        return Row(check="machine", level="warn", evidence=evidence, fix=fix)
    return Row(check="machine", level="ok", evidence=evidence)


def check_memory(available: int | None = None, cores: int | None = None) -> Row:
    """Check cores and memory; containers count with their own limit."""
    available = available_memory() if available is None else available
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    evidence = f"{cores} core{'' if cores == 1 else 's'}"
    if not available:
        evidence += "; /proc/meminfo, which tells what memory is left, cannot be read"
        return Row(check="memory", level="skipped", evidence=evidence)
    evidence += f", {bytes_text(available)} of memory available"
    if available < 2 * GIB:
        fix = "end other programs, or use a machine with more memory: the tiny recipe needs 2 GiB"
        return Row(check="memory", level="warn", evidence=evidence, fix=fix)
    return Row(check="memory", level="ok", evidence=evidence)


def check_shared_memory(size: int | None = None, *, processes: int = 0, folder: str = SHARED_MEMORY) -> Row:
    """Check /dev/shm, where ranks of one machine talk to each other and to the launcher."""
    if size is None:
        try:
            found = os.statvfs(folder)
            size = found.f_frsize * found.f_blocks
        except OSError as error:
            fix = f"mkdir -p {SHARED_MEMORY}; mount -t tmpfs -o size=8g tmpfs {SHARED_MEMORY}"
            return Row(check="shared-memory", level="warn", evidence=f"{folder}: {error.strerror}", fix=fix)
    evidence = f"{SHARED_MEMORY} has {bytes_text(size)}"
    needed = max(GIB, processes * GIB // 8)
    if size >= needed:
        return Row(check="shared-memory", level="ok", evidence=evidence)
    evidence += f"; {bytes_text(needed)} are wanted" if processes else ""
    fix = "start the container with --shm-size=8g, or use data.workers = 0"
    return Row(check="shared-memory", level="warn", evidence=evidence, fix=fix)


def check_open_files(
    soft: int | None = None, hard: int | None = None, *, ascend: bool = False, processes: int = 0
) -> Row:
    """Check the limit of open files; NPU runs need many. Nobody but root may go above the `hard` limit."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = limits[0] if soft is None else soft, limits[1] if hard is None else hard
    # On CPU a rank holds some dozens: libraries, logs, sockets to the others, media of its workers.
    needed = ASCEND_OPEN_FILES if ascend else max(1024, 256 + 64 * processes)
    evidence = "no limit" if soft == resource.RLIM_INFINITY else f"{soft} open files allowed"
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return Row(check="open-files", level="ok", evidence=evidence)
    fix = f"ulimit -n {needed}"
    if hard != resource.RLIM_INFINITY and hard < needed:
        evidence += f", at most {hard} for this user"
        fix = (
            f"in a container: start it with --ulimit nofile={needed}:{needed}; else nofile in /etc/security/limits.conf"
        )
    return Row(check="open-files", level="warn", evidence=evidence, fix=fix)


def check_locale(encoding: str | None = None) -> Row:
    """Check that text is UTF-8 by default: prompts and answers are not ASCII."""
    encoding = sys.getfilesystemencoding() if encoding is None else encoding
    if encoding.lower().replace("-", "") == "utf8":
        return Row(check="locale", level="ok", evidence=f"text is {encoding}")
    return Row(check="locale", level="warn", evidence=f"text is {encoding}, not UTF-8", fix="export LANG=C.UTF-8")


def check_clock(now: float | None = None) -> Row:
    """Check that the clock is no nonsense: caches, logs and certificates go by it."""
    now = time.time() if now is None else now
    evidence = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if EARLIEST_S <= now <= LATEST_S:
        return Row(check="clock", level="ok", evidence=evidence)
    return Row(check="clock", level="warn", evidence=f"{evidence} cannot be right", fix="set the clock, or start ntpd")


def check_home(environment: Mapping[str, str], umask: int | None = None) -> Row:
    """Check the home folder, where CANN and compilers keep logs and caches, and whom new files are readable to."""
    home = environment.get("HOME", "")
    if not home or not Path(home).is_dir() or not os.access(home, os.W_OK | os.X_OK):
        evidence = f"HOME is {home or 'not set'}, which is no folder that this user may write to"
        return Row(check="home", level="warn", evidence=evidence, fix="export HOME=DIR with a writable folder")
    if umask is None:
        # The only way to read it is to set it.
        umask = os.umask(0o022)
        os.umask(umask)
    evidence = f"{home}, umask {umask:03o}"
    if umask & 0o700:
        return Row(check="home", level="warn", evidence=f"{evidence}: own files are closed to us", fix="umask 022")
    return Row(check="home", level="ok", evidence=evidence)


def check_variables(environment: Mapping[str, str]) -> Row:
    """Check for launch variables that an earlier run left in this shell, and for LD_PRELOAD."""
    evidence = []
    leaked = sorted(name for name in environment if is_left_over(name))
    if leaked:
        evidence.append(f"left over from an earlier run: {', '.join(leaked)}; `qvl run` does not pass them on")
    if environment.get("LD_PRELOAD"):
        evidence.append(f"LD_PRELOAD is {environment['LD_PRELOAD']}: it stays only if you know that a library needs it")
        leaked.append("LD_PRELOAD")
    if evidence:
        return Row(check="variables", level="warn", evidence="; ".join(evidence), fix=f"unset {' '.join(leaked)}")
    return Row(check="variables", level="ok", evidence="no launch variables left over in this shell")


def available_memory() -> int:
    """Give the bytes that can still be allocated: the machine's, or the container's where that is less."""
    system = _first_number(Path("/proc/meminfo"), "MemAvailable:") * 1024
    limit = _first_number(Path("/sys/fs/cgroup/memory.max"))
    used = _first_number(Path("/sys/fs/cgroup/memory.current"))
    return min(system, limit - used) if 0 < used < limit else system


def _first_number(path: Path, label: str = "") -> int:
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    words = next((line.removeprefix(label).split() for line in lines if line.startswith(label)), [])
    return int(words[0]) if words and words[0].isdigit() else 0
