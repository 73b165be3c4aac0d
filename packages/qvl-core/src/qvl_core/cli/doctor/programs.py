"""Programs and libraries beside MindSpore: what starts processes, and what decodes media. Nothing heavy is imported."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from qvl_core.cli.doctor.row import Row
from qvl_core.cli.doctor.versions import installed_version

DEADLINE_S = 20.0
# Decodes one image of each common format from memory, and asks PyAV for the decoder of most videos.
_DECODERS = """
import io
from PIL import Image
for kind in ("JPEG", "PNG", "WEBP"):
    held = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 100, 50)).save(held, kind)
    assert Image.open(io.BytesIO(held.getvalue())).convert("RGB").size == (8, 8), kind
import av
av.codec.Codec("h264", "r")
print("ok")
"""


def check_starters(environment: Mapping[str, str]) -> Row:
    """Check what starts several processes: msrun on Ascend, Open MPI's mpiexec with mpi4py on CPU."""
    path = environment.get("PATH")
    beside = Path(sys.executable).parent
    found = [
        name for name in ("msrun", "mpiexec") if (beside / name).exists() or shutil.which(name, path=path) is not None
    ]
    bindings = importlib.util.find_spec("mpi4py") is not None
    evidence = f"{', '.join(found) or 'neither msrun nor mpiexec'}; mpi4py {'is' if bindings else 'is not'} installed"
    # msrun is a script that imports MindSpore: without that it is no use.
    starts = "msrun" in found and importlib.util.find_spec("mindspore") is not None
    if starts or ("mpiexec" in found and bindings):
        return Row(check="starters", level="ok", evidence=evidence)
    fix = "Ascend: msrun comes with MindSpore; CPU: pip install 'qvl-train[mpi]'. One process needs neither"
    return Row(check="starters", level="warn", evidence=evidence, fix=fix)


def check_decoders(environment: Mapping[str, str]) -> Row:
    """Check that images and videos can be decoded, in a child process: a broken library must not break the doctor."""
    name = "decoders"
    if installed_version("qvl-data") is None and installed_version("qvl-eval") is None:
        return Row(check=name, level="skipped", evidence="qvl-data is not installed: nothing decodes media")
    missing = [package for package in ("pillow", "av") if installed_version(package) is None]
    if missing:
        evidence = f"{' and '.join(missing)} not installed"
        return Row(check=name, level="fail", evidence=evidence, fix=f"pip install {' '.join(missing)}")
    fix = "pip install --force-reinstall av pillow"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _DECODERS],
            env=dict(environment),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Row(check=name, level="fail", evidence=f"did not decode a picture: {error}"[:200], fix=fix)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Row(check=name, level="fail", evidence=last[:200], fix=fix)
    return Row(check=name, level="ok", evidence="JPEG, PNG, WEBP and H.264 decode")
