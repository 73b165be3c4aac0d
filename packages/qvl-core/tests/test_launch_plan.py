"""The launch plan: the right command on each machine, the right place for each rank, the right environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from qvl_core.launch_plan import LaunchPlan, launch_plan
from qvl_core.parallel.mesh import coordinate_of
from qvl_core.recipe import load_recipe

RECIPE = """\
schema = 1
task = "infer"
[model]
name = "qwen2.5-vl-{model}"
[weights]
source = "weights"
[data]
workers = {workers}
[layout]
tp = {tp}
pp = {pp}
dp = {dp}
[launch]
device = "{device}"
nodes = {nodes}
devices_per_node = {per_node}
master = "{master}"
[output]
dir = "runs/x"
[generation]
max_new_tokens = 16
[env]
{env}
"""


@pytest.fixture
def plan(tmp_path: Path):
    """Give the plan of a recipe, one process on CPU unless stated otherwise."""

    def make(*extra: str, **stated: object) -> LaunchPlan:
        values = {"model": "tiny", "tp": 1, "pp": 1, "dp": 1, "device": "cpu", "nodes": 1, "env": "", "workers": 8}
        values |= {"master": "localhost:29501"} | stated
        values.setdefault("per_node", values["tp"] * values["pp"] * values["dp"] // values["nodes"])
        path = tmp_path / "a.toml"
        path.write_text(RECIPE.format(**values))
        return launch_plan(load_recipe(path), ["layout.recompute=full"] if extra else [], extra)

    return make


def _environment(made: LaunchPlan) -> dict[str, str]:
    return {variable.name: variable.value for variable in made.environment}


def test_one_process_runs_in_this_one(plan) -> None:
    made = plan()
    assert (made.method, made.world_size, len(made.nodes)) == ("in process", 1, 1)
    assert plan(device="ascend", model="7b").method == "in process"


def test_several_on_ascend_are_started_by_msrun_once_a_machine(plan) -> None:
    made = plan(
        device="ascend", model="7b", tp=2, pp=2, dp=4, nodes=2, master="10.1.2.3:8118", env="MS_TOPO_TIMEOUT = 900"
    )
    assert made.method == "msrun"
    first, second = (node.command for node in made.nodes)
    assert first[0] == "msrun"
    for option in (
        "--worker_num=16",
        "--local_worker_num=8",
        "--master_addr=10.1.2.3",
        "--master_port=8118",
        "--node_rank=0",
        "--join=True",
        "--bind_core=True",
        "--cluster_time_out=900",
        "--log_dir=runs/x/logs/node_000",
    ):
        assert option in first
    assert {"--node_rank=1", "--log_dir=runs/x/logs/node_001"} <= set(second)
    # msrun runs a program named `python` as it is, and anything else as a script of `python`.
    assert first[first.index("python") :][:3] == ("python", "-m", "qvl_core.launch.worker")


def test_the_master_is_never_a_name_that_may_be_ipv6(plan) -> None:
    assert "--master_addr=127.0.0.1" in plan(device="ascend", model="7b", dp=8).nodes[0].command


def test_several_on_cpu_are_started_by_mpiexec(plan) -> None:
    made = plan(dp=4)
    assert made.method == "mpiexec"
    command = made.nodes[0].command
    assert command[:3] == ("mpiexec", "-n", "4")
    assert command[command.index("python") :][:3] == ("python", "-m", "qvl_core.launch.worker")


def test_ranks_of_one_machine_open_no_port(plan) -> None:
    command = plan(dp=4).nodes[0].command
    assert command[command.index("btl") + 1] == "^tcp,ofi"


def test_a_meeting_point_of_the_cluster_replaces_the_recipes(tmp_path: Path, plan) -> None:
    plan(device="ascend", model="7b", dp=8)
    made = launch_plan(load_recipe(tmp_path / "a.toml"), master="node7:8118")
    assert {"--master_addr=node7", "--master_port=8118"} <= set(made.nodes[0].command)


def test_workers_get_the_overrides_and_options_of_the_command_line(plan) -> None:
    command = plan("--reshard", dp=2).nodes[0].command
    assert command[-3:] == ("--set", "layout.recompute=full", "--reshard")


def test_every_rank_has_its_machine_device_place_and_layers(plan) -> None:
    made = plan(device="ascend", model="7b", tp=2, pp=2, dp=4, nodes=2, master="node0:29501")
    assert [rank.rank for rank in made.ranks] == list(range(16))
    assert [(rank.node, rank.device) for rank in made.ranks] == [(i // 8, i % 8) for i in range(16)]
    assert all(rank.place == coordinate_of(rank.rank, made.layout) for rank in made.ranks)
    assert made.ranks[0].vision_layers == (0, 32)
    assert made.ranks[15].vision_layers == (32, 32)
    assert made.ranks[15].text_layers[1] == 28


def test_the_environment_is_that_of_the_recipe_and_the_device(plan) -> None:
    found = _environment(plan(env="GLOG_v = 3\nMS_DEV_HOST_BLOCKING_RUN = 0"))
    assert found["QVL_DEVICE"] == "cpu"
    assert found["GLOG_v"] == "3"
    assert found["MS_DEV_HOST_BLOCKING_RUN"] == "0"
    assert _environment(plan())["MS_DEV_HOST_BLOCKING_RUN"] == "1"
    assert "MS_DEV_HOST_BLOCKING_RUN" not in _environment(plan(device="ascend", model="7b"))


def test_tokenizer_threads_are_off_where_data_workers_fork(plan) -> None:
    assert _environment(plan(workers=8))["TOKENIZERS_PARALLELISM"] == "false"
    assert "TOKENIZERS_PARALLELISM" not in _environment(plan(workers=0))
