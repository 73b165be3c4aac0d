"""Rules between keys: each refuses the bad recipe and accepts its neighbour."""

from __future__ import annotations

from pathlib import Path

import pytest
from qvl_core.errors import Problem

EVAL = ("task=eval", "eval.benchmark=ai2d_test", "eval.data=x.tsv")


def only(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, [problem.render() for problem in problems]
    return problems[0]


@pytest.mark.parametrize(
    ("good", "bad", "key", "message"),
    [
        (["train.steps=1"], ["train.steps=1", "train.epochs=1"], "train.epochs", "stated together with steps"),
        (["train.steps=1"], ["train.steps="], "train", "states neither steps nor epochs"),
        (["model.name=qwen2.5-vl-tiny"], ["model.name="], "model", "states neither name nor config"),
        (["data.validation.fraction=0.1"], ["data.validation={}"], "data.validation", "neither fraction nor path"),
        (
            ["model.freeze=['vision','merger']"],
            ["model.freeze=['vision','merger','text']"],
            "model.freeze",
            "nothing is left to train",
        ),
        (
            ["train.log.profile=[2, 2]"],
            ["train.log.profile=[3, 2]"],
            "train.log.profile",
            "before its first one, 3",
        ),
        (
            ["train.steps=200", "train.log.profile=[1, 100]"],
            ["train.steps=200", "train.log.profile=[1, 101]"],
            "train.log.profile",
            "names 101 steps",
        ),
        (
            ["train.steps=12", "train.log.profile=[10, 12]"],
            ["train.steps=11", "train.log.profile=[10, 12]"],
            "train.log.profile",
            "the run has train.steps = 11",
        ),
        (["train.schedule.min_lr=1e-3"], ["train.schedule.min_lr=2e-3"], "train.schedule.min_lr", "more than"),
        (
            ["data.image.min_pixels=1000", "data.image.max_pixels=1000"],
            ["data.image.min_pixels=1001", "data.image.max_pixels=1000"],
            "data.image.min_pixels",
            "is 1001, more than max_pixels = 1000",
        ),
        (
            ["data.video.min_pixels=784", "data.video.max_pixels=784"],
            ["data.video.min_pixels=700", "data.video.max_pixels=783"],
            "data.video.max_pixels",
            "28 x 28 = 784 pixels",
        ),
        (["model.dtype=float32"], ["model.dtype=bfloat16"], "model.dtype", "no bfloat16 matmul"),
        (["data.sequence_length=4096"], ["data.sequence_length=4097"], "data.sequence_length", "is 4096 tokens"),
        (["output.dir=weightsX"], ["output.dir=weights"], "output.dir", "is the folder of weights.source"),
        (["output.dir=out"], ["output.dir=weights/run"], "output.dir", "lies in weights.source"),
        (
            ["output.dir=out", "weights.adapter=out/step_000002"],
            ["output.dir=adapter/run", "weights.adapter=adapter"],
            "output.dir",
            "lies in weights.adapter",
        ),
        (["output.dir=out"], ["output.dir=./out/../weights/a"], "output.dir", "lies in weights.source"),
        (["train.seed=1"], ["data.sources=[]"], "data.sources", "at least one file of records"),
        ([*EVAL], ["task=eval"], "eval", 'task = "eval" needs it'),
        (["task=infer", "generation.top_p=1.0"], ["task=infer"], "generation", 'task = "infer" needs it'),
        (["layout.tp=2"], ["layout.tp=4"], "layout.tp", "legal are 1, 2"),
        (
            [*EVAL, "eval.benchmark=digits_test", "eval.rules=exact"],
            [*EVAL, "eval.benchmark=digits_test"],
            "eval.rules",
            "no rules for digits_test",
        ),
        (
            [*EVAL, "eval.benchmark=held_out", "eval.rules=['exact']"],
            [*EVAL, "eval.benchmark=held_out", "eval.rules=['exact','mindspeed']"],
            "eval.rules",
            'is "mindspeed", which has no rules for held_out',
        ),
        (
            [*EVAL, "eval.benchmark=mmmu_dev_val", "eval.rules=['vlmevalkit-2025-09','mmmu-official']"],
            [*EVAL, "eval.benchmark=chartqa_test", "eval.rules=['vlmevalkit-2025-09','mmmu-official']"],
            "eval.rules",
            "no rules for chartqa_test",
        ),
        (
            [*EVAL, "eval.benchmark=mmmu_dev_val", "eval.rules=vlmevalkit-2026-06+mmmu-official"],
            [*EVAL, "eval.rules=vlmevalkit-2026-06+mmmu-official"],
            "eval.rules",
            "no rules for ai2d_test",
        ),
        (
            [*EVAL, "eval.rules=['mindspeed','vlmevalkit-legacy']"],
            [*EVAL, "eval.rules=['mindspeed','mindspeed']"],
            "eval.rules",
            'names "mindspeed" twice',
        ),
    ],
)
def test_rule(load, refuse, good: list[str], bad: list[str], key: str, message: str) -> None:
    load(*good)
    problem = only([problem for problem in refuse(*bad) if problem.severity == "error"])
    assert problem.key == key
    assert message in problem.message
    assert problem.fix


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (EVAL[1:], "the training never evaluates"),
        ([*EVAL, "eval.every=5"], 'has a meaning with task = "sft" only'),
    ],
)
def test_warns_of_an_evaluation_that_never_comes(load, settings, message: str) -> None:
    assert message in only([one for one in load(*settings).warnings if one.key == "eval.every"]).message


def test_an_evaluation_every_so_many_steps_of_a_training_is_no_problem(load) -> None:
    assert load(*EVAL[1:], "eval.every=5").eval.every == 5


def test_everything_may_be_frozen_where_adapters_train(load) -> None:
    assert load("model.freeze=['vision','merger','text']", "train.lora.rank=4").train.lora.rank == 4


def test_everything_may_be_frozen_where_nothing_trains(load) -> None:
    load("model.freeze=['vision','merger','text']", *EVAL)


def test_learning_rate_of_a_frozen_component_is_a_warning(load) -> None:
    (warning,) = load("model.freeze=['vision']", "train.optimizer.lr_scale.vision=0.5").warnings
    assert warning.key == "train.optimizer.lr_scale.vision"
    assert load("train.optimizer.lr_scale.vision=0.5").warnings == ()


def test_temperature_without_choice_is_a_warning(load) -> None:
    assert "stay greedy" in load("generation.temperature=0.7").warnings[0].message
    assert load("generation.temperature=0.7", "generation.top_k=0").warnings == ()


def test_images_larger_than_a_sample_are_a_warning(load) -> None:
    (warning,) = load("data.sequence_length=300").warnings
    assert "about 334 tokens" in warning.message
    assert load("data.sequence_length=300", "data.too_long=shrink").warnings == ()


def test_output_is_a_link_into_the_weights(load, refuse) -> None:
    load()
    Path("weights").mkdir()
    Path("link").symlink_to("weights")
    problem = only(refuse("output.dir=link"))
    assert str(Path("weights").resolve()) in problem.message


@pytest.mark.parametrize(
    "master",
    [
        "host;rm -rf x:1",
        "localhost",
        "localhost:",
        ":29501",
        "localhost:80",
        "localhost:70000",
        "localhost:29501x",
        "localhost:٣٠٠٠",
        "::1:29501",
        "[::1]:29501",
        "256.1.1.1:29501",
        "1.2.3:29501",
        "-host:29501",
        "host-:29501",
        "ho_st:29501",
        "",
        "a" * 254 + ":29501",
    ],
)
def test_master_that_is_no_host_and_port(refuse, master: str) -> None:
    problem = only(refuse(f'launch.master="{master}"'))
    assert problem.key == "launch.master"
    assert "from 1024 to 65535" in problem.message


@pytest.mark.parametrize("master", ["localhost:1024", "10.0.0.1:65535", "node-0.cluster.local:29501", "h:5000"])
def test_master_that_is_host_and_port(load, master: str) -> None:
    assert load(f"launch.master={master}").launch.master == master


def test_several_machines_on_cpu_are_refused_and_one_is_not(load, refuse) -> None:
    problem = only(refuse("launch.nodes=2", "layout.dp=2"))
    assert (problem.key, problem.fix) == ("launch.nodes", "nodes = 1")
    assert problem.message == "is 2; a CPU run uses one machine"
    load("launch.nodes=1", "layout.dp=2")


def test_several_machines_without_a_master_that_they_reach_are_warned_of(load) -> None:
    two = ["model.name=qwen2.5-vl-7b", "launch.device=ascend", "launch.nodes=2", "train.global_batch=16"]
    two.append("train.micro_batch=1")
    warning = only(load(*two).warnings)
    assert (warning.key, warning.severity) == ("launch.master", "warning")
    assert "cannot reach" in warning.message
    assert load(*two, "launch.master=node0:29501").warnings == ()


def test_tensor_groups_that_lie_over_two_machines_are_warned_of(load) -> None:
    shared = ["model.name=qwen2.5-vl-7b", "launch.device=ascend", "launch.master=node0:29501", "train.micro_batch=1"]
    shared += ["train.global_batch=24", "layout.dp=3", "layout.tp=4"]
    warning = only(load(*shared, "launch.nodes=2", "launch.devices_per_node=6").warnings)
    assert (warning.key, warning.severity) == ("layout.tp", "warning")
    assert warning.message.startswith("is 4, with 6 devices on each of 2 machines: ")
    assert warning.fix.startswith("tp = 2, or ")
    assert load(*shared, "launch.nodes=3", "launch.devices_per_node=4").warnings == ()


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ("0,1", "names 2 devices; launch.devices_per_node is 4"),
        ("0, 1", "comma list"),
        ("0,0", "twice"),
        ("a", "comma list"),
    ],
)
def test_visible_devices(load, refuse, devices: str, message: str) -> None:
    ascend = ["launch.device=ascend", "launch.devices_per_node=4", "layout.dp=4"]
    load(*ascend, 'env.ASCEND_RT_VISIBLE_DEVICES="0,1,2,3"')
    problem = only(refuse(*ascend, f'env.ASCEND_RT_VISIBLE_DEVICES="{devices}"'))
    assert problem.key == "env.ASCEND_RT_VISIBLE_DEVICES"
    assert message in problem.message


def test_unknown_model_gets_the_closest_name(refuse) -> None:
    problem = only(refuse("model.name=qwen2.5-vl-7"))
    assert problem.fix == 'name = "qwen2.5-vl-7b"'


def test_model_from_a_path_that_no_system_takes(refuse) -> None:
    assert only(refuse(f"model.config={'x' * 400}")).key == "model.config"


def test_model_from_a_config_file(load, refuse) -> None:
    load()
    from qvl_core.specs import shipped_config_path

    Path("config.json").write_text(shipped_config_path("qwen2.5-vl-tiny").read_text())
    assert load("model.config=config.json").spec.vision.depth == 4
    Path("config.json").write_text("{}")
    assert {problem.key for problem in refuse("model.config=config.json")} == {"model.config"}


LORA = ("train.lora.rank=4", "weights.init=checkpoint")


def test_targets_that_no_chosen_component_has_are_refused(load, refuse) -> None:
    found = only(refuse(*LORA, "train.lora.targets=['q_proj','qkv']"))
    assert found.key == "train.lora.targets"
    assert "names qkv, which is no layer of text; text has q_proj, k_proj" in found.message
    assert 'components = ["text", "vision"]' in found.fix
    recipe = load(*LORA, "train.lora.targets=['q_proj','qkv']", "train.lora.components=['text','vision']")
    assert recipe.lora is not None
    assert recipe.lora.components == ("text", "vision")


def test_a_target_close_to_one_of_the_component_is_suggested(refuse) -> None:
    settings = (*LORA, "train.lora.components=['vision']")
    found = only(refuse(*settings, "train.lora.targets=['o_proj','qkv']"))
    assert '"proj" in its place' in found.fix
    assert '["vision", "text"]' in found.fix


def test_a_component_without_a_target_is_refused(refuse) -> None:
    found = only(refuse(*LORA, "train.lora.components=['text','merger']"))
    assert found.key == "train.lora.components"
    assert "names merger, which has none of the targets; it has mlp.0, mlp.2" in found.message
    assert '"o_proj", "mlp.0", "mlp.2"]' in found.fix


def test_a_misspelt_target_gets_the_closest_one(refuse) -> None:
    found = only(refuse(*LORA, "train.lora.targets=['q_prj']"))
    assert 'targets = ["q_proj"]' in found.fix


def test_adapters_of_random_weights_are_a_warning(load) -> None:
    (warning,) = load("train.lora.rank=4", "weights.init=random").warnings
    assert warning.key == "train.lora"
    assert load(*LORA).warnings == ()


def test_learning_rate_of_a_component_without_adapters_is_a_warning(load) -> None:
    settings = (*LORA, "model.freeze=['text']")
    (warning,) = load(*settings, "train.optimizer.lr_scale.vision=0.5").warnings
    assert "no adapter is on vision" in warning.message
    # The model's own weights are frozen either way; adapters train, whatever is frozen.
    assert load(*settings, "train.optimizer.lr_scale.text=0.5").warnings == ()
