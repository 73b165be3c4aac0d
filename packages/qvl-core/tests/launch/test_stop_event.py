"""A launcher in a thread, where no signal comes: it is stopped by an event."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from qvl_core.launch.proc import all_statuses
from qvl_core.launch.supervisor import Start, supervise
from qvl_core.launch.watch import Limits
from qvl_core.launch_plan import RankPlace
from qvl_core.parallel.mesh import Coordinate

WAIT_S = 120.0


@pytest.fixture
def forever(tmp_path: Path) -> Start:
    """Give a start of something that never ends, and never says a word."""
    place = RankPlace(
        rank=0, node=0, device=0, place=Coordinate(pp=0, dp=0, tp=0), vision_layers=(0, 1), text_layers=(0, 1)
    )
    return Start(
        command=("sleep", "1000"),
        environment={"PATH": os.environ["PATH"], "MARK": str(tmp_path)},
        places=(place,),
        logs=tmp_path / "logs",
        shown_logs=Path("logs"),
        limits=Limits(),
    )


def children_of(folder: Path) -> list[int]:
    found = []
    for status in all_statuses():
        try:
            if f"MARK={folder}".encode() in Path(f"/proc/{status.process}/environ").read_bytes():
                found.append(status.process)
        except OSError:
            continue
    return found


def test_it_ends_what_it_has_started_and_says_that_it_was_interrupted(forever: Start, tmp_path: Path) -> None:
    stop, raised = threading.Event(), []

    def run() -> None:
        try:
            supervise(forever, None, stop)
        except BaseException as error:
            raised.append(type(error))

    thread = threading.Thread(target=run)
    thread.start()
    tried = threading.Event()
    while not children_of(tmp_path):
        assert not tried.wait(0.02)
        assert thread.is_alive(), raised
    stop.set()
    thread.join(WAIT_S)
    assert raised == [KeyboardInterrupt]
    assert not children_of(tmp_path)
    assert '"ended": "interrupted"' in (tmp_path / "logs" / "launch.json").read_text()
