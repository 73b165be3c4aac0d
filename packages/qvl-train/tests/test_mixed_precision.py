"""Master weights: fp32 sums and updates beside bfloat16 parameters, and no bit of difference beside fp32 ones.

There is no bfloat16 matmul on CPU. What runs here in bfloat16 is what does not need one: sums of gradients, the
update, the writing back. The rest runs with fp32 parameters and the master weights switched on.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ms = pytest.importorskip("mindspore", reason="the optimizer needs MindSpore")

import test_step  # noqa: E402
from qvl_core.layout import Layout  # noqa: E402
from qvl_core.model.initialize import random_weights  # noqa: E402
from qvl_core.parallel.single import SingleGroup, SingleWorld  # noqa: E402
from qvl_core.parallel.stage import build_stage  # noqa: E402
from qvl_core.params import parameter_table  # noqa: E402
from qvl_core.recipe import load_recipe  # noqa: E402
from qvl_core.weights.hf_folder import open_hf_folder  # noqa: E402
from qvl_core.weights.sharded_folder import open_sharded_folder  # noqa: E402
from qvl_core.weights.tensor_io import float32_to_bfloat16, raw_to_float32, read_raw, read_tensor  # noqa: E402
from qvl_train import optimizer as optimizer_module  # noqa: E402
from qvl_train import sliced_optimizer, worker  # noqa: E402
from qvl_train.optimizer import AdamW, AdamWSettings  # noqa: E402
from qvl_train.sliced_optimizer import SlicedAdamW  # noqa: E402
from sharded_folders import write_folder  # noqa: E402
from test_slots import SHAPES, TABLE, gradients  # noqa: E402
from thread_worlds import run_ranks  # noqa: E402
from whole_runs import losses, stop_after, train  # noqa: E402

SETTINGS = AdamWSettings(beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, lr_scale={"vision": 0.1})
ASCEND = ("model.dtype=bfloat16", "launch.device=ascend", "launch.devices_per_node=1")


def separate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch the master weights on for fp32 parameters."""
    monkeypatch.setattr(optimizer_module, "AdamW", partial(AdamW, separate_masters=True))
    monkeypatch.setattr(sliced_optimizer, "SlicedAdamW", partial(SlicedAdamW, separate_masters=True))
    monkeypatch.setattr(test_step, "AdamW", partial(AdamW, separate_masters=True))
    monkeypatch.setattr(test_step, "SlicedAdamW", partial(SlicedAdamW, separate_masters=True))


def rounded(values: np.ndarray) -> bytes:
    """Give the bits of the nearest bfloat16, by numpy."""
    return float32_to_bfloat16(values).tobytes()


def bits(parameter: ms.Parameter) -> bytes:
    return parameter.asnumpy().view(np.uint16).tobytes()


def make_parameters(dtype: Any) -> dict[str, ms.Parameter]:
    """Give parameters whose values every dtype holds exactly."""
    random = np.random.default_rng(1)
    values = {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    exact = {name: raw_to_float32(float32_to_bfloat16(array), "BF16") for name, array in values.items()}
    return {name: ms.Parameter(ms.Tensor(array).astype(dtype), name=name) for name, array in exact.items()}


# With fp32 parameters: the same numbers, told twice.


@pytest.mark.parametrize("zero1", ["false", "true"])
def test_a_run_with_separate_masters_has_the_bits_of_one_without(
    project: Path, monkeypatch: pytest.MonkeyPatch, zero1: str
) -> None:
    """Stopped after 3 of 6 steps and resumed, with the masters in the checkpoint; the tiny model's head is tied."""
    use = (f"layout.zero1={zero1}", "train.optimizer.weight_decay=0.1")
    train("output.dir=straight", *use)
    separate(monkeypatch)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        train(*use)
    checkpoint = open_sharded_folder(project / "run" / "step_000003")
    masters = {name: entry for name, entry in checkpoint.optimizer[0, 0].items() if name.endswith(".master")}
    assert {name.removesuffix(".master") for name in masters} == set(checkpoint.ranks[0, 0])
    for name, entry in checkpoint.ranks[0, 0].items():
        assert read_tensor(masters[f"{name}.master"]).tobytes() == read_tensor(entry).tobytes(), name
    train(*use)
    assert losses() == losses("straight")
    straight = (project / "straight" / "hf" / "model.safetensors").read_bytes()
    assert (project / "run" / "hf" / "model.safetensors").read_bytes() == straight


@pytest.mark.parametrize("zero1", [False, True])
@pytest.mark.parametrize("layout", test_step.LAYOUTS)
def test_separate_masters_change_no_bit_on_any_rank(
    layout: Layout, zero1: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replicas, tensor ranks and stages, the embedding on two of them; a clipped norm."""

    def work(world: Any) -> Any:
        step, parameters = test_step.make_step(world, zero1=zero1, clip_norm=1.0)
        norms = [step(test_step.replica_batches(world), lr=1e-2, step=i).gradient_norm for i in (1, 2, 3)]
        return norms, {name: value.asnumpy().tobytes() for name, value in parameters.items()}

    plain = run_ranks(layout, work, spec=test_step.SPEC)
    separate(monkeypatch)
    assert run_ranks(layout, work, spec=test_step.SPEC) == plain
    assert not any(isinstance(found, Exception) for found in plain), plain


# With bfloat16 parameters.


@pytest.mark.parametrize("kind", [AdamW, SlicedAdamW])
@pytest.mark.parametrize("limit", [0, 1024])
def test_masters_train_as_fp32_weights_and_parameters_are_them_rounded(
    kind: type[AdamW | SlicedAdamW], limit: int
) -> None:
    parameters, reference = make_parameters(ms.bfloat16), make_parameters(ms.float32)
    half = kind(parameters, TABLE, SETTINGS, SingleGroup(), joined_elements=limit)
    single = kind(reference, TABLE, SETTINGS, SingleGroup(), joined_elements=limit)
    for step in range(1, 6):
        for optimizer in (half, single):
            optimizer.update(optimizer.over_replicas(gradients(step)), lr=1e-2, step=step, scale=0.5)
        state = {stored.name: stored.read() for stored in half.stored()}
        for name, parameter in parameters.items():
            assert parameter.dtype == ms.bfloat16
            assert state[f"{name}.master"].dtype == np.float32
            assert state[f"{name}.master"].tobytes() == reference[name].asnumpy().tobytes(), name
            assert bits(parameter) == rounded(state[f"{name}.master"]), name


@pytest.mark.parametrize("kind", [AdamW, SlicedAdamW])
def test_updates_below_the_resolution_of_bfloat16_add_up_in_the_master(kind: type[AdamW | SlicedAdamW]) -> None:
    """Near 1, bfloat16 numbers are 2^-8 apart: what is subtracted here is 40 times less."""
    assert rounded(np.float32([1 - 1e-4])) == rounded(np.float32([1.0])), "one update alone is lost"
    parameter = ms.Parameter(ms.Tensor(np.ones(64, np.float32)).astype(ms.bfloat16), name="text.norm")
    optimizer = kind({"text.norm": parameter}, TABLE, SETTINGS, SingleGroup())
    seen = []
    for step in range(1, 61):
        optimizer.update([ms.Tensor(np.ones(64, np.float32))], lr=1e-4, step=step)
        seen.append(float(parameter.astype(ms.float32).asnumpy()[0]))
    assert seen[18] == 1.0
    assert seen[20] == 1.0 - 2**-8
    assert seen[59] == 1.0 - 2 * 2**-8
    (master,) = [stored.read() for stored in optimizer.stored() if stored.name.endswith(".master")]
    # 60 roundings of at most 2^-25 each.
    np.testing.assert_allclose(master, 1 - 60e-4, rtol=60 * 2**-25)


@pytest.mark.parametrize("kind", [AdamW, SlicedAdamW])
def test_resuming_takes_the_masters_of_the_checkpoint(kind: type[AdamW | SlicedAdamW]) -> None:
    first = make_parameters(ms.bfloat16)
    optimizer = kind(first, TABLE, SETTINGS, SingleGroup())
    for step in (1, 2, 3):
        optimizer.update(optimizer.over_replicas(gradients(step)), lr=1e-3, step=step)
    saved = {stored.name: stored.read().copy() for stored in optimizer.stored()}
    # A checkpoint's weights are the rounded ones; the masters hold more.
    second = {name: ms.Parameter(ms.Tensor(value.asnumpy().copy()), name=name) for name, value in first.items()}
    resumed = kind(second, TABLE, SETTINGS, SingleGroup())
    resumed.load(saved.items())
    for step in (4, 5, 6):
        for one in (optimizer, resumed):
            one.update(one.over_replicas(gradients(step)), lr=1e-3, step=step)
    for left, right in zip(optimizer.stored(), resumed.stored(), strict=True):
        assert (left.name, left.read().tobytes()) == (right.name, right.read().tobytes())
    assert all(bits(first[name]) == bits(second[name]) for name in first)


@pytest.mark.parametrize("zero1", [False, True])
def test_gradients_of_replicas_are_added_in_fp32(zero1: bool) -> None:
    """1 + 2^-9 needs ten bits of mantissa; bfloat16 has eight."""

    def work(world: Any) -> list[np.ndarray]:
        kind = SlicedAdamW if zero1 else AdamW
        parameters = make_parameters(ms.bfloat16)
        optimizer = kind(parameters, TABLE, SETTINGS, world.data)
        given = [ms.Tensor(np.full(shape, (1.0, 2**-9)[world.rank], np.float32)) for shape in SHAPES.values()]
        found = optimizer.over_replicas(given)
        assert all(gradient.dtype == ms.float32 for gradient in found)
        return [gradient.asnumpy() for gradient in found]

    for found in run_ranks(Layout(vision_stages=(1,), text_stages=(1,), dp=2), work):
        assert not isinstance(found, Exception), found
        # The filling of a last slice is zero.
        assert all(set(np.unique(array)) <= {np.float32(0), np.float32(1 + 2**-9)} for array in found)


# Where the masters of a new run come from.


def started(recipe: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Start a run as a worker does; give parameters and master weights."""
    world = SingleWorld(recipe.parallel)
    model = build_stage(recipe.spec, world, worker.initial_weights(recipe, world, reshard=False), "bfloat16")
    parameters = dict(model.named_parameters())
    optimizer = worker.make_optimizer(recipe, world, parameters)
    worker.refine_masters(recipe, world, optimizer, reshard=False)
    state = {stored.name: stored.read() for stored in optimizer.stored()}
    return parameters, {name: state[f"{name}.master"] for name in parameters}


@pytest.mark.parametrize("zero1", ["false", "true"])
@pytest.mark.parametrize("source", ["random", "fp32 checkpoint"])
def test_masters_of_a_new_run_have_the_precision_of_the_source(project: Path, source: str, zero1: str) -> None:
    use = [f"layout.zero1={zero1}"]
    spec = load_recipe("recipe.toml").spec
    expected = dict(random_weights(spec, 42))
    if source != "random":
        train("train.steps=1")
        use += ["weights.init=checkpoint", "weights.source=run/hf"]
        expected = {name: read_tensor(entry) for name, entry in open_hf_folder("run/hf").tensors.items()}
    parameters, masters = started(load_recipe("recipe.toml", (*ASCEND, *use)))
    assert masters.keys() == expected.keys()
    for name, array in expected.items():
        assert masters[name].tobytes() == array.tobytes(), name
        assert bits(parameters[name]) == rounded(array), name
    exact = [raw_to_float32(float32_to_bfloat16(array), "BF16") for array in expected.values()]
    assert any((one != array).any() for one, array in zip(exact, expected.values(), strict=True)), "nothing to lose"


def test_weights_that_lose_nothing_are_not_read_twice(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_recipe("recipe.toml").spec
    raw = {name: float32_to_bfloat16(array) for name, array in random_weights(spec, 1)}
    write_folder(project / "bf16", spec, None, dict.fromkeys(raw, "BF16"), raw)
    for side in (project / "checkpoint").iterdir():
        if not (project / "bf16" / side.name).exists():
            (project / "bf16" / side.name).write_bytes(side.read_bytes())
    recipe = load_recipe("recipe.toml", (*ASCEND, "weights.init=checkpoint", "weights.source=bf16"))
    reads, read = [], worker.initial_weights
    monkeypatch.setattr(worker, "initial_weights", lambda *a, **k: reads.append(1) or read(*a, **k))
    _, masters = started(recipe)
    assert reads == [1]
    entries = open_hf_folder("bf16").tensors
    for row in parameter_table(spec):
        assert masters[row.name].tobytes() == raw_to_float32(read_raw(entries[row.name]), "BF16").tobytes()
