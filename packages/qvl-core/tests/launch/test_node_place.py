"""Which machine this is: stated, or found where clusters say it; contradictions are refused with what mends them."""

from __future__ import annotations

import pytest
from qvl_core.errors import RecipeError
from qvl_core.launch.host_list import expand_hosts
from qvl_core.launch.node_place import find_place


def place(environment: dict[str, str] | None = None, *, nodes: int = 4, master: str = "n0:29501", node_rank=None):
    return find_place(nodes=nodes, master=master, node_rank=node_rank, environment=environment or {})


def refused(environment: dict[str, str] | None = None, **stated) -> str:
    with pytest.raises(RecipeError) as caught:
        place(environment, **stated)
    return str(caught.value)


def test_one_machine_is_machine_0_whatever_the_environment_says() -> None:
    found = place({"SLURM_NODEID": "3", "SLURM_NNODES": "8", "NODE_RANK": "x"}, nodes=1, master="localhost:29501")
    assert (found.node, found.nodes, found.master, found.notes) == (0, 1, "localhost:29501", ())


@pytest.mark.parametrize("name", ["SLURM_NODEID", "NODE_RANK", "GROUP_RANK", "VC_TASK_INDEX"])
def test_the_number_comes_from_the_cluster_and_that_is_said(name: str) -> None:
    found = place({name: "2"})
    assert found.node == 2
    assert found.notes == (f"this is machine 2 of 4 ({name})",)


def test_the_command_line_wins_over_the_cluster_and_slurm_over_the_others() -> None:
    environment = {"VC_TASK_INDEX": "3", "SLURM_NODEID": "2", "NODE_RANK": "1"}
    assert place(environment).node == 2
    assert place(environment, node_rank=0).node == 0


def test_several_machines_without_a_number_are_refused_with_both_ways_out() -> None:
    text = refused({"SLURM_NODEID": "two"})
    assert "launch.nodes is 4, and nothing says which of them this machine is" in text
    assert "--node-rank 0 on the first machine" in text
    assert "srun --nodes=4 --ntasks-per-node=1 qvl run" in text


def test_another_number_of_machines_than_the_recipes_is_refused() -> None:
    assert "SLURM_NNODES\n  is 2, launch.nodes is 4" in refused({"SLURM_NODEID": "0", "SLURM_NNODES": "2"})
    assert "is 2, launch.nodes is 4" in refused({"SLURM_NODEID": "0", "SLURM_JOB_NUM_NODES": "2"})
    assert place({"SLURM_NODEID": "0", "SLURM_NNODES": "4"}).node == 0
    assert "NODE_RANK\n  is 4, launch.nodes is 4: machines are numbered 0 to 3" in refused({"NODE_RANK": "4"})


@pytest.mark.parametrize("environment", [{"SLURM_NTASKS_PER_NODE": "8"}, {"SLURM_LOCALID": "1"}])
def test_several_tasks_on_a_machine_are_refused_with_the_command(environment: dict[str, str]) -> None:
    text = refused({"SLURM_NODEID": "1", **environment})
    assert "fix: srun --ntasks-per-node=1 qvl run ..." in text
    assert place({"SLURM_NODEID": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_LOCALID": "0"}).node == 1


def test_a_local_meeting_point_is_replaced_by_what_the_cluster_names() -> None:
    local = {"nodes": 2, "master": "localhost:29501", "node_rank": 1}
    assert place({"MASTER_ADDR": "10.0.0.7"}, **local).master == "10.0.0.7:29501"
    assert place({"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "8118"}, **local).master == "10.0.0.7:8118"
    found = place({"SLURM_JOB_NODELIST": "node[07-09],other5"}, **local)
    assert found.master == "node07:29501"
    assert found.notes == ("the machines meet at node07:29501 (SLURM_JOB_NODELIST)",)
    assert "neither MASTER_ADDR nor SLURM_JOB_NODELIST names the first machine" in refused({}, **local)
    assert "neither MASTER_ADDR" in refused({"MASTER_ADDR": "localhost"}, **local)


def test_a_stated_meeting_point_stays() -> None:
    assert place({"MASTER_ADDR": "10.0.0.7"}, node_rank=1).master == "n0:29501"


def test_all_problems_are_reported_together() -> None:
    text = refused({"SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "8"})
    assert text.count("fix:") == 3


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("node1", ("node1",)),
        ("node[01-03,07],other5", ("node01", "node02", "node03", "node07", "other5")),
        ("a,b", ("a", "b")),
        ("n[9-11]", ("n9", "n10", "n11")),
        ("n[098-101]", ("n098", "n099", "n100", "n101")),
        ("r[1-2]n[1-2]-ib", ("r1n1-ib", "r1n2-ib", "r2n1-ib", "r2n2-ib")),
        ("node[5]", ("node5",)),
        (" node1 ", ("node1",)),
    ],
)
def test_a_slurm_list_of_hosts_is_expanded_in_order(text: str, hosts: tuple[str, ...]) -> None:
    assert expand_hosts(text) == hosts


@pytest.mark.parametrize(
    "text", ["", "node[", "node[1-", "node[3-1]", "node[a-b]", "n[]", "a b", "n[0-999999999]", ",", "a,"]
)
def test_what_is_no_list_of_hosts_gives_none(text: str) -> None:
    assert expand_hosts(text) == ()
