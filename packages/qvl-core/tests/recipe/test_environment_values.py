"""Texts of [env]: each form is refused and its neighbour accepted; the same rules read a shell's variables."""

from __future__ import annotations

import pytest
from qvl_core.recipe.environment_text import VariableError, value_of_text
from qvl_core.recipe.environment_values import missing_partners, value_fault
from qvl_core.recipe.sections import EnvSection


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("HCCL_HOST_SOCKET_PORT_RANGE", "auto", "Auto"),
        ("HCCL_HOST_SOCKET_PORT_RANGE", "1-65535", "0-65535"),
        ("HCCL_NPU_SOCKET_PORT_RANGE", "60000-60015, 61000", "60015-60000"),
        ("HCCL_NPU_SOCKET_PORT_RANGE", "60000,60001", "60000;60001"),
        ("HCCL_IF_IP", "10.0.0.1", "10.0.0.256"),
        ("HCCL_IF_IP", "fe80::1", "node-1"),
        ("HCCL_SOCKET_IFNAME", "eth0,bond0.4", "eth0 bond0"),
        ("HCCL_SOCKET_IFNAME", "^=lo", "  "),
        ("HCCL_OP_RETRY_ENABLE", "L1:1, L2:0", "L3:1"),
        ("HCCL_OP_RETRY_PARAMS", "MaxCnt:10,HoldTime:0,IntervalTime:60000", "MaxCnt:11"),
        ("HCCL_OP_RETRY_PARAMS", "MaxCnt:1", "Count:1"),
        ("HCCL_DFS_CONFIG", "cluster_heartbeat:on,task_time:20", "cluster_heartbeat:1"),
        ("ASCEND_PROCESS_LOG_PATH", "logs", ""),
    ],
)
def test_texts_of_both_sides_of_the_rule(name: str, good: str, bad: str) -> None:
    assert value_fault(name, good) is None
    fault = value_fault(name, bad)
    assert fault is not None
    assert name in fault.fix
    assert value_of_text(name, good) == good
    with pytest.raises(VariableError):
        value_of_text(name, bad)


def test_every_example_of_the_schema_is_legal() -> None:
    for name, field in EnvSection.model_fields.items():
        for example in field.examples or ():
            assert value_fault(name, example) is None
            assert value_of_text(name, str(example)) == example


def test_a_white_list_needs_its_file() -> None:
    assert set(missing_partners({"HCCL_WHITELIST_DISABLE": 0})) == {"HCCL_WHITELIST_DISABLE"}
    assert missing_partners({"HCCL_WHITELIST_DISABLE": 0, "HCCL_WHITELIST_FILE": "x"}) == {}
    assert missing_partners({"HCCL_WHITELIST_DISABLE": 1}) == {}


@pytest.mark.parametrize(("text", "value"), [("False", False), ("true", True), ("FALSE", False)])
def test_switches_of_words_are_read_in_any_case(text: str, value: bool) -> None:
    assert value_of_text("TOKENIZERS_PARALLELISM", text) is value
