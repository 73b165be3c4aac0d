"""Damaged record files end in a DataError or in elements: no crash, no hang, nothing else opened, memory bounded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parent.parent / "fuzz_records.py"
FILES = 5400


def test_mutated_files_harm_nothing(tmp_path: Path) -> None:
    # The time is no measurement: it ends a process that hangs.
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path), str(FILES), "1"], capture_output=True, text=True, timeout=3000
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["files"] == FILES
    # Both ends are reached: files that cannot be read at all, and records that survive in damaged ones.
    assert found["refused"] > FILES // 20
    assert found["good_records"] > FILES // 2
    assert found["peak_mib"] < 600
