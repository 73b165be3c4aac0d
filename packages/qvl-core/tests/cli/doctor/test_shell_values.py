"""Variables in the shell and the recipe: misspelt, out of range, risky."""

from __future__ import annotations

import pytest
from qvl_core.cli.doctor import shell_values
from qvl_core.recipe import load_recipe
from qvl_core.recipe.sections import EnvSection


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"HCCL_CONECT_TIMEOUT": "1200"}, "did you mean HCCL_CONNECT_TIMEOUT?"),
        (
            {"HCCL_CONNECT_TIMEOUT": "300", "HCCL_CONECT_TIMEOUT": "9"},
            "unset HCCL_CONECT_TIMEOUT: HCCL_CONNECT_TIMEOUT is set too",
        ),
        ({"MS_NODE_TIMEOUT": "2"}, "MS_NODE_TIMEOUT is '2'"),
        ({"HCCL_CONNECT_TIMEOUT": "30"}, "HCCL_CONNECT_TIMEOUT is '30'"),
        ({"ASCEND_GLOBAL_LOG_LEVEL": "verbose"}, "ASCEND_GLOBAL_LOG_LEVEL is 'verbose'"),
    ],
)
def test_bad_variables_of_the_shell_are_told(environment: dict[str, str], said: str) -> None:
    (row,) = shell_values.check_shell_values(environment)
    assert row.level == "warn"
    assert said in f"{row.evidence} {row.fix}"


def test_what_cann_sets_itself_and_good_values_are_left_alone() -> None:
    environment = {
        "ASCEND_HOME_PATH": "/x",
        "ASCEND_TOOLKIT_HOME": "/x",
        "HCCL_CONNECT_TIMEOUT": "7200",
        "TOKENIZERS_PARALLELISM": "False",
        "MS_ROLE": "MS_WORKER",
        "HOME": "/h",
    }
    assert [row.level for row in shell_values.check_shell_values(environment)] == ["ok"]


@pytest.mark.parametrize(
    "name", ["HCCL_RDMA_TC", "GLOG_log_dir", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "NODES", "SLURM_NNODES", "_", ""]
)
def test_variables_of_others_are_no_misspellings(name: str) -> None:
    assert [row.level for row in shell_values.check_shell_values({name: "1"})] == ["ok"]


@pytest.mark.parametrize("name", EnvSection.model_fields)
def test_every_variable_is_found_from_a_misspelling_in_the_shell(name: str) -> None:
    for misspelt in {name[1:], name[:3] + name[4:], name[0] + name, name[:-1], name.lower(), name.replace("_", "")}:
        (row,) = shell_values.check_shell_values({misspelt: "1"})
        assert row.fix == f"did you mean {name}?", misspelt


def test_each_fault_has_a_row_and_a_fix_of_its_own() -> None:
    rows = shell_values.check_shell_values({"HCCL_CONNECT_TIMEOUT": "1", "HCCL_EXEC_TIMEOUTT": "1", "GLOG_v": "9"})
    assert [row.level for row in rows] == ["warn"] * 3
    assert len({row.fix for row in rows}) == 3


def test_proxies_need_an_exemption_for_this_machine() -> None:
    assert shell_values.check_proxies({"https_proxy": "http://p:1"}).level == "warn"
    assert shell_values.check_proxies({"https_proxy": "http://p:1", "no_proxy": "localhost,127.0.0.1"}).level == "ok"
    assert shell_values.check_proxies({}).level == "ok"


@pytest.mark.parametrize(
    ("environment", "level", "said"),
    [
        ({}, "ok", "defaults"),
        ({"HCCL_EXEC_TIMEOUT": "0"}, "fail", "lasts for ever"),
        ({"HCCL_EXEC_TIMEOUT": "7200"}, "warn", "found that late"),
        ({"HCCL_EXEC_TIMEOUT": "3600"}, "ok", "3600"),
        ({"HCCL_CONNECT_TIMEOUT": "119"}, "fail", "120"),
        ({"HCCL_CONNECT_TIMEOUT": "soon"}, "fail", "HCCL_CONNECT_TIMEOUT is soon"),
        ({"HCCL_BUFFSIZE": "0"}, "fail", "HCCL_BUFFSIZE is 0"),
        ({"HCCL_SOCKET_IFNAME": "eth0"}, "ok", "eth0"),
        ({"HCCL_SOCKET_IFNAME": "=eth0"}, "ok", "eth0"),
        ({"HCCL_SOCKET_IFNAME": "eth"}, "ok", "eth"),
        ({"HCCL_SOCKET_IFNAME": "^eth1"}, "ok", "eth1"),
        ({"HCCL_SOCKET_IFNAME": "bond0"}, "fail", "this machine has lo, eth0"),
        ({"HCCL_IF_IP": "127.0.0.1"}, "ok", "127.0.0.1"),
        ({"HCCL_IF_IP": "192.0.2.7"}, "fail", "no address of this machine"),
        ({"HCCL_IF_IP": "node7"}, "fail", "no IP address"),
        ({"HCCL_CONNECT_TIMEOUT": "120"}, "ok", "120"),
        ({"HCCL_WHITELIST_DISABLE": "0"}, "fail", "HCCL_WHITELIST_FILE is not set"),
    ],
)
def test_hccl_values(environment: dict[str, str], level: str, said: str) -> None:
    (row,) = shell_values.check_hccl(None, environment, ("lo", "eth0"))
    assert row.level == level
    assert said in row.evidence
    assert row.fix or level == "ok"


def test_the_recipes_value_wins_and_several_machines_want_an_interface(folder) -> None:
    (row,) = shell_values.check_hccl(load_recipe("72b.toml"), {"HCCL_CONNECT_TIMEOUT": "1"})
    assert (row.level, "8 machines" in row.evidence) == ("warn", True)
    stated = load_recipe("72b.toml", ["env.HCCL_SOCKET_IFNAME='eth0'"])
    assert [row.level for row in shell_values.check_hccl(stated, {}, ("eth0",))] == ["ok"]


@pytest.mark.parametrize(
    ("name", "text", "level"),
    [
        ("HCCL_IF_BASE_PORT", "29490", "fail"),
        ("HCCL_HOST_SOCKET_PORT_RANGE", "29498-29505", "fail"),
        ("HCCL_HOST_SOCKET_PORT_RANGE", "29490-29505", "warn"),
    ],
)
def test_the_meeting_point_of_a_recipe_among_the_ports_of_this_shell(folder, name: str, text: str, level: str) -> None:
    recipe = load_recipe("72b.toml", ["env.HCCL_SOCKET_IFNAME='eth0'", "launch.master='10.0.0.1:29501'"])
    (row,) = shell_values.check_hccl(recipe, {name: text}, ("eth0",))
    assert (row.level, "29501 of launch.master" in row.evidence) == (level, True)
    assert row.fix == "--set launch.master=10.0.0.1:29506"


def test_each_wrong_value_of_hccl_has_a_row_and_one_fix() -> None:
    wrong = {"HCCL_CONNECT_TIMEOUT": "1", "HCCL_BUFFSIZE": "0", "HCCL_EXEC_TIMEOUT": "0", "HCCL_IF_IP": "192.0.2.7"}
    rows = shell_values.check_hccl(None, wrong, ("lo",))
    assert [row.level for row in rows] == ["fail"] * 4
    assert len({row.fix for row in rows}) == 4
