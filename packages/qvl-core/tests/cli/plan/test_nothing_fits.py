"""What `qvl plan` says where nothing fits, or no layout makes up the devices; and numbers that make no sense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plan_calls import SIXTY_FOUR, Call, values_of


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


def test_json_says_what_would_fit(qvl: Call, large: str) -> None:
    result = qvl("plan", large, "--devices", "8", "--memory-gib", "64", "--format", "json")
    assert result.code == 2
    found = json.loads(result.out)
    assert found["plans"] == []
    least, fewest = found["would_fit"]["least_memory"], found["would_fit"]["fewest_devices"]
    assert least["layout"]["tp"] * least["layout"]["pp"] * least["layout"]["dp"] == 8
    assert f"takes is {least['memory_gib']:.1f} GiB" in result.err
    assert fewest["memory_gib"] <= found["usable_gib"]
    assert values_of(qvl, large, *SIXTY_FOUR)["would_fit"] is None


@pytest.mark.parametrize("task", ["eval", "infer"])
@pytest.mark.parametrize("devices", ["1", "2"])
def test_recipes_that_answer_have_a_cache_and_say_what_would_fit(
    qvl: Call, folder: Path, task: str, devices: str
) -> None:
    section = '[eval]\nbenchmark = "ai2d_test"\ndata = "rows.tsv"\nbatch = 4\n' if task == "eval" else ""
    (folder / "answers.toml").write_text(
        f'schema = 1\ntask = "{task}"\n[model]\nname = "qwen2.5-vl-72b"\n[weights]\nsource = "w"\n{section}'
        '[output]\ndir = "runs/a"\n[generation]\nmax_new_tokens = 64\n[launch]\ndevice = "ascend"\n'
    )
    result = qvl("plan", "answers.toml", "--devices", devices, "--memory-gib", "64")
    assert result.code == 2
    assert "the least that any layout takes" in result.err
    more = result.err.split("--devices ")[1].split()[0]
    found = values_of(qvl, "answers.toml", "--devices", more, "--memory-gib", "64")
    assert all(stage["memory_gib"]["kv_cache"] > 0 for stage in found["plans"][0]["stages"])


def test_a_memory_too_small_for_any_number_of_devices_says_so(qvl: Call, tiny: str) -> None:
    result = qvl("plan", tiny, "--memory-gib", "0.1")
    assert result.code == 2
    assert "no number of devices would do" in result.err
    assert "Traceback" not in result.err


def test_an_odd_batch_has_devices_that_do(qvl: Call, large: str) -> None:
    words = (large, "--memory-gib", "7", "--set", "train.global_batch=15", "--set", "layout.dp=1")
    words = (*words, "--set", "launch.nodes=4")
    result = qvl("plan", *words, "--devices", "8")
    assert result.code == 2
    assert "no number of devices" not in result.err
    more = result.err.split("--devices ")[1].split()[0]
    assert qvl("plan", *words, "--devices", more, "--top", "1").code == 0


def test_numbers_that_were_not_tried_are_not_denied(qvl: Call, large: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvl_core.planner.search._MOST_TRIED", 0)
    result = qvl("plan", large, "--devices", "8", "--memory-gib", "64")
    assert "devices would do, perhaps fewer (not all numbers were tried)" in result.err
    result = qvl("plan", large, "--devices", "8", "--memory-gib", "6")
    assert "none of the numbers of devices that were tried would do" in result.err
    result = qvl("plan", large, "--devices", "8", "--memory-gib", "6", "--format", "json")
    assert json.loads(result.out)["would_fit"]["all_tried"] is False


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


@pytest.mark.parametrize(("stated", "said"), [("inf", "inf"), ("1e9", "1,000,000,000"), ("1000001", "1,000,001")])
def test_a_memory_beyond_the_bound_names_the_bound(qvl: Call, tiny: str, stated: str, said: str) -> None:
    result = qvl("plan", tiny, "--memory-gib", stated)
    assert result.code == 2
    assert "--memory-gib" in result.err
    assert f"is {said}, not a number above 0 and up to 1,000,000" in result.err


def test_a_memory_beyond_the_bound_names_the_file_that_states_it(qvl: Call, tiny: str, folder: Path) -> None:
    (folder / "mine.json").write_text('{"devices": {"cpu": {"memory_gib": 1e9}}}')
    result = qvl("plan", tiny, "--device-file", "mine.json")
    assert result.code == 2
    assert "mine.json: devices.cpu.memory_gib" in result.err
    assert "up to 1,000,000" in result.err
    assert "--memory-gib is" not in result.err
    assert qvl("plan", tiny, "--device-file", "mine.json", "--memory-gib", "16").code == 0


def test_a_recipe_that_is_wrong_is_refused_as_everywhere(qvl: Call, folder: Path) -> None:
    (folder / "bad.toml").write_text((folder / "tiny.toml").read_text().replace("steps = 20", "stepps = 20"))
    result = qvl("plan", "bad.toml")
    assert result.code == 2
    assert "stepps" in result.err


def test_the_number_that_is_named_is_within_the_bound_and_the_nearest(qvl: Call, large: str) -> None:
    # A number above the bound was named: 65,550 for 65,536.
    batch = ("--set", "train.global_batch=65550", "--set", "layout.dp=1", "--set", "launch.nodes=4")
    result = qvl("plan", large, "--devices", "65536", *batch)
    assert result.code == 2
    number = result.err.split("--devices ")[1].split()[0]
    assert int(number) <= 65_536
    assert "no layout" not in qvl("plan", large, "--devices", number, *batch, "--memory-gib", "1e6", "--top", "1").err
