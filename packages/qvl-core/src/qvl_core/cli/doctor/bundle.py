"""`qvl doctor --bundle FILE`: what somebody who helps needs to see of this machine, masked, in one archive."""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import io
import json
import os
import platform
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.cli.doctor import ascend, report
from qvl_core.cli.doctor.masking import SECRET_NAME, Mask
from qvl_core.cli.doctor.row import Row
from qvl_core.cli.doctor.versions import installed
from qvl_core.errors import InputError, OutputError, Problem
from qvl_core.input_file import printable, read_regular_file

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe

# Beside the families: where programs and libraries are looked for, threads, and our own.
SHOWN = ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "LANG", "LC_ALL", "OMP_NUM_THREADS", "QVL_KERNELS")
_PREFIXES = ("DEVICE_", "OMPI_", "PMIX_", "RANK", "LOCAL_RANK", "WORLD_SIZE")
_HOSTS = ("HOSTNAME", "HOST", "MASTER_ADDR", "MS_SCHED_HOST", "SLURMD_NODENAME", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
_USERS = ("USER", "LOGNAME", "SUDO_USER", "USERNAME")
_MOST_RECIPE = 1 << 20
# A machine in the text of a recipe that cannot be loaded: under a name that says so, or in quotes with its port.
_HOST_VALUE = re.compile(
    rf"""(?i)(?<![A-Za-z0-9])(?:\w*master\w*|{"|".join(_HOSTS)})["']?\s*[:=]\s*["']*([A-Za-z0-9_.-]+)"""
    r"""|["']([A-Za-z0-9_.-]+):\d*["']"""
)
_BASE = re.compile(r"""(?m)^\s*["']?extends["']?\s*=\s*["']+([^"'\n]+)""")
# The same for all: a clock before 1980, as a machine may have, cannot be written in a .zip.
_DATE = (2026, 1, 1, 0, 0, 0)
README = """\
Made by `qvl doctor --bundle` for an issue. Please look through it before you pass it on.

It holds: what the doctor found (doctor.txt, doctor.json), versions of installed packages (packages.txt), variables of
CANN, HCCL, MindSpore and where programs are looked for (environment.txt), what npu-smi info says (npu-smi.txt, where
there is one) and the recipe as it was resolved (recipe.json, with --recipe; recipe.toml where it cannot be loaded).
No data, no weights, no logs, and no other variables.

Masked: access tokens, passwords and values of variables that are named like one; user names and home folders; names of
this machine and of those in the recipe; addresses of networks and mail; other long random words. Equal names and
addresses are equal words. Names in other paths, of projects and files, stay: only you can tell whether they matter.
"""


def require_place(path: Path) -> None:
    """Raise OutputError unless the archive can be written there: a .zip that does not exist, in a folder that does."""
    where = printable(str(path))
    if path.suffix != ".zip":
        raise OutputError(Problem(where=where, key="--bundle", message="is no .zip", fix="--bundle doctor.zip"))
    if os.path.lexists(path):
        fix = "give another name, or remove it"
        raise OutputError(Problem(where=where, key="--bundle", message="exists, and is not replaced", fix=fix))
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        message = f"the folder {printable(str(path.parent))} does not exist, or you may not write there"
        raise OutputError(Problem(where=where, key="--bundle", message=message, fix="--bundle doctor.zip"))


def write(path: Path, rows: Sequence[Row], environment: Mapping[str, str], recipe: str | None) -> list[str]:
    """Write the archive, for its owner's eyes only; give the names of the files in it. Raises OutputError.

    It is there whole or not at all. What is no text (bytes of a variable that are no UTF-8) is written escaped.
    """
    loaded = _loaded(recipe)
    written = _plain(recipe) if recipe and loaded is None else ""
    mask = mask_of(environment, loaded, written=f"{written}\n{_base(recipe or '', written)}")
    texts = list(_texts(rows, environment, loaded, written, mask))
    data = _archive(texts)
    require_place(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "xb", opener=_owners) as file:
            file.write(data)
        require_place(path)
        part.rename(path)
    except OSError as error:
        message = f"cannot be written: {error.strerror}"
        fix = "--bundle FILE on another disk"
        raise OutputError(Problem(where=printable(str(path)), key="--bundle", message=message, fix=fix)) from None
    finally:
        # Gone where it was renamed; what is left is of an error, or of Ctrl-C.
        with contextlib.suppress(OSError):
            part.unlink()
    return [name for name, _ in texts]


def _archive(texts: Sequence[tuple[str, str]]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, text in texts:
            entry = zipfile.ZipInfo(name, date_time=_DATE)
            entry.external_attr = 0o600 << 16
            archive.writestr(entry, text.encode("utf-8", "backslashreplace"), _compression())
    return held.getvalue()


def _compression() -> int:
    # A Python that was built without zlib is one of the things that the doctor tells.
    return zipfile.ZIP_DEFLATED if importlib.util.find_spec("zlib") else zipfile.ZIP_STORED


def mask_of(environment: Mapping[str, str], recipe: Recipe | None, *, written: str = "") -> Mask:
    """Give the mask of this machine, this user, and the machines that a recipe and this shell name.

    `written` is the text of a recipe that cannot be loaded.
    """
    home = environment.get("HOME", "")
    users = [*(environment.get(name, "") for name in _USERS), Path(home).name, _login()]
    hosts = [platform.node(), *(environment.get(name, "") for name in _HOSTS)]
    if recipe is not None:
        hosts.append(recipe.launch.master.rpartition(":")[0])
    hosts += [found[1] or found[2] for found in _HOST_VALUE.finditer(written)]
    return Mask(environment, users=users, hosts=hosts, home=home, versions=dict(_installed()))


def _texts(
    rows: Sequence[Row], environment: Mapping[str, str], loaded: Recipe | None, written: str, mask: Mask
) -> Iterator[tuple[str, str]]:
    """Yield name and text of each file, masked: what becomes JSON before it is written, or its quotes might suffer."""
    masked = [replace(row, evidence=mask.text(row.evidence), fix=mask.text(row.fix)) for row in rows]
    yield "README.txt", README
    yield "doctor.txt", report.as_text(masked) + "\n"
    yield "doctor.json", report.as_json(masked) + "\n"
    yield "packages.txt", mask.text(_packages())
    yield "environment.txt", mask.text(_variables(environment))
    answer = ascend.ask_npu_smi(environment)
    if not answer.absent:
        yield "npu-smi.txt", mask.text(answer.text or f"{answer.fault}\n")
    if loaded is not None:
        yield "recipe.json", json.dumps(mask.value(loaded.resolved()), indent=2, ensure_ascii=False, default=str) + "\n"
    elif written:
        yield "recipe.toml", mask.text(written)


def _loaded(recipe: str | None) -> Recipe | None:
    if recipe is None:
        return None
    from qvl_core.recipe import load_recipe

    try:
        return load_recipe(recipe)
    except InputError:
        return None


def _plain(recipe: str) -> str:
    try:
        return read_regular_file(Path(recipe), limit=_MOST_RECIPE, error_type=InputError).decode("utf-8", "replace")
    except InputError:
        return ""


def _base(recipe: str, written: str) -> str:
    """Give the text of the recipe that this one extends, as problems may name its machines; "" where there is none."""
    found = _BASE.search(written)
    return _plain(str(Path(recipe).parent / found[1])) if found and "\0" not in found[1] else ""


def _installed() -> set[tuple[str, str]]:
    return set(installed())


def _packages() -> str:
    found = sorted(_installed(), key=lambda one: one[0].lower())
    return "".join(f"{name}=={version}\n" for name, version in found)


def _variables(environment: Mapping[str, str]) -> str:
    from qvl_core.recipe.environment_rules import FAMILIES, LAUNCHER, RECIPE_KEYS

    chosen = (*SHOWN, *LAUNCHER, *RECIPE_KEYS)
    names = sorted(name for name in environment if name.startswith((*FAMILIES, *_PREFIXES)) or name in chosen)
    lines = [f"{printable(name, 100)}={printable(_shown(name, environment[name]), 4000)}\n" for name in names]
    return "".join(lines) or "none is set\n"


def _shown(name: str, value: str) -> str:
    return "<secret>" if SECRET_NAME.search(name) else value


def _owners(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
