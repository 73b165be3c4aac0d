"""[env]: an allow-list with types and ranges; nothing in it may change which code the workers load."""

from __future__ import annotations

import pytest
from qvl_core.recipe.environment_guide import MEANING_FOR_TORCH, WHEN
from qvl_core.recipe.environment_rules import (
    LAUNCHER,
    RECIPE_KEYS,
    TORCH_ONLY,
    UNCHECKED,
    closest_variable,
    one_edit_apart,
)
from qvl_core.recipe.schema import recipe_json_schema
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


def misspellings(name: str) -> list[str]:
    """One letter dropped, doubled, or swapped with its neighbour; lower case; no underscores."""
    found = [name.lower(), name.replace("_", "")]
    for i in range(len(name)):
        found += [name[:i] + name[i + 1 :], name[:i] + name[i] * 2 + name[i + 1 :]]
        found += [name[:i] + name[i + 1] + name[i] + name[i + 2 :]] if i + 1 < len(name) else []
    known = {*EnvSection.model_fields, *TORCH_ONLY, *RECIPE_KEYS, *LAUNCHER, "MS_ENABLE_TFT", "ASCEND_VISIBLE_DEVICES"}
    return [one for one in dict.fromkeys(found) if one not in known]


# Of the guide's section 8 all, and all others that are known.
KNOWN = (*EnvSection.model_fields, *TORCH_ONLY, *RECIPE_KEYS, "MS_ROLE", "MS_WORKER_NUM", "MS_ENABLE_TFT")


@pytest.mark.parametrize("name", KNOWN)
def test_every_variable_is_found_from_each_of_its_misspellings(name: str) -> None:
    assert {meant for one in misspellings(name) if (meant := closest_variable(one)) != name} == set()


@pytest.mark.parametrize("name", UNCHECKED)
def test_variables_that_others_document_are_no_misspellings(load, name: str) -> None:
    assert closest_variable(name) == ""
    (warning,) = load(f"env.{name}=1").warnings
    assert warning.fix == "set it in the shell that starts qvl, if the workers need it"


def test_names_that_differ_by_more_than_a_letter_are_two() -> None:
    assert one_edit_apart("abc", "acb")
    assert one_edit_apart("abc", "abbc")
    assert one_edit_apart("abc", "ac")
    assert one_edit_apart("abc", "axc")
    assert not one_edit_apart("abc", "abc")
    assert not one_edit_apart("abcd", "badc")
    assert not one_edit_apart("abc", "abcde")


@pytest.mark.parametrize("value", ["true", "false", "1.0", "0.0"])
def test_switches_are_whole_numbers(refuse, value: str) -> None:
    (problem,) = refuse(f"env.ASCEND_SLOG_PRINT_TO_STDOUT={value}")
    assert problem.message == f"is {value}; it can be 0 or 1"
    assert problem.fix == f"ASCEND_SLOG_PRINT_TO_STDOUT = {int(value in ('true', '1.0'))}"


@pytest.mark.parametrize(
    ("stated", "key", "said"),
    [
        (("HCCL_IF_BASE_PORT=29490",), "HCCL_IF_BASE_PORT", "the ports 29490 to 29505; launch.master"),
        (("HCCL_HOST_SOCKET_PORT_RANGE='29501'",), "HCCL_HOST_SOCKET_PORT_RANGE", "29501 to 29501"),
        (("MS_RETRY_INTERVAL_LOWER=9", "MS_RETRY_INTERVAL_UPPER=3"), "MS_RETRY_INTERVAL_LOWER", "more than"),
        (("HCCL_SOCKET_FAMILY='AF_INET6'", "HCCL_IF_IP='10.0.0.1'"), "HCCL_SOCKET_FAMILY", "of AF_INET"),
    ],
)
def test_contradictions_are_refused(refuse, stated: tuple[str, ...], key: str, said: str) -> None:
    (problem,) = refuse("launch.device=ascend", "launch.devices_per_node=1", *(f"env.{one}" for one in stated))
    assert problem.key == f"env.{key}"
    assert said in problem.message


@pytest.mark.parametrize(
    "stated",
    [
        ("HCCL_IF_BASE_PORT=29502",),
        ("HCCL_IF_BASE_PORT=29485",),
        ("HCCL_HOST_SOCKET_PORT_RANGE='auto'",),
        ("MS_RETRY_INTERVAL_LOWER=3", "MS_RETRY_INTERVAL_UPPER=3"),
        ("HCCL_SOCKET_FAMILY='AF_INET6'", "HCCL_IF_IP='fe80::1'"),
    ],
)
def test_their_neighbours_are_taken(load, stated: tuple[str, ...]) -> None:
    recipe = load("launch.device=ascend", "launch.devices_per_node=1", *(f"env.{one}" for one in stated))
    assert len(recipe.env.variables()) == len(stated)
    assert not [one for one in recipe.warnings if one.key.startswith("env.")]


@pytest.mark.parametrize(
    ("ranges", "fix"),
    [
        ("20000-60000", '"localhost:60001" under [launch], or other ports'),
        ("29500-29510,29511-29520", '"localhost:29521" under [launch], or other ports'),
        ("29500-65535", '"localhost:29499" under [launch], or other ports'),
        ("1-65535", "other ports for HCCL"),
    ],
)
def test_a_meeting_point_among_ports_of_which_hccl_takes_a_free_one_is_warned_of(load, ranges: str, fix: str) -> None:
    options = ("launch.device=ascend", "launch.devices_per_node=1")
    (found,) = load(*options, f"env.HCCL_HOST_SOCKET_PORT_RANGE='{ranges}'").warnings
    assert found.key == "env.HCCL_HOST_SOCKET_PORT_RANGE"
    assert found.fix.removeprefix("master = ").startswith(fix)


def test_a_meeting_point_that_takes_the_last_port_of_a_rank_is_refused(refuse) -> None:
    options = ("launch.device=ascend", "launch.devices_per_node=2", "layout.dp=2")
    (problem,) = refuse(*options, "env.HCCL_HOST_SOCKET_PORT_RANGE='29500-29501'")
    assert problem.key == "env.HCCL_HOST_SOCKET_PORT_RANGE"


def test_a_meeting_point_among_hccls_default_ports_is_refused(refuse) -> None:
    (problem,) = refuse("launch.device=ascend", "launch.devices_per_node=1", "launch.master='localhost:60015'")
    assert (problem.key, problem.message) == ("launch.master", "has port 60015, one of HCCL's: 60000 to 60015")
    assert 'master = "localhost:29501"' in problem.fix


@pytest.mark.parametrize(
    ("stated", "key"),
    [
        (("HCCL_OP_RETRY_PARAMS='MaxCnt:3'",), "HCCL_OP_RETRY_PARAMS"),
        (("HCCL_WHITELIST_FILE='x.json'",), "HCCL_WHITELIST_FILE"),
        (("HCCL_IF_BASE_PORT=61000", "HCCL_HOST_SOCKET_PORT_RANGE='auto'"), "HCCL_IF_BASE_PORT"),
        (("MS_DISABLE_HEARTBEAT=1", "MS_NODE_TIMEOUT=60"), "MS_NODE_TIMEOUT"),
        (("TOKENIZERS_PARALLELISM=true",), "TOKENIZERS_PARALLELISM"),
    ],
)
def test_what_does_nothing_beside_or_without_another_value_is_warned_of(load, stated, key: str) -> None:
    warnings = load("data.workers=2", *(f"env.{one}" for one in stated)).warnings
    assert [warning.key for warning in warnings] == [f"env.{key}"]


def test_the_container_runtimes_variable_is_told_apart(load) -> None:
    (warning,) = load("env.ASCEND_VISIBLE_DEVICES='0'").warnings
    assert "ASCEND_RT_VISIBLE_DEVICES" in warning.fix


def test_every_variable_says_when_to_set_it() -> None:
    assert set(WHEN) == set(EnvSection.model_fields)
    assert set(TORCH_ONLY) <= set(MEANING_FOR_TORCH)


def _borders() -> list[tuple[str, int, int]]:
    """Give each whole-number variable with its lowest and highest value, as the schema has them."""
    fields = recipe_json_schema()["$defs"]["EnvSection"]["properties"]
    found = []
    for name, field in fields.items():
        whole = next(
            (one for one in field.get("anyOf", [field]) if one.get("type") == "integer" and "enum" not in one), {}
        )
        if "minimum" in whole:
            found.append((name, whole["minimum"], whole["maximum"]))
    return found


@pytest.mark.parametrize(("name", "low", "high"), _borders())
def test_both_sides_of_every_range(load, refuse, name: str, low: int, high: int) -> None:
    # Far from launch.master's port, which is another rule's.
    for inside in (low, high):
        recipe = load(f"env.{name}={inside}", "launch.master='localhost:20000'")
        assert recipe.env.variables() == {name: str(inside)}
    for outside in (low - 1, high + 1):
        assert refuse(f"env.{name}={outside}")[0].key == f"env.{name}"


@pytest.mark.parametrize("name", [name for name, _, _ in _borders()])
@pytest.mark.parametrize("value", ["true", "'10'", "10.0", "[10]", "nan", "''", "'ten'", "1e400"])
def test_whole_numbers_are_nothing_else(refuse, name: str, value: str) -> None:
    (problem,) = refuse(f"env.{name}={value}")
    assert problem.key == f"env.{name}"
    assert problem.fix


def test_every_variable_of_the_guides_section_8_is_known() -> None:
    guide = {
        *(
            "ASCEND_RT_VISIBLE_DEVICES",
            "ASCEND_SLOG_PRINT_TO_STDOUT",
            "ASCEND_GLOBAL_LOG_LEVEL",
            "HCCL_CONNECT_TIMEOUT",
        ),
        *("HCCL_EXEC_TIMEOUT", "ASCEND_LAUNCH_BLOCKING", "MS_DEV_HOST_BLOCKING_RUN", "MS_DEV_LAUNCH_BLOCKING"),
        *("ACLNN_CACHE_LIMIT", "TOKENIZERS_PARALLELISM", "NPUS_PER_NODE"),
    }
    assert guide <= {*EnvSection.model_fields, *TORCH_ONLY, *RECIPE_KEYS}


@pytest.mark.parametrize("name", ["MS_ENABLE_GE", "HCCL_INTER_HCCS_DISABLE"])
def test_documented_variables_that_are_not_checked_are_no_misspellings(name: str) -> None:
    assert closest_variable(name) == ""


def test_a_variable_without_effect_is_no_guess_unless_one_letter_away() -> None:
    assert closest_variable("MS_ENABLE_TXX") != "MS_ENABLE_TFT"
    assert closest_variable("MS_ENABLE_TFR") == "MS_ENABLE_TFT"
