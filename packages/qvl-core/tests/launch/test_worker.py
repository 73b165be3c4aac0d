"""The program that a worker runs, where no launcher watches it."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from qvl_core import device
from qvl_core.launch import worker
from qvl_core.launch.rank_number import local_place, rank_from


def test_the_extra_process_of_msrun_is_the_scheduler_and_no_rank(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    met: list[str] = []
    mindspore = SimpleNamespace(communication=SimpleNamespace(init=lambda: met.append("scheduler")))
    monkeypatch.setattr(device, "require_mindspore", lambda: mindspore)
    # msrun gives it the number of rank 0.
    for name, value in (("MS_ROLE", "MS_SCHED"), ("RANK_ID", "0"), ("QVL_LOGS", str(tmp_path))):
        monkeypatch.setenv(name, value)
    assert worker.main(["recipe.toml"]) == 0
    assert met == ["scheduler"]
    assert list(tmp_path.iterdir()) == []


def test_a_worker_started_by_hand_says_what_is_wrong_and_ends_with_1(tmp_path) -> None:
    command = [sys.executable, "-m", "qvl_core.launch.worker", str(tmp_path / "none.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "does not exist" in done.stderr


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_RANK", "RANK_ID", "PMIX_RANK", "PMI_RANK"])
def test_the_rank_is_what_its_starter_says(name: str) -> None:
    assert rank_from({name: "12"}) == 12
    assert rank_from({name: "-1"}) is None
    assert rank_from({"OMPI_COMM_WORLD_RANK": "1", name: "1", "PMI_RANK": "7"}) == 1 or name == "PMI_RANK"


def test_the_place_on_a_machine_is_known_under_mpiexec_only() -> None:
    found = {"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
    assert local_place(found) == (1, 4)
    assert local_place({"RANK_ID": "1"}) is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to cores")
@pytest.mark.parametrize(
    ("ranks", "shares"), [(2, [[0, 1], [2, 3]]), (3, [[0], [1], [2, 3]]), (4, [[0], [1], [2], [3]]), (5, [])]
)
def test_ranks_share_the_cores_where_there_are_enough(monkeypatch: pytest.MonkeyPatch, ranks: int, shares) -> None:
    taken: list[list[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 1, 0, 2})
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: taken.append(list(cores)))
    monkeypatch.setenv("QVL_DEVICE", "cpu")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", str(ranks))
    for rank in range(ranks):
        monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", str(rank))
        worker._take_own_cores()
    assert taken == shares
