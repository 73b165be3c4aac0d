"""Each check of the machine: the finding that it warns of, and its neighbour that is fine."""

from __future__ import annotations

from pathlib import Path

import pytest
from qvl_core.cli.doctor import host
from qvl_core.cli.doctor.host import GIB


@pytest.mark.parametrize(
    ("version", "level"), [((3, 9, 18), "fail"), ((3, 10, 0), "ok"), ((3, 12, 4), "ok"), ((3, 13, 0), "fail")]
)
def test_python(version: tuple[int, int, int], level: str) -> None:
    row = host.check_python(version)
    assert row.level == level
    assert ("conda create" in row.fix) == (level == "fail")


@pytest.mark.parametrize(
    ("lacking", "level", "said"),
    [
        (("ctypes",), "fail", "it lacks ctypes: built on a machine without libffi"),
        (("zlib", "lzma"), "fail", "without zlib, xz"),
        (("bz2", "lzma"), "warn", "without bzip2, xz; bz2 is needed by datasets"),
        ((), "ok", "Python 3.11.4"),
    ],
)
def test_a_python_without_modules_of_its_own(lacking: tuple[str, ...], level: str, said: str) -> None:
    row = host.check_python((3, 11, 4), lacking)
    assert row.level == level
    assert said in row.evidence
    assert ("build Python again" in row.fix) == bool(lacking)


@pytest.mark.parametrize(
    ("installed", "level", "said"),
    [
        ("httpcore2", "fail", "; ssl is needed by httpcore2 (transformers, which reads tokenizers)"),
        ("pyarrow", "fail", "; ssl is needed by pyarrow (Parquet files)"),
        ("uvicorn", "fail", "; ssl is needed by uvicorn (`qvl serve`)"),
        ("numpy", "warn", "; ssl is needed by pip, and here by nothing that is installed"),
    ],
)
def test_a_python_without_ssl_fails_where_something_needs_it(
    monkeypatch: pytest.MonkeyPatch, installed: str, level: str, said: str
) -> None:
    monkeypatch.setattr(host, "installed_version", lambda name: "1.0" if name == installed else None)
    row = host.check_python((3, 11, 4), ("ssl",))
    assert (row.level, row.evidence.partition("openssl")[2]) == (level, said)
    assert "install openssl with headers" in row.fix


@pytest.mark.parametrize(
    ("system", "machine", "libc", "level"),
    [
        ("Linux", "x86_64", ("glibc", "2.36"), "ok"),
        ("Linux", "aarch64", ("glibc", "2.28"), "ok"),
        ("Linux", "aarch64", ("glibc", "2.17"), "warn"),
        ("Linux", "x86_64", ("", ""), "fail"),
        ("Linux", "riscv64", ("glibc", "2.36"), "warn"),
        ("Darwin", "arm64", ("", ""), "warn"),
    ],
)
def test_machine(system: str, machine: str, libc: tuple[str, str], level: str) -> None:
    row = host.check_machine(system, machine, libc)
    assert row.level == level
    assert bool(row.fix) == (level != "ok")


def test_memory_counts_in_gib() -> None:
    assert host.check_memory(1 * GIB, 1).level == "warn"
    row = host.check_memory(8 * GIB, 2)
    assert (row.level, row.evidence) == ("ok", "2 cores, 8.00 GiB of memory available")


def test_shared_memory() -> None:
    assert "--shm-size" in host.check_shared_memory(64 * 1024**2).fix
    assert host.check_shared_memory(GIB).level == "ok"


def test_open_files_matter_more_with_npus() -> None:
    assert host.check_open_files(1024).level == "ok"
    assert host.check_open_files(256, 1 << 20).fix == "ulimit -n 1024"
    assert host.check_open_files(1024, 1 << 20, ascend=True).fix == "ulimit -n 65535"
    assert host.check_open_files(65535, ascend=True).level == "ok"
    assert host.check_open_files(-1, ascend=True).level == "ok"


def test_locale() -> None:
    assert host.check_locale("ascii").fix == "export LANG=C.UTF-8"
    assert host.check_locale("utf-8").level == "ok"


def test_variables_of_an_earlier_run() -> None:
    row = host.check_variables({"MS_ROLE": "MS_WORKER", "RANK_ID": "0", "HOME": "/root"})
    assert (row.level, row.fix) == ("warn", "unset MS_ROLE RANK_ID")
    assert host.check_variables({"LD_PRELOAD": "libx.so"}).level == "warn"
    assert host.check_variables({"HOME": "/root"}).level == "ok"


def test_variables_of_an_earlier_run_do_not_hide_a_preload() -> None:
    row = host.check_variables({"MS_ROLE": "x", "LD_PRELOAD": "/nope"})
    assert "MS_ROLE" in row.evidence
    assert "LD_PRELOAD is /nope" in row.evidence
    assert row.fix == "unset MS_ROLE LD_PRELOAD"


def test_everything_can_be_read_on_this_machine() -> None:
    rows = [host.check_machine(), host.check_memory(), host.check_shared_memory(), host.check_open_files()]
    assert all(row.evidence for row in rows)


def test_a_clock_that_cannot_be_right() -> None:
    assert host.check_clock(host.EARLIEST_S + 1.0).level == "ok"
    assert host.check_clock(0.0).level == "warn"
    assert host.check_clock(1e11).level == "warn"


def test_home_and_umask(tmp_path: Path) -> None:
    assert host.check_home({"HOME": str(tmp_path)}, 0o022).level == "ok"
    assert host.check_home({}, 0o022).level == "warn"
    assert host.check_home({"HOME": str(tmp_path / "none")}, 0o022).level == "warn"
    assert host.check_home({"HOME": str(tmp_path)}, 0o700).fix == "umask 022"


def test_many_processes_want_more_files_and_shared_memory() -> None:
    assert host.check_open_files(1024, processes=8).level == "ok"
    assert host.check_open_files(1024, processes=64).fix == "ulimit -n 4352"
    assert host.check_shared_memory(2 * host.GIB, processes=16).level == "ok"
    assert host.check_shared_memory(2 * host.GIB - 1, processes=16).level == "warn"


def test_a_hard_limit_of_open_files_is_raised_where_it_is_set() -> None:
    assert host.check_open_files(1024, 1 << 20, ascend=True).fix == "ulimit -n 65535"
    row = host.check_open_files(1024, 20_000, ascend=True)
    assert row.evidence == "1024 open files allowed, at most 20000 for this user"
    assert "--ulimit nofile=65535:65535" in row.fix


def test_no_shared_memory_at_all(tmp_path: Path) -> None:
    row = host.check_shared_memory(folder=str(tmp_path / "shm"))
    assert (row.level, row.evidence) == ("warn", f"{tmp_path / 'shm'}: No such file or directory")
    assert "mount -t tmpfs" in row.fix


def test_memory_that_nobody_tells_is_no_memory_of_zero() -> None:
    row = host.check_memory(0, 4)
    assert (row.level, row.evidence.startswith("4 cores; /proc/meminfo")) == ("skipped", True)
