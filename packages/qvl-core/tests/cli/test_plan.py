"""`qvl plan`: tables, JSON and a layout that can be pasted; and what is said where nothing fits."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli
from qvl_core import load_recipe
from qvl_core.planner.kept_lengths import keep_lengths, length_settings
from qvl_core.planner.memory import GIB
from qvl_core.planner.recipe_plan import recipe_plan
from qvl_core.planner.workload import PROMPT_TOKENS, prompts_of

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


def test_a_clock_is_said_beside_that_of_the_first(qvl: Call, large: str) -> None:
    plans = values_of(qvl, large, "--devices", "1024", "--memory-gib", "64")["plans"]
    first = plans[0]
    assert not [reason for reason in first["reasons"] if "by that clock" in reason]
    told = 0
    for plan in plans[1:]:
        said = [reason for reason in plan["reasons"] if "by that clock" in reason]
        assert bool(said) == any(abs(one["clock_s"] / one["step_s"] - 1) >= 0.02 for one in (first, plan))
        slower = plan["clock_s"] / first["clock_s"] - 1
        word = "as fast as" if abs(slower) < 0.01 else "slower than" if slower > 0 else "faster than"
        assert all(f"{word} the first, which takes {first['clock_s']:.3g} s" in reason for reason in said)
        told += len(said)
    assert told


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


def test_json_has_the_keys_that_programs_go_by(qvl: Call, large: str, answers: str) -> None:
    for recipe, devices in ((large, "64"), (answers, "1")):
        values = values_of(qvl, recipe, "--devices", devices, "--memory-gib", "64")
        assert values["schema"] == 1
        assert set(values) == {
            *("recipe", "schema", "model", "task", "devices", "device", "memory_gib", "usable_gib", "global_batch"),
            *("data", "plans", "would_fit", "assumptions"),
        }
        for plan in values["plans"]:
            assert set(plan) == {
                *("layout", "micro_batch", "micro_batches", "memory_gib", "fullest_stage", "step_s", "clock_s"),
                *("samples_per_s", "tokens_per_s", "mfu", "bubble", "bottleneck", "shares", "stages", "reasons"),
            }
            assert set(plan["layout"]) == {"tp", "pp", "dp", "vision_stages", "text_stages", "zero1", "recompute"}
            for stage in plan["stages"]:
                assert set(stage) == {
                    *("stage", "vision_layers", "text_layers", "memory_gib", "forward_s", "backward_s", "compute_s"),
                    *("starting_s", "communication_s", "replicas_s", "update_s"),
                }
                assert set(stage["memory_gib"]) == {
                    *("weights", "gradients", "new_gradients", "master", "moments", "vision", "merger", "text"),
                    *("logits", "in_flight", "kv_cache", "communication", "base", "evaluation", "total"),
                }


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


ANSWERS = """\
schema = 1
task = "infer"
[model]
name = "qwen2.5-vl-7b"
[weights]
source = "w"
[infer]
prompt = "What is this?"
batch = 4
[output]
dir = "runs/a"
[generation]
max_new_tokens = 64
[launch]
device = "ascend"
devices_per_node = 1
"""


@pytest.fixture
def answers(folder: Path) -> str:
    """Write a recipe that answers on one device."""
    (folder / "answers.toml").write_text(ANSWERS)
    return "answers.toml"


def test_answers_of_all_replicas_are_counted_and_are_no_steps(qvl: Call, answers: str) -> None:
    words = ("--set", "layout.dp=2", "--set", "launch.devices_per_node=2")
    shown = qvl("show", answers, *words)
    assert "s for 8 answers of 64 tokens" in shown.out
    out = qvl("plan", answers, *words, "--top", "1").out
    assert "s/batch" in out
    assert "answers/s" in out
    assert "s/step" not in out
    plan = values_of(qvl, answers, *words, "--top", "1")["plans"][0]
    pasted = qvl("plan", answers, *words, "--format", "toml").out
    assert f"s for {4 * plan['layout']['dp']} answers of 64 tokens" in pasted
    assert "a step" not in pasted


@pytest.mark.parametrize(("devices", "nodes", "each"), [(1, 1, 1), (4, 1, 4), (8, 1, 8), (16, 2, 8), (12, 2, 6)])
def test_a_recipe_for_one_device_fills_machines_before_it_takes_more(
    qvl: Call, answers: str, devices: int, nodes: int, each: int
) -> None:
    out = qvl("plan", answers, "--devices", str(devices), "--format", "toml").out
    overrides = [word for line in out.splitlines() if line.startswith("# goes with") for word in line.split()]
    overrides = [word for word in overrides if "=" in word]
    overrides += [f"layout.{key}={json.dumps(value)}" for key, value in tomli.loads(out)["layout"].items()]
    launch = load_recipe(answers, overrides).launch
    assert (launch.nodes, launch.devices_per_node) == (nodes, each)


def test_a_recipe_for_several_machines_keeps_their_size(qvl: Call, large: str) -> None:
    words = ("--set", "launch.nodes=16", "--set", "launch.devices_per_node=4")
    out = qvl("plan", large, *words, "--devices", "32", "--memory-gib", "256", "--format", "toml").out
    assert "launch.nodes=8 --set launch.devices_per_node=4" in " ".join(out.split())


def test_a_micro_batch_that_changes_the_losses_is_told(qvl: Call, large: str) -> None:
    words = (large, "--devices", "64", "--memory-gib", "256", "--top", "1")
    weighed = ("--set", "train.loss_reduction=micro_batch")
    (plan,) = values_of(qvl, *words, *weighed)["plans"]
    size = plan["micro_batch"]
    assert size > 1
    said = f"changes the losses: train.micro_batch is {size} instead of 1"
    assert any(said in line for line in plan["reasons"])
    assert said in qvl("plan", *words, *weighed).out
    pasted = qvl("plan", *words, *weighed, "--format", "toml").out
    assert f"# {said}" in pasted
    assert list(tomli.loads(pasted)) == ["layout"]
    # Neither a loss of tokens nor the micro batch that the recipe has changes anything.
    assert "losses" not in qvl("plan", *words).out
    same = ("--set", f"train.micro_batch={size}", "--set", "train.global_batch=192")
    assert "losses" not in qvl("plan", *words, *weighed, *same, "--format", "toml").out


@pytest.mark.parametrize(("recipe", "device"), [("tiny.toml", "ascend-910b2"), ("72b.toml", "cpu")])
def test_kernels_are_those_of_the_device_planned_for(qvl: Call, folder: Path, recipe: str, device: str) -> None:
    words = (recipe, "--devices", "1", "--memory-gib", "1e5", "--device", device)
    listed = values_of(qvl, *words)["assumptions"]
    value = next(one["value"] for one in listed if one["name"] == "activations")
    assert ("plain kernels" in value) is (device == "cpu")
    assert ("Ascend kernels" in value) is (device != "cpu")


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
        (report_of(lengths={"mean": 0.25, "longest": 0.5}), "not a whole number"),
        (report_of(lengths={"mean": 100.0, "longest": 300.5}), "not a whole number"),
        ("nonsense", "JSON"),
    ],
)
def test_a_report_that_is_none_is_refused(qvl: Call, tiny: str, folder: Path, text: str, named: str) -> None:
    (folder / "report.json").write_text(text)
    result = qvl("plan", tiny, "--data-report", "report.json")
    assert result.code == 2
    assert named in result.err
    assert "report.json" in result.err


def settings_of(tiny: str, *overrides: str) -> dict[str, object]:
    stated = json.loads(json.dumps(length_settings(load_recipe(tiny, overrides))))
    return {"sequence_length": 512, "lengths_depend_on": stated}


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("data.image.max_pixels=50176", "image"),
        ("data.too_long=error", "too_long"),
        ("data.loss_on=all", "loss_on"),
        ('data.sources=[{path="other.json"}]', "sources"),
    ],
)
def test_a_report_of_other_settings_is_refused(qvl: Call, tiny: str, folder: Path, setting: str, named: str) -> None:
    (folder / "report.json").write_text(report_of(settings=settings_of(tiny)))
    words = (tiny, "--data-report", "report.json")
    assert values_of(qvl, *words)["data"]["note"] == ""
    assert values_of(qvl, *words, "--set", "data.workers=3", "--set", "train.seed=7")["data"]["measured"]
    result = qvl("plan", *words, "--set", setting)
    assert result.code == 2
    assert f"settings.lengths_depend_on\n  is not the recipe's: {named}" in result.err


def test_a_report_of_another_model_is_refused(qvl: Call, tiny: str, folder: Path) -> None:
    (folder / "report.json").write_text(report_of(model="qwen2.5-vl-7b"))
    result = qvl("plan", tiny, "--data-report", "report.json")
    assert result.code == 2
    assert "is qwen2.5-vl-7b, the recipe's is qwen2.5-vl-tiny" in result.err


def test_a_report_that_states_no_settings_is_taken_with_a_note(qvl: Call, tiny: str, folder: Path) -> None:
    (folder / "report.json").write_text(report_of())
    assert "earlier version" in values_of(qvl, tiny, "--data-report", "report.json")["data"]["note"]


def test_prompts_are_compared_by_what_their_lengths_depend_on(qvl: Call, tiny: str, answers: str, folder: Path) -> None:
    changes = ("model.name=qwen2.5-vl-7b", "data.image.max_pixels=50176")
    (folder / "report.json").write_text(report_of(settings=settings_of(tiny, *changes)))
    words = (answers, "--data-report", "report.json", "--set", "data.sequence_length=512")
    assert values_of(qvl, *words, "--set", "data.image.max_pixels=50176")["data"]["measured"]
    assert "depend_on" in qvl("plan", *words, "--set", "data.image.max_pixels=100352").err


def test_a_missing_report_is_named(qvl: Call, tiny: str) -> None:
    result = qvl("plan", tiny, "--data-report", "nowhere.json")
    assert result.code == 2
    assert "nowhere.json" in result.err


VALUES = {
    "lengths": {"mean": 200.0, "longest": 300},
    "tokens": {"text": 100, "all": 400},
    "per_sample": {"looked_at": 2, "labels": 5.0, "frames": 3.0, "longest_media": 250, "longest_text": 80},
}


@pytest.fixture
def kept(tiny: str, folder: Path) -> Path:
    """Keep lengths of the tiny recipe's data, as `qvl data check` does; give the file of records."""
    records = folder / "data.json"
    records.write_text("[]")
    assert keep_lengths(load_recipe(tiny), [records, folder / "tokenizer.json"], VALUES) is not None
    return records


def test_kept_lengths_are_taken_and_told(qvl: Call, tiny: str, kept: Path) -> None:
    data = values_of(qvl, tiny)["data"]
    assert (data["tokens"], data["media_tokens"], data["labels"], data["frames"]) == (200.0, 150.0, 5.0, 3.0)
    assert (data["longest"], data["longest_media"], data["longest_labels"]) == (300, 250, 80)
    assert data["measured"]
    assert not data["note"]
    assert ".qvl-cache/lengths-" in qvl("plan", tiny).out
    assert ".qvl-cache/lengths-" in qvl("show", tiny).out


def test_a_file_that_was_only_touched_keeps_its_lengths(qvl: Call, tiny: str, kept: Path) -> None:
    os.utime(kept, (1, 1))
    assert values_of(qvl, tiny)["data"]["measured"]


def test_settings_that_no_length_depends_on_keep_them(qvl: Call, tiny: str, kept: Path) -> None:
    words = ("--set", "data.workers=3", "--set", "train.seed=7", "--set", "layout.pp=2", "--set", "train.steps=3")
    assert values_of(qvl, tiny, *words)["data"]["measured"]
    packed = values_of(qvl, tiny, "--set", "data.packing=true")["data"]
    assert (packed["longest"], packed["frames"]) == (512, pytest.approx(0.95 * 512 / 200 * 3))


@pytest.mark.parametrize("change", ["[1]", None])
def test_lengths_of_records_that_have_changed_are_refused_with_a_note(
    qvl: Call, tiny: str, kept: Path, change: str | None
) -> None:
    kept.write_text(change) if change is not None else kept.unlink()
    result = qvl("plan", tiny)
    assert "is stale" in result.out
    assert "data.json has changed since" in " ".join(result.out.split())
    assert "qvl data check tiny.toml" in " ".join(result.out.split())
    assert values_of(qvl, tiny)["data"]["measured"] is False


def test_a_tokenizer_that_has_come_since_makes_lengths_stale(qvl: Call, tiny: str, kept: Path) -> None:
    kept.with_name("tokenizer.json").write_text("{}")
    assert "tokenizer.json has changed" in values_of(qvl, tiny)["data"]["note"]


@pytest.fixture
def pictures(qvl: Call, tiny: str, kept: Path) -> list[Path]:
    """Keep lengths of a thousand pictures."""
    found = [kept.with_name(f"{number}.png") for number in range(1000)]
    for number, picture in enumerate(found):
        picture.write_bytes(b"x" * (100 + number))
    assert keep_lengths(load_recipe(tiny), [kept], VALUES, [(one.name, one.stat().st_size) for one in found])
    assert "256 of 1,000 media files looked at again" in values_of(qvl, tiny)["data"]["source"]
    return found


def test_media_that_were_made_smaller_are_noticed(qvl: Call, tiny: str, pictures: list[Path]) -> None:
    # A hundredth of them is enough, wherever they are.
    for picture in pictures[500:510]:
        picture.write_bytes(b"x")
    note = values_of(qvl, tiny)["data"]["note"]
    assert "is stale" in note
    assert "50" in Path(note.split("is stale: ")[1]).name
    pictures[0].unlink()
    assert "/0.png and" in values_of(qvl, tiny)["data"]["note"]


def test_media_that_were_only_touched_are_the_same(qvl: Call, tiny: str, pictures: list[Path]) -> None:
    for picture in pictures:
        os.utime(picture, (1, 1))
    assert values_of(qvl, tiny)["data"]["measured"]


def test_lengths_kept_by_an_earlier_version_are_taken(qvl: Call, tiny: str, pictures: list[Path]) -> None:
    (file,) = (pictures[0].parent / ".qvl-cache").glob("lengths-*.json")
    content = json.loads(file.read_text())
    del content["media"]
    file.write_text(json.dumps(content))
    assert values_of(qvl, tiny)["data"]["measured"]


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("data.image.max_pixels=50176", "image"),
        ("data.sequence_length=1024", "sequence_length"),
        ("data.too_long=error", "too_long"),
        ("data.validation.fraction=0.5", "seed, validation"),
        ("data.loss_on=all", "loss_on"),
    ],
)
def test_lengths_of_other_settings_are_refused_with_a_note(
    qvl: Call, tiny: str, kept: Path, setting: str, named: str
) -> None:
    data = values_of(qvl, tiny, "--set", setting)["data"]
    assert data["measured"] is False
    assert f"but other settings: {named}" in data["note"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"schema": 1, "settings": {}, "files": {}, "values": {}, "media": 3}',
        '{"schema": 99, "settings": {}, "files": {}, "values": {}}',
    ],
)
def test_a_damaged_file_of_lengths_is_left_alone(qvl: Call, tiny: str, kept: Path, text: str) -> None:
    (file,) = (kept.parent / ".qvl-cache").glob("lengths-*.json")
    file.write_text(text)
    assert values_of(qvl, tiny)["data"]["measured"] is False


def test_kept_lengths_that_make_no_sense_are_refused_with_a_note(qvl: Call, tiny: str, kept: Path) -> None:
    keep_lengths(load_recipe(tiny), [kept], {**VALUES, "lengths": {"mean": 400.0, "longest": 300}})
    assert "do not belong together" in values_of(qvl, tiny)["data"]["note"]


def test_show_prints_the_plan_of_the_recipe_stage_by_stage(qvl: Call, large: str) -> None:
    result = qvl("show", large)
    assert result.code == 0
    assert "Plan (arithmetic, not measured): GiB on each rank" in result.out
    assert "the fullest rank takes" in result.out


def test_a_vision_cache_is_counted(qvl: Call, large: str) -> None:
    plain = values_of(qvl, large, *SIXTY_FOUR)
    cached = values_of(qvl, large, *SIXTY_FOUR, "--set", "data.vision_cache=true")
    assert cached["plans"][0]["step_s"] < plain["plans"][0]["step_s"]
    named = {one["name"] for one in cached["assumptions"]} - {one["name"] for one in plain["assumptions"]}
    assert named == {"vision features"}


EVALUATION = ("eval.benchmark=ai2d_test", "eval.data=data/AI2D_TEST.tsv", "eval.every=100")


def with_evaluation(*settings: str) -> list[str]:
    return [word for one in (*EVALUATION, *settings) for word in ("--set", one)]


def test_an_evaluation_during_training_is_counted(qvl: Call, large: str) -> None:
    plain = values_of(qvl, large, "--device", "ascend-910b2", *SIXTY_FOUR)["plans"][0]
    assert all(stage["memory_gib"]["evaluation"] == 0 for stage in plain["stages"])
    # A few rows take less than the activations of a step, which are gone by then.
    few = values_of(qvl, large, *SIXTY_FOUR, *with_evaluation("eval.batch=1", "eval.held_tokens=4096"))
    assert few["plans"][0]["memory_gib"] == plain["memory_gib"]
    assert any(one["name"] == "evaluation during training" for one in few["assumptions"])
    rows = ("eval.batch=256", "eval.held_tokens=400000", "generation.max_new_tokens=2000")
    many = values_of(qvl, large, *SIXTY_FOUR, *with_evaluation(*rows))
    assert any(stage["memory_gib"]["evaluation"] > 0 for stage in many["plans"][0]["stages"])
    for stage in many["plans"][0]["stages"]:
        *parts, total = stage["memory_gib"].values()
        assert sum(parts) == pytest.approx(total, abs=1e-3)
    assert "evaluation" in qvl("plan", large, *SIXTY_FOUR, *with_evaluation(*rows)).out
    # One that never runs takes nothing.
    never = values_of(qvl, large, *SIXTY_FOUR, *with_evaluation("eval.batch=256", "eval.every=0"))
    assert never["plans"] == values_of(qvl, large, *SIXTY_FOUR)["plans"]


def test_an_evaluation_takes_as_much_during_training_as_on_its_own(large: str) -> None:
    recipe = load_recipe(large, [*EVALUATION, "eval.batch=2000", "eval.held_tokens=9000000"])
    plan = recipe_plan(recipe)
    assert plan.job.evaluation is not None
    alone = recipe_plan(recipe, plan.job.evaluation)
    for stage, answering in zip(plan.stages, alone.stages, strict=True):
        held, own = stage.memory, answering.memory
        while_it_runs = held.state + held.communication + held.base
        while_it_runs += own.vision + own.merger + own.text + own.logits + own.kv_cache
        assert held.total == pytest.approx(max(held.without_evaluation, while_it_runs))
        assert held.total > held.without_evaluation


@pytest.mark.parametrize(("name", "tokens"), [("demo", 1280), ("vlmevalkit", 16_384), (None, 334)])
def test_prompts_are_as_large_as_eval_pixels_allows(large: str, name: str | None, tokens: int) -> None:
    load = prompts_of(load_recipe(large, [*EVALUATION, *([f"eval.pixels={name}"] if name else [])]))
    assert (load.longest_media, load.longest) == (tokens, tokens + PROMPT_TOKENS)


def test_a_prompt_with_media_is_as_large_as_these_may_be(answers: str) -> None:
    alone = prompts_of(load_recipe(answers))
    two = prompts_of(load_recipe(answers, ["infer.images=['a.png','b.png']"]))
    assert two.longest_media == 2 * alone.longest_media > 0
    video = prompts_of(load_recipe(answers, ["infer.videos=['a.mp4']", "data.video.max_frames=32"]))
    assert video.longest_media == 16 * 131_072 // 784
    bounded = prompts_of(load_recipe(answers, ["infer.videos=['a.mp4']", "data.video.total_pixels=784000"]))
    assert bounded.longest_media == 1000


def test_media_that_exceed_the_window_are_said_to_be_cut(answers: str) -> None:
    videos = "infer.videos=['a.mp4','b.mp4']"
    cut = prompts_of(load_recipe(answers, ["model.name='qwen2.5-vl-tiny'", videos, "data.video.max_frames=32"]))
    assert cut.longest == 4096
    # 16 pairs of frames of 131,072 pixels, 784 of them a token, twice.
    assert cut.source.endswith("of 2 videos of max_frames, 5,348 tokens, and 512 of text; cut to the model's 4,096")
    assert "cut" not in prompts_of(load_recipe(answers)).source


def test_more_memory_never_makes_the_best_plan_slower(qvl: Call, large: str) -> None:
    steps = [
        values_of(qvl, large, "--devices", "64", "--memory-gib", str(size))["plans"][0]["step_s"]
        for size in (40, 48, 64, 80, 128)
    ]
    assert steps == sorted(steps, reverse=True)
    assert GIB == 2**30


def test_tables_fit_a_narrow_terminal(large: str) -> None:
    from io import StringIO

    from qvl_core.cli.commands.plan import print_stages
    from rich.console import Console

    target = Console(file=StringIO(), width=80)
    print_stages(target, recipe_plan(load_recipe(large)), "Plan")
    written = target.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, written.splitlines())) <= 80
    # No number is broken over lines: every row of numbers begins with its stage, or with several of them.
    rows = [line.split()[0] for line in written.splitlines() if line.strip()[:1].isdigit()]
    assert set(rows) <= {"0", "1", "2", "3", "1-2", "2-3", "1-3"}
    assert all(word in written for word in ("communication", "optimizer", "in flight", "all"))


def test_many_stages_that_hold_the_same_share_a_row(qvl: Call, large: str) -> None:
    result = qvl("plan", large, "--devices", "97", "--memory-gib", "64", "--top", "1")
    assert result.code == 0, result.err
    (stages,) = values_of(qvl, large, "--devices", "97", "--memory-gib", "64", "--top", "1")["plans"]
    table = result.out.split("GiB on each rank")[1].split("milliseconds")[0].splitlines()
    rows = [line.split() for line in table if line.strip()[:1].isdigit() and "v" in line]
    assert len(rows) < 20 < len(stages["stages"]) == 97
    assert "the first is the fullest" in result.out
    # Rows go through all stages, and a row's numbers are those of its first stage, which is the fullest of them.
    reached = 0
    for name, vision, text, *numbers in rows:
        first, last = (int(part) for part in (name.split("-") * 2)[:2])
        assert first == reached
        reached = last + 1
        members = stages["stages"][first:reached]
        assert {(f"{one['vision_layers']}v", f"{one['text_layers']}t") for one in members} == {(vision, text)}
        assert float(numbers[-1]) == pytest.approx(max(one["memory_gib"]["total"] for one in members), abs=0.006)
    assert reached == 97


@pytest.mark.parametrize("width", [30, 60, 80])
def test_the_layout_to_paste_is_not_folded_on_a_terminal(
    large: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from io import StringIO

    from qvl_core.cli import terminal
    from qvl_core.cli.app import build_app
    from rich.console import Console

    target = Console(file=StringIO(), width=width, highlight=False, emoji=False, markup=False, force_terminal=True)
    monkeypatch.setattr(terminal, "console", lambda: target)
    build_app(["plan"])(["plan", large, "--devices", "32", "--memory-gib", "256", "--top", "1"], standalone_mode=False)
    written = target.file.getvalue()  # type: ignore[attr-defined]
    pasted = written.split("To paste into the recipe")[1].partition("\n")[2]
    assert list(tomli.loads(pasted)) == ["layout"]
    assert next(line for line in pasted.splitlines() if line.startswith("# goes with")).count("--set") >= 2
