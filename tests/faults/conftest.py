"""One project and the undisturbed curve of each layout for all tests; what happened goes into `reports/faults.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("mindspore", reason="training needs MindSpore")

sys.path.insert(0, str(Path(__file__).parent))

from project import ROOT, Shape, make_faults_project
from running import Run, curve, start

Curve = list[tuple[int, str, str]]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder that every run of the session is started in."""
    folder = tmp_path_factory.mktemp("faults")
    make_faults_project(folder)
    return folder


@pytest.fixture(scope="session")
def undisturbed(project: Path) -> Callable[[Shape, int], Curve]:
    """Give a function from layout and number of steps to the curve of a run that nobody disturbs; each runs once."""
    known: dict[tuple[str, int], Curve] = {}

    def run(shape: Shape, steps: int) -> Curve:
        key = (shape.name, steps)
        if key not in known:
            name = f"undisturbed_{shape.name}_{steps}"
            one = start(project, name, shape, settings=[f"train.steps={steps}"])
            one.end()
            assert one.process.returncode == 0, one.output()
            known[key] = curve(project / name)
            assert len(known[key]) == steps
        return known[key]

    return run


@pytest.fixture
def begin(project: Path) -> Iterator[Callable[..., Run]]:
    """Start runs that are ended with the test, whatever became of it."""
    runs: list[Run] = []

    def run(folder: str, shape: Shape, *words: str, **options: object) -> Run:
        runs.append(start(project, folder, shape, *words, **options))  # type: ignore[arg-type]
        return runs[-1]

    yield run
    for one in runs:
        one.close()


@pytest.fixture(scope="session")
def report() -> Iterator[list[dict[str, object]]]:
    """Collect a row for every fault that was tried."""
    rows: list[dict[str, object]] = []
    yield rows
    if rows:
        path = ROOT / "reports" / "faults.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(rows, indent=1) + "\n")
