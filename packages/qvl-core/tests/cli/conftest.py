"""What the tests of the command line share: a recipe to write, and a way to call `qvl`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from qvl_core.cli.app import main

TINY = """\
# Teach a tiny model nothing. For tests.
#
# status    cpu-tiny: runs anywhere
schema = 1
task = "sft"

[model]
name = "qwen2.5-vl-tiny"

[weights]
source = "weights"
init = "random"

[data]
sources = [{ path = "data.json", media_root = "media" }]
sequence_length = 512
workers = 0
image = { max_pixels = 100352 }

[train]
steps = 20
micro_batch = 2
global_batch = 8

[train.optimizer]
lr = 1e-3

[launch]
device = "cpu"

[output]
dir = "runs/tiny"
"""

SEVENTY_TWO = """\
schema = 1
task = "sft"

[model]
name = "qwen2.5-vl-72b"
freeze = ["vision", "merger"]

[layout]
tp = 8
pp = 4
dp = 2
vision_stages = [32, 0, 0, 0]
text_stages = [5, 25, 25, 25]

[weights]
source = "ckpt/72b"

[data]
sources = [{ path = "data.json" }]

[train]
steps = 10000
global_batch = 192

[train.optimizer]
lr = 1e-5

[env]
HCCL_CONNECT_TIMEOUT = 1200

[launch]
device = "ascend"
nodes = 8
master = "10.0.0.1:29501"

[output]
dir = "runs/72b"
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one call of `qvl` gave."""

    code: int
    out: str
    err: str


Call = Callable[..., Result]


@pytest.fixture
def qvl(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call `qvl` in this process. The environment that a command changes is put back afterwards."""
    monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", "1")

    def call(*words: str) -> Result:
        capsys.readouterr()
        code = main(words)
        captured = capsys.readouterr()
        return Result(code=code, out=captured.out, err=captured.err)

    return call


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder that holds tiny.toml, 72b.toml and, so that tiny.toml can run, its data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY, encoding="utf-8")
    (tmp_path / "72b.toml").write_text(SEVENTY_TWO, encoding="utf-8")
    (tmp_path / "media").mkdir()
    (tmp_path / "data.json").write_text("[]", encoding="utf-8")
    return tmp_path
