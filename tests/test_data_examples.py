"""The examples of docs/data.md run as they stand, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [body for body in BLOCK.findall((ROOT / "docs/data.md").read_text(encoding="utf-8")) if "demo/" in body]


def test_there_is_an_example_of_each_format() -> None:
    assert len(EXAMPLES) == 5
    text = "\n".join(EXAMPLES)
    for named in ("llava.json", "sharegpt.jsonl", "openai.jsonl", "boxes.jsonl", "--tag", ".parquet"):
        assert named in text


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_runs(number: int, tmp_path: Path) -> None:
    command = f'"{sys.executable}" -m qvl_core.cli'
    script = f'set -e\nmkdir -p demo\nqvl() {{ {command} "$@"; }}\n{EXAMPLES[number]}'
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300, env={**os.environ}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "demo").iterdir())) == 2
