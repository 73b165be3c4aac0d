"""Whose facts `qvl plan` counts with: `--device`, and `--device-file`."""

from __future__ import annotations

from pathlib import Path

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
        ('{"devices": {"new": {"peak_tflops": 1}}}', "there is no device"),
        ("{", "JSON"),
    ],
)
def test_wrong_facts_are_refused_with_file_and_key(qvl: Call, large: str, folder: Path, text: str, named: str) -> None:
    (folder / "mine.json").write_text(text)
    result = qvl(
        "plan", large, "--device-file", "mine.json", "--device", "ascend-910b" if "new" in text else "ascend-910b2"
    )
    assert result.code == 2
    assert "mine.json" in result.err
    assert named in result.err


def test_a_new_device_has_to_state_all_facts(qvl: Call, large: str, folder: Path) -> None:
    (folder / "mine.json").write_text('{"devices": {"new": {"peak_tflops": 1}}}')
    result = qvl("plan", large, "--device-file", "mine.json", "--device", "new")
    assert result.code == 2
    assert "memory_gib" in result.err
