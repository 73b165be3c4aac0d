"""The keys: every one documented, wrong ones refused with the value seen and a fix, all at once."""

from __future__ import annotations

import json
import re

import pytest
from pydantic import BaseModel
from qvl_core.errors import Problem, RecipeError
from qvl_core.recipe import recipe_json_schema
from qvl_core.recipe.draft import all_keys, dotted, section_of
from qvl_core.recipe.wording import shown

KEYS = [(dotted(path), field) for path, field in all_keys()]
NUMBERS = [
    "layout.tp",
    "layout.pp",
    "layout.dp",
    "data.sequence_length",
    "data.image.min_pixels",
    "data.image.max_pixels",
    "data.video.fps",
    "data.video.max_frames",
    "train.steps",
    "train.epochs",
    "train.micro_batch",
    "train.global_batch",
    "train.optimizer.lr",
    "train.optimizer.eps",
    "train.optimizer.lr_scale.text",
    "train.lora.rank",
    "train.lora.alpha",
    "train.save.every",
    "train.save.keep",
    "train.log.every",
    "train.log.validate_every",
    "generation.max_new_tokens",
    "generation.top_p",
    "generation.repetition_penalty",
    "launch.devices_per_node",
    "launch.nodes",
]


@pytest.mark.parametrize(("key", "field"), KEYS, ids=[key for key, _ in KEYS])
def test_every_key_is_documented(key: str, field) -> None:
    assert field.description, key
    assert field.description.endswith("."), key
    assert field.examples, key
    if section_of(field.annotation) is None and not field.is_required():
        states_default = re.search(
            r"[Dd]efault|Either|Only|At least one|Needed|Percent|percent|seconds|GiB|nats|second", field.description
        )
        assert states_default or key.startswith("env."), f"{key} does not say what holds when it is left out"


def test_json_schema_carries_every_description() -> None:
    text = json.dumps(recipe_json_schema())
    for key, field in KEYS:
        assert json.dumps(field.description)[1:-1] in text, key


def test_json_schema_forbids_unknown_keys() -> None:
    schema = recipe_json_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"schema", "task", "model", "weights", "launch", "output"}


def test_minimal_recipe_gets_the_documented_defaults(load) -> None:
    recipe = load()
    assert recipe.data.image.max_pixels == 262144
    assert recipe.train.schedule.name == "cosine"
    assert recipe.train.optimizer.betas == (0.9, 0.999)
    assert recipe.generation.repetition_penalty == 1.05
    assert recipe.model.dtype == "float32"
    assert isinstance(recipe, BaseModel)


def test_recipe_is_frozen(load) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().layout.tp = 2


def test_resolved_is_plain_json(load) -> None:
    resolved = load().resolved()
    assert json.loads(json.dumps(resolved)) == resolved
    assert resolved["schema"] == 1
    assert resolved["layout"]["vision_stages"] == [4]


@pytest.mark.parametrize("value", ["0", "-1", "-1.5"])
@pytest.mark.parametrize("key", NUMBERS)
def test_zero_and_negative_numbers_are_refused_once(refuse, key: str, value: str) -> None:
    found = [problem for problem in refuse(f"{key}={value}") if problem.key == key]
    assert len(found) == 1
    assert f"is {value}" in found[0].message
    assert found[0].fix


@pytest.mark.parametrize(
    ("override", "message", "fix"),
    [
        ('layout.tp="2"', 'is "2"; it has to be a whole number', "tp = 2"),
        ("layout.tp=2.0", "is 2.0; it has to be a whole number", "tp = 2"),
        ("layout.tp=true", "is true; it has to be a whole number", "tp = 1"),
        ("train.optimizer.lr='1e-5'", 'is "1e-5"; it has to be a number', "lr = 1e-05"),
        ('layout.zero1="true"', 'is "true"; it has to be true or false', "zero1 = true"),
        ("output.dir=5", "is 5; it has to be text in quotes", 'dir = "5"'),
        ("output.dir=''", 'is ""; it has to have at least 1 character', 'dir = "runs/7b_sft"'),
        ("layout.text_stages=4", "is 4; it has to be a list", "text_stages = [4]"),
        ("train.schedule.name=cosin", "it can be 'cosine', 'linear' or 'constant'", 'name = "cosine"'),
        ("layout.recompute=some", 'is "some"', 'recompute = ["text"]'),
        ("train.optimizer=5", "is 5; it has to be a table", "[train.optimizer]\nlr = "),
        ("task=train", "it can be 'sft', 'eval' or 'infer'", 'task = "sft"'),
        ("task=tasks", "it can be 'sft', 'eval' or 'infer'", 'task = "sft"'),
        ("launch.device=npu", "it can be 'ascend' or 'cpu'", 'device = "ascend"'),
        ("model.dtype=fp32", "it can be 'bfloat16' or 'float32'", 'dtype = "float32"'),
        ("model.dtype=float16", "training in float16 needs loss scaling", 'dtype = "bfloat16"'),
        ('schema="1"', 'is "1"; it can be 1', "schema = 1"),
        ("layout.tp=-1", "is -1; it has to be at least 1. Tensor parallel degree", "tp = 1"),
        ("layout.tp=4096", "it has to be at most 1024", "tp = 1024"),
        ("train.optimizer.lr=0", "it has to be greater than 0", "lr = 1e-05"),
        ("layout.zero1=1", "has to be true or false", "zero1 = true"),
        ("model.freeze=[vision, merger]", "it has to be a list", 'freeze = ["vision", "merger"]'),
        ('model.freeze=["visoin", "text"]', "it can be 'vision'", 'freeze = ["vision", "text"]'),
        ("env.HCCL_CONNECT_TIMEOUT=60", "it has to be at least 120", "HCCL_CONNECT_TIMEOUT = 120"),
        ("schema=2", "is 2; it can be 1", "schema = 1"),
        ("train.optimizer.betas=[0.9]", "is missing", ""),
        ("data.sources=[{path = 'a', wight = 2}]", "is not a key of recipes", "did you mean data.sources[0].weight?"),
        ("data.sources=[{format = 'llava'}]", "is missing", "path = "),
        ("train.optimizer.lr=nan", "is nan; it has to be a finite number", "lr = 1e-05"),
        ("train.optimizer.lr=1e400", "is inf; it has to be a finite number", "lr = 1e-05"),
        ("train.seed=99999999999999999999999", "does not fit into 64 bits", "seed = 42"),
        ("train.seed=4294967296", "it has to be at most 4294967295", "seed = 4294967295"),
        ('output.dir="a\\u0000b"', "holds a NUL character", "dir = "),
        ("expected.loss_last=1", "is missing", ""),
    ],
)
def test_wrong_value_shows_what_was_seen_and_a_fix(refuse, override: str, message: str, fix: str) -> None:
    found = refuse(override)
    assert any(message in problem.message and fix in problem.fix for problem in found), [p.render() for p in found]
    assert len({(problem.key, problem.message) for problem in found}) == len(found)


@pytest.mark.parametrize(
    ("key", "fix"),
    [
        ("layout.text_stage", "did you mean layout.text_stages?"),
        ("layout.TP", "did you mean layout.tp?"),
        ("train.lr", "did you mean train.optimizer.lr? Write it under [train.optimizer]"),
        ("train.optimiser.lr", "did you mean train.optimizer?"),
        ("modle.name", "did you mean model?"),
        ("layout.xyzzy", "leave it out; the keys here are tp, pp, dp"),
        ("env.XYZZY", "leave it out; the keys here are ASCEND_RT_VISIBLE_DEVICES"),
    ],
)
def test_unknown_key_gets_the_closest_match(refuse, key: str, fix: str) -> None:
    (problem,) = [problem for problem in refuse(f"{key}=1") if problem.message == "is not a key of recipes"]
    assert problem.fix.startswith(fix)


# The device list and the meeting point are text to the schema; a check of its own reads what the text says.
SCALARS = [
    key
    for key, field in KEYS
    if section_of(field.annotation) is None
    and "[" not in key
    and key not in ("extends", "env.ASCEND_RT_VISIBLE_DEVICES", "launch.master")
]


@pytest.mark.parametrize("value", ["-1", "1e30", '"x"', "true", "[]", '["x", -1]', "{ a = 1 }"])
@pytest.mark.parametrize("key", SCALARS)
def test_pasted_fix_of_a_wrong_value_is_taken(load, key: str, value: str) -> None:
    for problem in _problems_at(load, key, value):
        name, equals, pasted = problem.fix.partition(" = ")
        if equals and name == key.split(".")[-1] and problem.message.startswith("is "):
            again = _problems_at(load, key, pasted)
            assert not [one for one in again if "it has to be" in one.message], problem.render()


def _problems_at(load, key: str, value: str) -> list[Problem]:
    try:
        load(f"{key}={value}")
    except RecipeError as error:
        return [one for one in error.problems if one.key == key or one.key.startswith(f"{key}[")]
    return []


def test_list_of_wrong_entries_is_not_also_too_short(refuse) -> None:
    found = refuse("layout.vision_stages=[[4], [0]]")
    assert {problem.key for problem in found} == {"layout.vision_stages[0]", "layout.vision_stages[1]"}


def test_missing_keys_and_tables_are_all_told(refuse) -> None:
    found = {
        problem.key: problem for problem in refuse(text='schema = 1\ntask = "sft"\n[model]\nname = "qwen2.5-vl-7b"\n')
    }
    assert set(found) == {"weights", "data", "train", "launch", "output"}
    assert found["launch"].fix == '[launch]\ndevice = "ascend"'


def test_problems_of_all_kinds_come_in_one_report_in_file_order(refuse, small) -> None:
    text = (
        small.replace("tp = 1", "tp = 3\ntext_stages = [3]")
        .replace("steps = 10", 'steps = 10\nepochs = 1\nseed = "x"')
        .replace("global_batch = 8", "global_batch = 9")
        .replace("[output]", "[output]\nfolder = 1")
    )
    found = refuse(text=text)
    assert [problem.key for problem in found] == [
        "layout.tp",
        "layout.text_stages",
        "train.epochs",
        "train.seed",
        "train.global_batch",
        "output.folder",
    ]
    assert [problem.where for problem in found] == [f"recipe.toml:{line}" for line in (8, 9, 22, 23, 25, 32)]


def test_layout_rules_run_beside_a_wrong_type_in_the_same_table(refuse, small) -> None:
    found = refuse(text=small.replace("pp = 1", 'pp = 2\nzero1 = "yes"\nvision_stages = [4]'))
    assert {problem.key for problem in found} == {"layout.zero1", "layout.vision_stages"}


def test_missing_key_points_at_its_table(refuse, small) -> None:
    (problem,) = refuse(text=small.replace('source = "weights"\n', ""))
    assert (problem.where, problem.key) == ("recipe.toml:11", "weights.source")
    assert problem.fix == 'source = "ckpt/hf/Qwen2.5-VL-7B-Instruct"'


def test_expected_holds_measurements_with_where_and_when(load, refuse, small) -> None:
    stated = (
        small + '[expected]\nwhere = "CPU"\nwhen = "2026-01-31"\ncommand = "qvl run x"\nloss_last = 0.5\nmy_score = 3\n'
    )
    assert load(text=stated).expected.model_extra == {"my_score": 3.0}
    (problem,) = refuse(text=stated.replace("my_score = 3", 'my_score = "good"'))
    assert problem.key == "expected.my_score"
    (problem,) = refuse(text=stated.replace("2026-01-31", "today"))
    assert problem.key == "expected.when"


def test_any_value_is_shown_short() -> None:
    for value in (10**5000, [10**5000] * 50, ["x" * 100] * 3, [[[[1]]]], {"a": 1}, "x" * 10_000, float("nan"), None):
        assert len(shown(value)) < 300


@pytest.mark.parametrize(
    ("written", "key", "seen", "fix"),
    [
        ("vlmevalkit-2025", "eval.rules", 'is "vlmevalkit-2025"; it can be ', 'rules = "vlmevalkit-2025-09"'),
        ("['exact','mindsped']", "eval.rules[1]", 'is "mindsped"; it can be ', 'rules = ["exact", "mindspeed"]'),
    ],
)
def test_a_wrong_word_of_a_list_or_of_one_is_told_with_the_words(
    refuse, written: str, key: str, seen: str, fix: str
) -> None:
    (problem,) = refuse("task=eval", "eval.benchmark=ai2d_test", "eval.data=a.tsv", f"eval.rules={written}")
    assert (problem.key, problem.fix) == (key, fix)
    assert problem.message.startswith(seen)
    assert "'vlmevalkit-2026-06'" in problem.message
