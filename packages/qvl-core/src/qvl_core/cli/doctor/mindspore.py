"""MindSpore: whether it is there, for this machine, in a tested version, and able to compute. Never imported here."""

from __future__ import annotations

import importlib.util
import platform
import re
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from qvl_core.cli.doctor.cann import OLDEST_MINDSPORE
from qvl_core.cli.doctor.child import Runner, last_line, not_started, run_child, run_watched
from qvl_core.cli.doctor.packages import check_mindspore_requirements
from qvl_core.cli.doctor.row import Row
from qvl_core.cli.doctor.versions import installed_version, is_importable, release
from qvl_core.launch.known_messages import known_in

OLDEST, NEWEST = OLDEST_MINDSPORE, (2, 10)
# The first version with wheels for Python 3.12.
FIRST_FOR_PYTHON_312 = (2, 7, 2)
ELF_MACHINES = {0x3E: "x86_64", 0xB7: "aarch64"}
# The mark of a Python in the names of extensions.
_PYTHON_TAG = re.compile(r"cpython-\d+")
_OWN_TAG = f"cpython-{sys.version_info[0]}{sys.version_info[1]}"
# What MindSpore's wheels are linked against.
NEWEST_SYMBOL = b"GLIBCXX_3.4.26"
# A conda environment's own comes first; then Debian's, Red Hat's and openEuler's places.
LIBRARY_FOLDERS = (
    Path(sys.prefix) / "lib",
    *(Path(f"/usr/lib/{machine}-linux-gnu") for machine in ("x86_64", "aarch64")),
    *(Path(folder) for folder in ("/usr/lib64", "/lib64", "/usr/lib")),
)
# On a busy two-core machine the import alone takes ten seconds.
DEADLINE_S = 60.0

# d/dw sum(x @ w) is the column sums of x, [4, 6]: a product and a gradient, through the same calls as the model.
SMOKE = """
import numpy, mindspore
mindspore.set_device("{device}")
x = mindspore.Tensor(numpy.array([[1, 2], [3, 4]], numpy.float32))
w = mindspore.Tensor(numpy.ones((2, 1), numpy.float32))
loss, slope = mindspore.value_and_grad(lambda w: mindspore.ops.matmul(x, w).sum())(w)
assert float(loss.asnumpy()) == 10.0, loss
assert slope.asnumpy().ravel().tolist() == [4.0, 6.0], slope
print("ok")
"""

# What has nothing to look at without MindSpore.
LATER = ("mindspore-wheel", "mindspore-version", "libstdcxx", "mindspore-requirements", "mindspore-run")


def check_mindspore(
    environment: Mapping[str, str], *, needed: bool, ascend: bool, run: Runner = run_watched
) -> list[Row]:
    """Check MindSpore from presence to a computation in a child process; later checks are skipped after a failure.

    `needed` tells whether a package is installed that runs a model, `ascend` whether NPUs are meant to be used.
    """
    present = _presence(needed, ascend)
    rows = [present]
    if present.level != "ok":
        return [
            *rows,
            *(_skipped(name, present.check) for name in LATER),
        ]
    wheel = check_wheel(_folder())
    found = installed_version("mindspore")
    version = _skipped("mindspore-version", "metadata") if found == "" else check_version(found or "")
    rows += [wheel, version, check_libstdcxx(), check_mindspore_requirements()]
    cause = next((row.check for row in rows if row.level == "fail"), "")
    rows.append(_skipped("mindspore-run", cause) if cause else check_run(environment, run))
    return rows


def check_version(version: str, python: tuple[int, ...] = sys.version_info[:2]) -> Row:
    """Check that the version is one that our tests run on, and that it fits this Python."""
    name, found = "mindspore-version", release(version)
    if not found:
        evidence = "the version is unknown: not installed by pip"
        fix = "python -m qvl_core.conformance"
        return Row(check=name, level="warn", evidence=evidence, fix=fix)
    if found[:2] < OLDEST:
        evidence = f"{version} is older than {OLDEST[0]}.{OLDEST[1]}"
        return Row(check=name, level="fail", evidence=evidence, fix="pip install 'mindspore>=2.7.0,<2.11'")
    if found[:2] > NEWEST:
        evidence = f"{version} is newer than the newest tested, {NEWEST[0]}.{NEWEST[1]}"
        fix = "python -m qvl_core.conformance before you trust it: some versions compute silently wrong"
        return Row(check=name, level="warn", evidence=evidence, fix=fix)
    if python >= (3, 12) and found < FIRST_FOR_PYTHON_312:
        evidence = f"{version} has no build for Python {python[0]}.{python[1]}"
        return Row(check=name, level="fail", evidence=evidence, fix="use Python 3.11, or MindSpore 2.7.2 or newer")
    return Row(check=name, level="ok", evidence=f"{version} is in the tested range 2.7 to 2.10")


def check_wheel(folder: Path, machine: str = "", python: str = _OWN_TAG) -> Row:
    """Check that MindSpore's extension was built for this machine and Python; pip installs others without a word."""
    name, machine = "mindspore-wheel", machine or platform.machine()
    library = _extension(folder, machine, python)
    built_for = elf_machine(library) if library else None
    if built_for is None:
        evidence = f"no extension _c_expression*.so in {folder}" if library is None else f"{library} is no ELF file"
        fix = "pip install --force-reinstall --no-cache-dir mindspore"
        return Row(check=name, level="fail", evidence=evidence, fix=fix)
    if built_for != machine:
        evidence = f"built for {built_for}, this machine is {machine}"
        fix = "pip install --force-reinstall --no-cache-dir mindspore, on this machine"
        return Row(check=name, level="fail", evidence=evidence, fix=fix)
    assert library is not None
    found = _PYTHON_TAG.search(library.name)
    if found and found[0] != python:
        evidence = f"{library.name} is of another Python than this one, {python}"
        fix = "pip install --force-reinstall --no-cache-dir mindspore, with this Python; is PYTHONPATH another's?"
        return Row(check=name, level="fail", evidence=evidence, fix=fix)
    return Row(check=name, level="ok", evidence=f"built for {built_for}, as this machine is")


def _extension(folder: Path, machine: str, python: str) -> Path | None:
    """Give the extension that this Python imports: of its own tag, else without one; one of another if none is here.

    A folder that several Pythons or machines share holds one for each; `cpython-311-x86_64-linux-gnu` names both.
    """

    def strangeness(library: Path) -> tuple[bool, bool, bool, str]:
        tag = _PYTHON_TAG.search(library.name)
        is_other = tag is not None and tag[0] != python
        return is_other, tag is None, machine not in library.name, library.name

    return min(folder.glob("_c_expression*.so"), key=strangeness, default=None)


def check_libstdcxx(folders: Sequence[Path] = LIBRARY_FOLDERS) -> Row:
    """Check that a C++ library as new as MindSpore needs is installed: GCC 9's or newer."""
    name = "libstdcxx"
    found = [path for folder in folders if (path := folder / "libstdc++.so.6").exists()]
    if not found:
        return Row(check=name, level="skipped", evidence="no libstdc++.so.6 where it usually lies")
    for path in found:
        try:
            if NEWEST_SYMBOL in path.read_bytes():
                return Row(check=name, level="ok", evidence=f"{path} has {NEWEST_SYMBOL.decode()}")
        except OSError:
            continue
    evidence = f"{found[0]} has no {NEWEST_SYMBOL.decode()}"
    fix = "conda install libstdcxx-ng, or a system with GCC 9 or newer"
    return Row(check=name, level="warn", evidence=evidence, fix=fix)


def check_run(environment: Mapping[str, str], run: Runner) -> Row:
    """Check that MindSpore imports and computes on the CPU, in a child process with a deadline."""
    fix = "see the first error; often a missing libstdc++ (conda install libstdcxx-ng) or a half-installed wheel"
    late = "unset the variables named above, if any, and run the doctor again"
    variables = {**environment, "MS_DEV_HOST_BLOCKING_RUN": "1"}
    return _computes("mindspore-run", "the CPU", variables, run, fix=fix, late=late)


def check_device_run(environment: Mapping[str, str], run: Runner = run_child) -> Row:
    """Check that MindSpore computes on an NPU: the same product and gradient, in a child process with a deadline."""
    fix = "the rows above name what CANN and driver lack; else search this line in docs/environment.md"
    late = "npu-smi info: is the device free and healthy? Then source CANN's set_env.sh and try again"
    return _computes("npu-run", "an NPU", environment, run, fix=fix, late=late)


def _computes(check: str, where: str, environment: Mapping[str, str], run: Runner, *, fix: str, late: str) -> Row:
    program = SMOKE.format(device="Ascend" if check == "npu-run" else "CPU")
    try:
        done = run([sys.executable, "-c", program], {**environment, "GLOG_v": "3"}, DEADLINE_S)
    except OSError as error:
        evidence, fix = not_started(error)
        return Row(check=check, level="fail", evidence=evidence, fix=fix)
    except subprocess.TimeoutExpired as error:
        evidence = f"did not compute a 2 x 2 product on {where} within {error.timeout:.0f} s"
        return Row(check=check, level="fail", evidence=evidence, fix=late)
    if done.returncode == 0:
        return Row(check=check, level="ok", evidence=f"a product and its gradient are right on {where}")
    if known := known_in(done.stderr.splitlines()):
        evidence = f"{known[0].line[:200]}: {known[0].known.cause}"
        return Row(check=check, level="fail", evidence=evidence, fix=known[0].known.fix)
    return Row(check=check, level="fail", evidence=last_line(done), fix=fix)


def elf_machine(library: Path) -> str | None:
    """Give the architecture in an ELF file's header; None for a file of another kind."""
    try:
        with library.open("rb") as file:
            head = file.read(20)
    except OSError:
        return None
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return None
    # Byte 5 is the byte order, bytes 18 and 19 the machine (System V ABI, ELF header).
    (code,) = struct.unpack("<H" if head[5] == 1 else ">H", head[18:20])
    return ELF_MACHINES.get(code, f"machine {code:#x}")


def _presence(needed: bool, ascend: bool) -> Row:
    version = installed_version("mindspore")
    if is_importable("mindspore"):
        return Row(check="mindspore", level="ok", evidence=f"{version or 'of unknown version'} in {_folder()}")
    fix = "install the MindSpore build that pairs with your CANN" if ascend else "pip install 'qvl-core[mindspore]'"
    evidence = "not installed: recipes, conversion and scoring work, models do not run"
    return Row(check="mindspore", level="fail" if needed else "warn", evidence=evidence, fix=fix)


def _folder() -> Path:
    spec = importlib.util.find_spec("mindspore")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else Path()


def _skipped(name: str, cause: str) -> Row:
    return Row(check=name, level="skipped", evidence=f"an earlier check failed: {cause}")
