"""[env]: an allow-list with types and ranges; nothing in it may change which code the workers load."""

from __future__ import annotations

import pytest
from qvl_core.recipe.environment_guide import MEANING_FOR_TORCH, WHEN
from qvl_core.recipe.environment_rules import TORCH_ONLY
from qvl_core.recipe.sections import EnvSection


def test_variables_are_passed_on_as_strings(load) -> None:
    recipe = load("env.HCCL_CONNECT_TIMEOUT=1200", "env.TOKENIZERS_PARALLELISM=false", "env.HCCL_DETERMINISTIC='true'")
    assert recipe.env.variables() == {
        "HCCL_CONNECT_TIMEOUT": "1200",
        "TOKENIZERS_PARALLELISM": "false",
        "HCCL_DETERMINISTIC": "true",
    }


def test_odd_text_is_passed_on_verbatim(load) -> None:
    value = 'a;b $(c) "d"\\ne'
    recipe = load(f"env.MS_ALLOC_CONF='{value}'")
    assert recipe.env.variables() == {"MS_ALLOC_CONF": value}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("HCCL_CONNECT_TIMEOUT=60", "is 60; it has to be at least 120"),
        ("HCCL_CONNECT_TIMEOUT=7201", "is 7201; it has to be at most 7200"),
        ("HCCL_EXEC_TIMEOUT=0", "is 0; it has to be at least 1"),
        ("ASCEND_GLOBAL_LOG_LEVEL=5", "is 5; it has to be at most 4"),
        ("ACLNN_CACHE_LIMIT=0", "is 0; it has to be at least 1"),
        ("HCCL_RDMA_TIMEOUT=21", "is 21; it has to be at most 20"),
        ("MS_NODE_TIMEOUT=2", "is 2; it has to be at least 3"),
        ('HCCL_CONNECT_TIMEOUT="1200"', 'is "1200"; it has to be a whole number'),
    ],
)
def test_ranges(refuse, override: str, message: str) -> None:
    (problem,) = refuse(f"env.{override}")
    assert problem.key == f"env.{override.partition('=')[0]}"
    assert message in problem.message


@pytest.mark.parametrize("override", ["HCCL_CONNECT_TIMEOUT=120", "HCCL_CONNECT_TIMEOUT=7200", "HCCL_EXEC_TIMEOUT=1"])
def test_ends_of_the_ranges_are_legal(load, override: str) -> None:
    assert load(f"env.{override}").env.variables()


@pytest.mark.parametrize("name", ["LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP", "BASH_ENV", "PATH"])
def test_variables_that_load_code_are_refused(refuse, name: str) -> None:
    (problem,) = refuse(f"env.{name}=/tmp/x.so")
    assert problem.key == f"env.{name}"
    assert "which code the workers load" in problem.message


@pytest.mark.parametrize("name", ["MS_ROLE", "RANK_ID", "MS_WORKER_NUM"])
def test_variables_of_the_launcher_are_refused(refuse, name: str) -> None:
    assert "set by the launcher" in refuse(f"env.{name}=1")[0].message


def test_variables_that_have_a_key_name_it(refuse) -> None:
    assert "launch.devices_per_node" in refuse("env.NPUS_PER_NODE=8")[0].fix


@pytest.mark.parametrize(
    "name",
    ["TASK_QUEUE_ENABLE", "CPU_AFFINITY_CONF", "PYTORCH_NPU_ALLOC_CONF", "ASCEND_LAUNCH_BLOCKING", "MS_ENABLE_TFT"],
)
def test_variables_without_effect_are_warned_of_and_not_passed_on(load, name: str) -> None:
    recipe = load(f"env.{name}=2")
    assert recipe.env.variables() == {}
    (warning,) = recipe.warnings
    assert (warning.key, warning.severity) == (f"env.{name}", "warning")
    assert "not passed on" in warning.message


def test_unlisted_variable_is_refused(refuse) -> None:
    assert refuse("env.SOMETHING_ELSE=1")[0].message == "is not a key of recipes"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("HCCL_CONECT_TIMEOUT", "HCCL_CONNECT_TIMEOUT"),
        ("HCLL_CONNECT_TIMEOUT", "HCCL_CONNECT_TIMEOUT"),
        ("hccl_exec_timeout", "HCCL_EXEC_TIMEOUT"),
        ("ASCEND_RT_VISIBLE_DEVICE", "ASCEND_RT_VISIBLE_DEVICES"),
        ("ACLNN_CACHE", "ACLNN_CACHE_LIMIT"),
        ("GLOG_V", "GLOG_v"),
        ("MS_DEV_HOST_BLOCKING", "MS_DEV_HOST_BLOCKING_RUN"),
        ("TOKENIZER_PARALLELISM", "TOKENIZERS_PARALLELISM"),
    ],
)
def test_misspelt_variables_are_warned_of_with_the_closest(load, name: str, meant: str) -> None:
    recipe = load(f"env.{name}=1")
    (warning,) = recipe.warnings
    assert (warning.key, warning.severity, warning.fix) == (f"env.{name}", "warning", f"did you mean env.{meant}?")
    assert recipe.env.variables() == {}


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("NPU_PER_NODE", "use launch.devices_per_node for NPUS_PER_NODE"),
        ("MASTER_ADRR", "use launch.master for MASTER_ADDR"),
    ],
)
def test_misspelt_variables_of_a_launcher_are_answered_with_the_recipes_key(load, name: str, fix: str) -> None:
    (warning,) = load(f"env.{name}=1").warnings
    assert (warning.key, warning.severity, warning.fix) == (f"env.{name}", "warning", fix)


@pytest.mark.parametrize("name", ["HCCL_ALGO", "MS_ENABLE_NUMA", "ASCEND_CUSTOM_OPP_PATH"])
def test_unknown_variables_of_a_family_are_warned_of_and_not_passed_on(load, name: str) -> None:
    recipe = load(f"env.{name}=1")
    (warning,) = recipe.warnings
    assert "not among the variables that qvl knows" in warning.message
    assert "shell that starts qvl" in warning.fix
    assert recipe.env.variables() == {}


def test_the_container_runtimes_variable_is_told_apart(load) -> None:
    (warning,) = load("env.ASCEND_VISIBLE_DEVICES='0'").warnings
    assert "ASCEND_RT_VISIBLE_DEVICES" in warning.fix


def test_every_variable_says_when_to_set_it() -> None:
    assert set(WHEN) == set(EnvSection.model_fields)
    assert set(TORCH_ONLY) <= set(MEANING_FOR_TORCH)
