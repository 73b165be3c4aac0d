"""Recipes to plan; and let the tests import `plan_calls` beside them: importlib mode adds no folder to the path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

ANSWERS = """\
schema = 1
task = "infer"
[model]
name = "qwen2.5-vl-7b"
[weights]
source = "w"
[infer]
prompt = "What is this?"
batch = 4
[output]
dir = "runs/a"
[generation]
max_new_tokens = 64
[launch]
device = "ascend"
devices_per_node = 1
"""


@pytest.fixture
def large(folder: Path) -> str:
    assert (folder / "72b.toml").is_file()
    return "72b.toml"


@pytest.fixture
def tiny(folder: Path) -> str:
    assert (folder / "tiny.toml").is_file()
    return "tiny.toml"


@pytest.fixture
def answers(folder: Path) -> str:
    """Write a recipe that answers on one device."""
    (folder / "answers.toml").write_text(ANSWERS)
    return "answers.toml"
