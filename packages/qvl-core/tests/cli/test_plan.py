"""`qvl plan`: tables, JSON and a layout that can be pasted; and what is said where nothing fits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli
from qvl_core import load_recipe
from qvl_core.planner.memory import GIB

Call = Callable[..., Any]
SIXTY_FOUR = ("--devices", "64", "--memory-gib", "64")


@pytest.fixture
def large(folder: Path) -> str:
    assert (folder / "72b.toml").is_file()
    return "72b.toml"


@pytest.fixture
def tiny(folder: Path) -> str:
    assert (folder / "tiny.toml").is_file()
    return "tiny.toml"


def values_of(qvl: Call, *words: str) -> dict[str, Any]:
    result = qvl("plan", *words, "--format", "json")
    assert result.code == 0, result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


def test_text_has_plans_stages_reasons_and_a_layout(qvl: Call, large: str) -> None:
    result = qvl("plan", large, *SIXTY_FOUR, "--top", "3")
    assert result.code == 0, result.err
    assert "The best 3 plans" in result.out
    assert "GiB on each rank" in result.out
    assert "slower than the first" in result.out
    assert "not measured on a device" in result.out
    assert "[layout]" in result.out
    assert "Assumptions" not in result.out


def test_assumptions_have_sources_and_bands(qvl: Call, large: str) -> None:
    result = qvl("plan", large, *SIXTY_FOUR, "--top", "1", "--assumptions")
    assert "Assumptions" in result.out
    listed = values_of(qvl, large, *SIXTY_FOUR)["assumptions"]
    assert all(one["source"] and one["band"] and one["value"] for one in listed)
    assert {"activations", "peak_tflops", "memory_gib", "lengths of samples"} <= {one["name"] for one in listed}


def test_json_states_every_stage_and_parts_add_up(qvl: Call, large: str) -> None:
    found = values_of(qvl, large, *SIXTY_FOUR, "--top", "2")
    assert [found["schema"], found["devices"], found["memory_gib"], len(found["plans"])] == [1, 64, 64, 2]
    for plan in found["plans"]:
        layout = plan["layout"]
        assert layout["tp"] * layout["pp"] * layout["dp"] == 64
        assert plan["memory_gib"] <= found["usable_gib"] == 57.6
        assert len(plan["stages"]) == layout["pp"]
        for stage in plan["stages"]:
            parts = dict(stage["memory_gib"])
            assert parts.pop("total") == pytest.approx(sum(parts.values()), abs=0.001)
        assert plan["reasons"]


def test_the_layout_can_be_pasted_and_is_planned_the_same(qvl: Call, large: str, folder: Path) -> None:
    result = qvl("plan", large, *SIXTY_FOUR, "--format", "toml")
    assert result.code == 0
    layout = tomli.loads(result.out)["layout"]
    before, _, after = (folder / large).read_text().partition("[layout]")
    after = after[after.index("\n[") :]
    settings = [
        word
        for line in result.out.splitlines()
        if line.startswith("# goes with")
        for word in line.split()
        if "=" in word
    ]
    (folder / "pasted.toml").write_text(f"{before}\n{result.out}\n{after}")
    recipe = load_recipe("pasted.toml", settings)
    assert recipe.parallel.world_size == 64
    assert list(recipe.parallel.text_stages) == layout["text_stages"]
    assert "GiB on each rank" in qvl("show", "pasted.toml", *(w for s in settings for w in ("--set", s))).out


@pytest.mark.parametrize("devices", [12, 36, 192])
def test_settings_that_go_with_a_layout_make_up_its_devices(qvl: Call, large: str, devices: int) -> None:
    words = ("--devices", str(devices), "--memory-gib", "256", "--format", "toml")
    out = qvl("plan", large, *words).out
    layout = tomli.loads(out)["layout"]
    line = next(line for line in out.splitlines() if line.startswith("# goes with"))
    overrides = [word for word in line.split() if "=" in word]
    overrides += [f"layout.{key}={json.dumps(value)}" for key, value in layout.items()]
    assert load_recipe(large, overrides).parallel.world_size == devices


def test_devices_and_memory_default_to_the_recipe(qvl: Call, tiny: str) -> None:
    found = values_of(qvl, tiny)
    assert (found["devices"], found["device"], found["memory_gib"]) == (1, "cpu", 16.0)


def test_what_cannot_fit_says_the_smallest_that_would(qvl: Call, large: str) -> None:
    result = qvl("plan", large, "--devices", "8", "--memory-gib", "64")
    assert result.code == 2
    assert "nothing fits: 8 devices of 64 GiB" in result.err
    need = result.err.split("--memory-gib ")[1].split()[0]
    more = result.err.split("--devices ")[1].split()[0]
    # Both fixes work as they stand.
    assert qvl("plan", large, "--devices", "8", "--memory-gib", need).code == 0
    assert qvl("plan", large, "--devices", more, "--memory-gib", "64").code == 0
    # In steps of eight there is nothing smaller.
    assert all(
        qvl("plan", large, "--devices", str(count), "--memory-gib", "64").code == 2 for count in range(8, int(more), 8)
    )


def test_a_memory_too_small_for_any_number_of_devices_says_so(qvl: Call, tiny: str) -> None:
    result = qvl("plan", tiny, "--memory-gib", "0.1")
    assert result.code == 2
    assert "no number of devices would do" in result.err
    assert "Traceback" not in result.err


def test_devices_that_no_layout_makes_up_name_a_number_that_one_does(qvl: Call, tiny: str) -> None:
    result = qvl("plan", tiny, "--devices", "97")
    assert result.code == 2
    assert "97, which no layout" in result.err
    number = result.err.split("--devices ")[1].split()[0]
    assert qvl("plan", tiny, "--devices", number).code == 0


@pytest.mark.parametrize(
    "words", [("--devices", "0"), ("--devices", "-3"), ("--memory-gib", "0"), ("--memory-gib", "nan"),
              ("--memory-gib", "-1"), ("--memory-gib", "inf")]
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused(qvl: Call, tiny: str, words: tuple[str, str]) -> None:
    result = qvl("plan", tiny, *words)
    assert result.code == 2
    assert words[0] in result.err
    assert "fix:" in result.err


def test_a_recipe_that_is_wrong_is_refused_as_everywhere(qvl: Call, folder: Path) -> None:
    (folder / "bad.toml").write_text((folder / "tiny.toml").read_text().replace("steps = 20", "stepps = 20"))
    result = qvl("plan", "bad.toml")
    assert result.code == 2
    assert "stepps" in result.err


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


def report_of(**changes: object) -> str:
    lengths = {"shortest": 10, "mean": 100.0, "median": 90, "p90": 200, "p99": 300, "longest": 400}
    values: dict[str, object] = {
        "schema": 1,
        "settings": {"sequence_length": 512},
        "lengths": lengths,
        "tokens": {"text": 30_000, "image": 70_000, "video": 0, "all": 100_000},
    }
    return json.dumps({**values, **changes})


def test_lengths_come_from_a_report_of_data_check(qvl: Call, tiny: str, folder: Path) -> None:
    (folder / "report.json").write_text(report_of())
    data = values_of(qvl, tiny, "--data-report", "report.json")["data"]
    assert (data["tokens"], data["longest"], data["measured"]) == (100.0, 400, True)
    assert data["media_tokens"] == pytest.approx(70)
    assert "report.json" in data["source"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{}", "no report"),
        (report_of(schema=2), "format 1"),
        (report_of(lengths=None), "no sample"),
        (report_of(lengths={"mean": "long"}), "lengths"),
        (report_of(settings={"sequence_length": 1024}), "1024"),
        (report_of(lengths={"mean": 600.0, "longest": 400}), "belong together"),
        ("nonsense", "JSON"),
    ],
)
def test_a_report_that_is_none_is_refused(qvl: Call, tiny: str, folder: Path, text: str, named: str) -> None:
    (folder / "report.json").write_text(text)
    result = qvl("plan", tiny, "--data-report", "report.json")
    assert result.code == 2
    assert named in result.err
    assert "report.json" in result.err


def test_a_missing_report_is_named(qvl: Call, tiny: str) -> None:
    result = qvl("plan", tiny, "--data-report", "nowhere.json")
    assert result.code == 2
    assert "nowhere.json" in result.err


def test_lengths_come_from_the_index_of_the_data(qvl: Call, tiny: str, folder: Path) -> None:
    import numpy as np

    (folder / ".qvl-cache").mkdir()
    about = json.dumps({"files": [str(folder / "data.json")]}).encode()
    np.savez(
        folder / ".qvl-cache" / "index-0.npz",
        **{
            "about": np.frombuffer(about, np.uint8),
            # One is longer than the recipe's limit and does not count.
            "samples.tokens": np.array([100, 300, 9000], np.int32),
            "samples.text_tokens": np.array([50, 50, 50], np.int32),
        },
    )
    data = values_of(qvl, tiny)["data"]
    assert (data["tokens"], data["longest"], data["measured"]) == (200.0, 300, True)
    assert data["media_tokens"] == pytest.approx(150)


def test_a_damaged_index_is_left_alone(qvl: Call, tiny: str, folder: Path) -> None:
    (folder / ".qvl-cache").mkdir()
    (folder / ".qvl-cache" / "index-0.npz").write_bytes(b"PK\x03\x04 no archive")
    assert values_of(qvl, tiny)["data"]["measured"] is False


def test_show_prints_the_plan_of_the_recipe_stage_by_stage(qvl: Call, large: str) -> None:
    result = qvl("show", large)
    assert result.code == 0
    assert "Plan (arithmetic, not measured): GiB on each rank" in result.out
    assert "the fullest rank takes" in result.out


def test_more_memory_never_makes_the_best_plan_slower(qvl: Call, large: str) -> None:
    steps = [
        values_of(qvl, large, "--devices", "64", "--memory-gib", str(size))["plans"][0]["step_s"]
        for size in (40, 48, 64, 80, 128)
    ]
    assert steps == sorted(steps, reverse=True)
    assert GIB == 2**30
