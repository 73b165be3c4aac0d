"""A launch that goes well: what is shown, what is left behind, and how it stops when asked to."""

from __future__ import annotations

import json
import signal
import time

import pytest
from qvl_core.launch.stop_request import SAME_REQUEST_S


def test_rank_0_is_shown_and_every_rank_has_its_log(start) -> None:
    launch = start(steps=3)
    assert launch.end() == 0, launch.err
    assert launch.out.splitlines() == ["step 1 done", "step 2 done", "step 3 done", "launcher: workers ended, None"]
    assert launch.err == ""
    logs = launch.folder / "run" / "logs"
    assert sorted(path.name for path in logs.iterdir()) == [
        *("launch.json", "launcher.log", "rank_000.log", "rank_001.log"),
    ]
    assert "step 3 done" in (logs / "rank_000.log").read_text()


def test_the_record_has_the_seconds_from_the_command_to_the_first_step(start) -> None:
    launch = start()
    assert launch.end() == 0, launch.err
    record = json.loads((launch.folder / "run" / "logs" / "launch.json").read_text())
    assert list(record["seconds"]) == ["workers started", "connected", "first step"]
    assert 0 < record["seconds"]["workers started"] <= record["seconds"]["first step"]
    assert record["processes"] == 2
    assert record["ended"] == "done"


def test_all_ranks_stay_on_this_machine_within_an_allocation_of_several(start) -> None:
    hosts = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NODELIST": "n[1-2]", "SLURM_TASKS_PER_NODE": "1(x2)"}
    launch = start(SLURM_JOB_ID="5", SLURM_JOBID="5", SLURM_NNODES="2", **hosts)
    assert launch.end() == 0, launch.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=lambda one: one.name)
def test_one_signal_lets_the_workers_finish_their_step(start, number: signal.Signals) -> None:
    launch = start(steps=100_000)
    launch.until("rank_000.log", "step 3 done")
    launch.process.send_signal(number)
    assert launch.end() == 0, launch.err
    assert f"launcher: workers ended, {number.name}" in launch.out


def test_a_second_signal_ends_a_run_that_does_not_follow_the_first(start) -> None:
    launch = start("deaf:1:forward", steps=100_000)
    launch.until("rank_001.log", "fault deaf")
    launch.process.send_signal(signal.SIGTERM)
    # The same request again: schedulers and wrappers repeat themselves.
    launch.process.send_signal(signal.SIGTERM)
    # From here on the launcher has noted the first one.
    launch.until("rank_001.log", "asked to stop by SIGTERM")
    time.sleep(SAME_REQUEST_S + 0.2)
    assert launch.process.poll() is None
    launch.process.send_signal(signal.SIGTERM)
    assert launch.end() == 130
    assert launch.err == "interrupted\n"


def test_a_signal_before_the_first_step_ends_the_run(start) -> None:
    launch = start("sleep:1:load")
    launch.until("rank_001.log", "fault sleep")
    launch.process.send_signal(signal.SIGINT)
    assert launch.end() == 130
    assert launch.err == "interrupted\n"
