"""Random scripts, with bash as the judge: no value is wrong without a remark."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from generated_scripts import FILES, NAMES, Script
from qvl_core.migrate.shell_options import read_command
from qvl_core.migrate.shell_script import read_script
from qvl_core.migrate.shell_text import GAP, Text

# Prints the arguments and the variables that it is given, each with a zero byte behind it.
STUB = """#!/bin/bash
{
  printf '%s\\0' "$@" "--end"
  for n in A B C D E F SEEN; do printf '%s=%s\\0' "$n" "${!n-}"; done
  printf 'next\\0'
} >> "$OUT"
"""
# Bash gives a command up where its arithmetic fails: what such a script means is not asked here.
FAILED = ("error token", "bad substitution", "substring expression", "unexpected")
# Remarks that say where a value comes from, not that it may be another.
SURE = ("beside the script", "its default, unless", "a loop starts the program", "the program is started by")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed, and it is the judge")
    path = tmp_path_factory.mktemp("scripts")
    for name, text in FILES.items():
        (path / name).write_text(text)
    (path / "bin").mkdir()
    (path / "bin" / "msrun").write_text(STUB)
    (path / "bin" / "msrun").chmod(0o755)
    return path


def started_by_bash(text: str, folder: Path) -> tuple[dict[str, tuple[str, ...]], dict[str, str]] | None:
    """Give options and exported variables of the first start; None where bash does not get so far."""
    (folder / "f.sh").write_text(text)
    out = folder / "out"
    out.write_text("")
    environment = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "OUT": str(out), "HOME": "/"}
    # In a session of its own: a script that starts itself for ever is ended as a whole.
    bash = subprocess.Popen(
        ["bash", "f.sh"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = bash.communicate(timeout=300)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(bash.pid, signal.SIGKILL)
    if any(text in errors for text in FAILED) or "next\0" not in out.read_text():
        return None
    arguments, _, given = out.read_text().partition("next\0")[0].partition("--end\0")
    words = [Text("msrun", (1,) * 5), *(Text(word, (1,) * max(1, len(word))) for word in arguments.split("\0")[:-1])]
    options = {option.name: option.values for option in read_command(words).options}
    return options, dict(row.split("=", 1) for row in given.split("\0")[:-1])


@pytest.mark.parametrize("strange", [False, True], ids=["known", "strange"])
@pytest.mark.parametrize("seed", range(0, 160, 20))
def test_random_scripts_mean_what_they_mean_to_bash(seed: int, strange: bool, folder: Path) -> None:
    judged = 0
    for number in range(seed, seed + 20):
        text = Script(number, strange=strange).text()
        said = started_by_bash(text, folder)
        if said is None:
            continue
        options, given = said
        script = read_script(text, FILES.get)
        told = [note for _, note in script.notes if not any(sure in note for sure in SURE)]
        ours = {name: option.values for name, option in script.options.items() if option.known}
        unknown = {name for name, option in script.options.items() if not option.known}
        wrong = {name for name in {*ours, *options} - unknown if ours.get(name) != options.get(name)}
        for name in (*NAMES, "SEEN"):
            held = script.variables.get(name)
            value = held.text if held and held.exported else ""
            wrong |= {f"${name}"} if GAP not in value and value != given[name] else set()
        assert not wrong or told, f"{wrong} in script {number}:\n{text}"
        assert options.keys() == script.options.keys() or told, f"script {number}:\n{text}"
        judged += 1
    assert judged >= 5
