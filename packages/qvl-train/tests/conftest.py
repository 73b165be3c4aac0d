"""A small training project in a temporary folder: the tiny checkpoint's files, 24 pictures, a recipe."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TINY = ROOT / "recipes" / "tiny"

# `thread_worlds` and `run_folders` lie beside this file. Tests of other packages have `devtools`, which drives a
# browser (qvl-data), `sharded_folders`, which writes folders of any layout, and `power_cut`, a disk that loses power.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(ROOT / "packages" / "qvl-data" / "tests"))
sys.path.insert(0, str(ROOT / "packages" / "qvl-core" / "tests"))
sys.path.insert(0, str(ROOT / "packages" / "qvl-core" / "tests" / "weights"))

RECIPE = """\
schema = 1
task = "sft"

[model]
config = "checkpoint"
dtype = "float32"

[weights]
source = "checkpoint"
init = "random"

[data]
sources = [{ path = "train.json", format = "llava", media_root = "." }]
sequence_length = 128
workers = 0
cache_dir = "cache"

[data.image]
min_pixels = 3136
max_pixels = 3136

[train]
steps = 6
micro_batch = 2
global_batch = 4

[train.optimizer]
lr = 1e-3

[train.save]
every = 2
keep = 3

[train.log]
tensorboard = false

[launch]
device = "cpu"

[output]
dir = "run"
"""


@pytest.fixture(scope="module", autouse=True)
def one_core(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep this process on one core while it trains, as `qvl run` keeps that of a small model.

    MindSpore's threads only spin on the others: half of the processor time of a tiny step.
    """
    if request.path.parent != Path(__file__).parent or not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    # gw0, gw1, ...: processes of pytest-xdist, each on a core of its own.
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    _bind({sorted(cores)[number % len(cores)]})
    yield
    _bind(cores)


def _bind(cores: set[int]) -> None:
    for thread in Path("/proc/self/task").iterdir():
        # One that has just ended has no cores.
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder, made the working directory."""
    _write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _write_project(folder: Path) -> None:
    shutil.copytree(TINY / "checkpoint", folder / "checkpoint")
    _halve(folder / "checkpoint" / "config.json")
    records = json.loads((TINY / "digits" / "train.json").read_text())[:24]
    (folder / "images").mkdir()
    for record in records:
        shutil.copy(TINY / "digits" / record["image"], folder / record["image"])
    (folder / "train.json").write_text(json.dumps(records))
    (folder / "recipe.toml").write_text(RECIPE)


def _halve(path: Path) -> None:
    """Leave two layers of each tower: one with windows, one without, and one of text for each of two stages."""
    config = json.loads(path.read_text())
    config["num_hidden_layers"] = config["max_window_layers"] = config["vision_config"]["depth"] = 2
    config["vision_config"]["fullatt_block_indexes"] = [1]
    path.write_text(json.dumps(config))


@pytest.fixture(scope="session")
def make_finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Give a function that trains in a project of its own, once for the same settings; nobody may change what it gives.

    Call it before anything is patched: others get the same run.
    """
    made: dict[tuple[str, ...], Path] = {}

    def make(*settings: str) -> Path:
        if settings not in made:
            from whole_runs import train

            folder = tmp_path_factory.mktemp("finished")
            _write_project(folder)
            before = Path.cwd()
            os.chdir(folder)
            try:
                assert train(*settings) == 0
            finally:
                os.chdir(before)
            made[settings] = folder / "run"
        return made[settings]

    return make


@pytest.fixture
def finished(project: Path, make_finished: Callable[..., Path]) -> Callable[..., None]:
    """Give a function that leaves what `train(*settings)` would, as a copy of a run that was made once."""

    def copy(*settings: str, into: str = "run") -> None:
        shutil.copytree(make_finished(*settings), project / into)

    return copy


@pytest.fixture
def snapshot(project: Path) -> Callable[[], dict[str, bytes]]:
    """Give a function that lists every file of the project with its content, but for what a check of data keeps."""

    def take() -> dict[str, bytes]:
        files = [
            path for path in project.rglob("*") if path.is_file() and path.relative_to(project).parts[0] != "cache"
        ]
        return {str(path.relative_to(project)): path.read_bytes() for path in files}

    return take
