"""Whose facts `qvl plan` counts with: `--device`, and `--device-file`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from plan_calls import SIXTY_FOUR, Call, values_of


@pytest.mark.parametrize(("recipe", "device"), [("tiny.toml", "ascend-910b2"), ("72b.toml", "cpu")])
def test_kernels_are_those_of_the_device_planned_for(qvl: Call, folder: Path, recipe: str, device: str) -> None:
    words = (recipe, "--devices", "1", "--memory-gib", "1e5", "--device", device)
    listed = values_of(qvl, *words)["assumptions"]
    value = next(one["value"] for one in listed if one["name"] == "activations")
    assert ("plain kernels" in value) is (device == "cpu")
    assert ("Ascend kernels" in value) is (device != "cpu")


def test_facts_of_a_device_can_be_replaced(qvl: Call, large: str, folder: Path) -> None:
    (folder / "mine.json").write_text('{"devices": {"ascend-910b2": {"peak_tflops": 100.0}}}')
    plain = values_of(qvl, large, *SIXTY_FOUR)
    slower = values_of(qvl, large, *SIXTY_FOUR, "--device-file", "mine.json")
    assert slower["plans"][0]["step_s"] > plain["plans"][0]["step_s"]
    stated = next(one for one in slower["assumptions"] if one["name"] == "peak_tflops")
    assert "mine.json" in stated["source"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[]", "object"),
        ('{"devices": {"ascend-910b2": {"peak_tflop": 1}}}', "did you mean peak_tflops"),
        ('{"devices": {"ascend-910b2": {"peak_tflops": "fast"}}}', "peak_tflops"),
        ('{"devices": {"ascend-910b2": {"peak_tflops": -1}}}', "peak_tflops"),
        ('{"devices": {"new": {"peak_tflops": 1}}}', "devices.new"),
        # Its facts would be counted nowhere, and nothing would tell.
        ('{"devices": {"ascend910b2": {"memory_gib": 61.0}}}', "ascend-910b2, if that is meant"),
        ("{", "JSON"),
    ],
)
def test_wrong_facts_are_refused_with_file_and_key(qvl: Call, large: str, folder: Path, text: str, named: str) -> None:
    (folder / "mine.json").write_text(text)
    result = qvl("plan", large, "--device-file", "mine.json", "--device", "ascend-910b2")
    assert result.code == 2
    assert "mine.json" in result.err
    assert named in result.err


def test_a_device_that_no_file_has_is_refused_with_those_that_are_known(qvl: Call, large: str, folder: Path) -> None:
    (folder / "mine.json").write_text('{"devices": {"ascend-910b2": {"memory_gib": 61.0}}}')
    result = qvl("plan", large, "--device-file", "mine.json", "--device", "ascend-910b")
    assert result.code == 2
    assert "there is no device 'ascend-910b'" in result.err


def test_a_new_device_has_to_state_all_facts(qvl: Call, large: str, folder: Path) -> None:
    (folder / "mine.json").write_text('{"devices": {"new": {"peak_tflops": 1}}}')
    result = qvl("plan", large, "--device-file", "mine.json", "--device", "new")
    assert result.code == 2
    assert "memory_gib" in result.err


def test_machines_have_as_many_devices_as_the_recipe_says(qvl: Call, large: str) -> None:
    """Replicas of 8 ranks lie on two machines of four, and are summed over the slower link."""
    words = (*SIXTY_FOUR, "--top", "100")
    eight, four = (
        values_of(
            qvl, large, *words, "--set", f"launch.nodes={nodes}", "--set", f"launch.devices_per_node={64 // nodes}"
        )
        for nodes in (8, 16)
    )

    def seconds(found: dict[str, Any]) -> dict[str, float]:
        return {json.dumps(plan["layout"]) + str(plan["micro_batch"]): plan["step_s"] for plan in found["plans"]}

    both = [(seconds(eight)[key], seconds(four)[key]) for key in seconds(eight) if key in seconds(four)]
    assert all(far >= near for near, far in both)
    assert any(far > near for near, far in both)
    told = {one["name"]: one for one in four["assumptions"]}["devices_per_node"]
    assert (told["value"], told["source"]) == ("4", "[launch] of the recipe")
    told = {one["name"]: one for one in eight["assumptions"]}["devices_per_node"]
    assert told["source"] != "[launch] of the recipe"
