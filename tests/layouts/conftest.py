"""Let the tests import what lies beside them, and run all their cases in a few starts of many processes.

pytest's importlib mode adds no folder to the path.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from launching import Outcomes, run_cases, write_references
from selection import curves, few_curves

# For all single processes together, which are some two hundred steps each on two cores.
_REFERENCE_LIMIT_S = 7200.0
_STARTED = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for the runs of twenty steps in all layouts, which take most of the time."""
    parser.addoption("--all-curves", action="store_true", help="twenty steps in every layout, not in three of them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out most of the long runs, unless they are asked for."""
    if config.getoption("--all-curves"):
        return
    left_out = set(curves()) - set(few_curves())
    kept, rest = [], []
    for item in items:
        of = getattr(item, "callspec", None)
        (rest if of is not None and of.params.get("case") in left_out else kept).append(item)
    config.hook.pytest_deselected(items=rest)
    items[:] = kept


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Give a way to say something while a fixture works for minutes: pytest would keep it until the end."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def write(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"layouts: {text}, {time.monotonic() - _STARTED:.0f} s after the start", flush=True)

    return write


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder with references, records and logs."""
    return tmp_path_factory.mktemp("layouts")


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest, run_folder: Path, say: Callable[[str], None]) -> Outcomes:
    """Run the cases of all tests that were chosen: `-k tp2` runs those with two tensor ranks, and no others."""
    parameters = [getattr(item, "callspec", None) for item in request.session.items]
    cases = list(dict.fromkeys(of.params["case"] for of in parameters if of is not None and "case" in of.params))
    write_references(cases, run_folder, limit_s=_REFERENCE_LIMIT_S, say=say)
    found = run_cases(cases, run_folder, say=say)
    say(f"{len(found.results)} of {len(cases)} cases have results, from {found.launches} start(s)")
    return found
