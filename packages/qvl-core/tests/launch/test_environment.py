"""What the workers inherit: the plan's variables, the shell's, and nothing of an old job."""

from __future__ import annotations

import sys
from pathlib import Path

from qvl_core.launch.environment import child_environment, export, with_python_first
from qvl_core.launch_plan import Variable

PLAN = (
    Variable(name="HCCL_BUFFSIZE", value="300", origin="[env]"),
    Variable(name="QVL_DEVICE", value="cpu", origin="qvl: cpu"),
)


def test_the_recipe_wins_over_the_shell_and_that_is_said_while_our_defaults_give_way() -> None:
    target = {"HCCL_BUFFSIZE": "100", "QVL_DEVICE": "ascend"}
    assert export(PLAN, target) == (
        "HCCL_BUFFSIZE is 100 in this shell and 300 in the recipe; the recipe's value is used",
    )
    assert target == {"HCCL_BUFFSIZE": "300", "QVL_DEVICE": "ascend"}
    assert export(PLAN, {"HCCL_BUFFSIZE": "300"}) == ()


def test_what_an_old_job_left_behind_is_removed_and_that_is_said() -> None:
    shell = {
        **{"MS_ROLE": "MS_WORKER", "RANK_TABLE_FILE": "/x", "RANK_ID": "3", "OMPI_COMM_WORLD_RANK": "3"},
        **{"PMIX_RANK": "3", "PATH": "/bin", "OMPI_MCA_btl": "self", "PMIX_MCA_gds": "hash"},
    }
    child = child_environment(PLAN, shell)
    kept = {"PATH": "/bin", "OMPI_MCA_btl": "self", "PMIX_MCA_gds": "hash", "HCCL_BUFFSIZE": "300", "QVL_DEVICE": "cpu"}
    assert child.variables == kept
    (note,) = child.notes
    assert note == (
        "MS_ROLE, OMPI_COMM_WORLD_RANK, PMIX_RANK, RANK_ID, RANK_TABLE_FILE in this shell are another job's; "
        "the workers do not get them"
    )
    assert child_environment(PLAN, {"PATH": "/bin"}).notes == ()


def test_the_shells_own_environment_is_left_as_it_is() -> None:
    shell = {"MS_ROLE": "MS_WORKER"}
    child_environment(PLAN, shell)
    assert shell == {"MS_ROLE": "MS_WORKER"}


def test_python_is_found_first_where_this_one_is() -> None:
    assert with_python_first({"PATH": "/bin"}, sys.executable) == f"{Path(sys.executable).parent}:/bin"
