"""A step on several ranks: every element counts once, copies get the same update, all fail or stop together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

ms = pytest.importorskip("mindspore", reason="a training step needs MindSpore")

from qvl_core.batch import IGNORE, Batch  # noqa: E402
from qvl_core.errors import RunError  # noqa: E402
from qvl_core.layout import Layout  # noqa: E402
from qvl_core.parallel.mesh import coordinate_of  # noqa: E402
from qvl_core.params import EMBEDDING, parameter_table  # noqa: E402
from qvl_core.weights.manifest import rank_tensors  # noqa: E402
from qvl_core.weights.sharding import cut  # noqa: E402
from qvl_train.meter import PARTS, Meter  # noqa: E402
from qvl_train.optimizer import AdamW, AdamWSettings  # noqa: E402
from qvl_train.sliced_optimizer import SlicedAdamW  # noqa: E402
from qvl_train.step import TrainStep  # noqa: E402
from sharded_folders import divisible_spec  # noqa: E402
from thread_worlds import run_ranks  # noqa: E402

SPEC = divisible_spec(tied=True)
TABLE = parameter_table(SPEC)
SETTINGS = AdamWSettings(beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.0, lr_scale={})
SINGLE = Layout.single(SPEC)
LAYOUTS = [
    Layout(dp=2, vision_stages=(2,), text_stages=(3,)),
    Layout(tp=2, pp=2, dp=2, vision_stages=(2, 0), text_stages=(1, 2)),
    Layout(tp=2, pp=3, vision_stages=(2, 0, 0), text_stages=(0, 2, 1)),
]
WEIGHTS = {row.name: np.random.default_rng(i).standard_normal(row.shape, np.float32) for i, row in enumerate(TABLE)}
# What a global batch adds up to. The parts of replicas and stages are made from it below.
GRADIENTS = {
    row.name: np.random.default_rng([1, i]).standard_normal(row.shape, np.float32) for i, row in enumerate(TABLE)
}


def batch(*samples: str, labels: int = 2) -> Batch:
    """Make a text-only batch of samples with four tokens, some of them labelled."""
    tokens = 4 * len(samples)
    return Batch(
        input_ids=np.ones(tokens, np.int32),
        position_ids=np.zeros((3, tokens), np.int32),
        sequence_lengths=(4,) * len(samples),
        labels=np.array(([IGNORE] * (4 - labels) + [7] * labels) * len(samples), np.int32),
        patches=np.zeros((0, 6), np.float32),
        grids=np.zeros((0, 3), np.int32),
        sample_ids=samples,
    )


class FakePipeline:
    """A stage whose gradients are this rank's part of `GRADIENTS`; the loss of a batch is what a table says."""

    def __init__(self, world: Any, losses: dict[str, float], trained: Sequence[str]) -> None:
        self.world, self.table = world, losses
        self.rows = [row for row in rank_tensors(SPEC, world.layout, world.place.pp) if row.name in trained]
        self.is_last = world.place.pp == world.layout.pp - 1

    def gradients(
        self, batches: Sequence[Batch], weights: Sequence[NDArray[np.float32]], *, first: int = 0
    ) -> tuple[float, list[Any]]:
        loss = sum(float(self.losses_of(one) @ weight) for one, weight in zip(batches, weights, strict=True))
        return (loss if self.is_last else 0.0), [ms.Tensor(self.gradient(row)) for row in self.rows]

    def gradient(self, row: Any) -> NDArray[np.float32]:
        place, layout = self.world.place, self.world.layout
        part = cut(GRADIENTS[row.name], row.shard, tp=layout.tp, rank=place.tp)
        # Powers of two, so that the parts add up exactly.
        parts = layout.dp * len(row.stages)
        # Where tensor ranks hold the same, some rounding may have gone another way.
        noise = np.float32(1 + 1e-6 * place.tp) if row.shard == "replicate" else np.float32(1)
        return np.ascontiguousarray(part / np.float32(parts) * noise)

    def losses_of(self, one: Batch) -> NDArray[np.float32]:
        return np.full(len(one.loss_rows), self.table.get(one.sample_ids[0], 1.0), np.float32)

    def losses(self, one: Batch) -> NDArray[np.float32] | None:
        return self.losses_of(one) if self.is_last else None

    def is_finite(self, one: Batch, number: int) -> bool:
        return not self.is_last or bool(np.isfinite(self.losses_of(one)).all())


def make_step(
    world: Any, *, zero1: bool = False, losses: dict[str, float] | None = None, trained: Sequence[str] = tuple(WEIGHTS),
    asked: Any = None, clip_norm: float = 0.0, kind: Any = None, meter: Meter | None = None,
) -> tuple[TrainStep, dict[str, Any]]:  # fmt: skip
    pipeline = (kind or FakePipeline)(world, losses or {}, trained)
    parameters = {
        row.name: ms.Parameter(
            ms.Tensor(np.ascontiguousarray(cut(WEIGHTS[row.name], row.shard, tp=world.layout.tp, rank=world.place.tp))),
            name=row.name,
        )
        for row in pipeline.rows
    }
    optimizer = (SlicedAdamW if zero1 else AdamW)(parameters, TABLE, SETTINGS, world.data)
    step = TrainStep(
        pipeline, optimizer, world, SPEC, clip_norm=clip_norm, reduction="token", meter=meter,
        asked_to_stop=asked or (lambda: None),
    )  # fmt: skip
    return step, parameters


def replica_batches(world: Any) -> list[Batch]:
    """Give a replica's share of four micro batches, dealt one by one."""
    return [batch(f"s{i}", labels=1 + i % 2) for i in range(4)][world.place.dp :: world.layout.dp]


@pytest.mark.parametrize("zero1", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_element_counts_once_in_the_norm_and_all_ranks_have_its_bits(layout: Layout, zero1: bool) -> None:
    def work(world: Any) -> Any:
        step, parameters = make_step(world, zero1=zero1, clip_norm=1.0)
        result = step(replica_batches(world), lr=1e-2, step=1)
        return result, world.place, {name: value.asnumpy() for name, value in parameters.items()}

    found = run_ranks(layout, work, spec=SPEC)
    assert not [error for error in found if isinstance(error, Exception)], found
    expected = math.sqrt(sum(float((array.astype(np.float64) ** 2).sum()) for array in GRADIENTS.values()))
    assert len({result.gradient_norm for result, _, _ in found}) == 1
    assert found[0][0].gradient_norm == pytest.approx(expected, rel=1e-6)
    # Copies on replicas, tensor ranks and the two stages of the embedding stay the same to the bit.
    copies: dict[tuple[str, int], set[bytes]] = {}
    shards = {row.name: row.shard for row in TABLE}
    for _, place, parameters in found:
        for name, array in parameters.items():
            copies.setdefault((name, 0 if shards[name] == "replicate" else place.tp), set()).add(array.tobytes())
    assert all(len(values) == 1 for values in copies.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_counts_and_weights_are_those_of_one_process(layout: Layout) -> None:
    losses = {f"s{i}": 1.0 + i for i in range(4)}

    def work(world: Any) -> Any:
        return make_step(world, losses=losses)[0](replica_batches(world), lr=0.1, step=1)

    (single,), several = run_ranks(SINGLE, work), run_ranks(layout, work, spec=SPEC)
    # (1 + 2 * 2 + 3 + 2 * 4) / 6 labelled tokens.
    assert single.loss == pytest.approx(16 / 6)
    for result in several:
        assert result.loss == pytest.approx(single.loss, rel=1e-6)
        assert (result.tokens, result.loss_tokens, result.samples) == (16, 6, 4)


def is_holder(rank: int, layout: Layout) -> bool:
    """Tell whether a rank gives the losses of the replica that s3 is dealt to."""
    place = coordinate_of(rank, layout)
    return place.pp == layout.pp - 1 and place.dp == 3 % layout.dp


def rank_text(rank: int, layout: Layout) -> str:
    place = coordinate_of(rank, layout)
    return f"rank {rank} (stage {place.pp}, tp {place.tp}, dp {place.dp})"


@pytest.mark.parametrize("layout", [SINGLE, *LAYOUTS])
def test_a_nan_of_one_replica_is_the_error_of_all_naming_its_micro_batch(layout: Layout) -> None:
    def work(world: Any) -> Any:
        step, parameters = make_step(world, losses={"s3": math.nan})
        with pytest.raises(RunError) as error:
            step(replica_batches(world), lr=1e-2, step=8)
        whole = WEIGHTS["model.norm.weight"]
        assert "model.norm.weight" not in parameters or (parameters["model.norm.weight"].asnumpy() == whole).all()
        return str(error.value)

    found = run_ranks(layout, work, spec=SPEC)
    assert len(set(found)) == 1
    assert "the loss of step 8 is nan" in found[0]
    holders = [rank for rank in range(layout.world_size) if is_holder(rank, layout)]
    named = ", ".join(rank_text(rank, layout) for rank in holders)
    assert f"it began on {named}, with these samples of the step:\n  s3\nfix" in found[0]


@pytest.mark.parametrize("zero1", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_infinite_gradient_anywhere_is_the_error_of_all_naming_all_samples(
    layout: Layout, zero1: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GRADIENTS, EMBEDDING, np.full_like(GRADIENTS[EMBEDDING], np.float32(3e38)))

    def work(world: Any) -> str:
        step, _ = make_step(world, zero1=zero1)
        with pytest.raises(RunError) as error:
            step(replica_batches(world), lr=1e-2, step=2)
        return str(error.value)

    found = run_ranks(layout, work, spec=SPEC)
    assert len(set(found)) == 1, found
    assert "the gradient norm of step 2 is inf" in found[0]
    assert all(f"\n  s{i}\n" in found[0] for i in range(4))


def test_ranks_without_anything_to_train_take_part() -> None:
    layout = LAYOUTS[1]
    trained = [row.name for row in TABLE if row.component == "merger"]

    def work(world: Any) -> float:
        return make_step(world, trained=trained)[0](replica_batches(world), lr=1e-2, step=1).gradient_norm

    expected = math.sqrt(sum(float((GRADIENTS[name].astype(np.float64) ** 2).sum()) for name in trained))
    assert run_ranks(layout, work, spec=SPEC) == [pytest.approx(expected, rel=1e-6)] * 8


def test_a_signal_on_one_rank_stops_all_after_the_same_step() -> None:
    def work(world: Any) -> list[str | None]:
        count = [0]

        def asked() -> str | None:
            count[0] += 1
            return "SIGTERM" if world.rank == 2 and count[0] >= 2 else None

        step, _ = make_step(world, asked=asked)
        return [step(replica_batches(world), lr=1e-3, step=number).signal_name for number in (1, 2)]

    assert run_ranks(LAYOUTS[1], work, spec=SPEC) == [[None, "SIGTERM"]] * 8


@pytest.mark.parametrize("layout", [SINGLE, *LAYOUTS])
def test_all_ranks_know_the_same_measures_and_the_parts_of_a_step_add_up(layout: Layout) -> None:
    def work(world: Any) -> Any:
        step, _ = make_step(world, meter=Meter(world, SPEC, peak_tflops=1.0))
        return [step(replica_batches(world), lr=1e-3, step=number).measures for number in (1, 2)]

    found = run_ranks(layout, work, spec=SPEC)
    assert not [error for error in found if isinstance(error, Exception)], found
    assert all(one == found[0] for one in found)
    for measures in found[0]:
        numbers = measures.numbers
        # Each of the seven is rounded to a microsecond.
        assert sum(numbers[key] for key in PARTS) == pytest.approx(numbers["step_time_s"], abs=4e-6)
        assert numbers["padded_tokens"] == 16
        assert len(measures.compute_s) == layout.world_size
        assert ("bubble" in numbers) == (layout.pp > 1)
        assert ("slowest_rank" in numbers) == (layout.world_size > 1)
        assert numbers["mfu"] == pytest.approx(numbers["tflops_per_s"] / layout.world_size, rel=1e-4)


def test_without_a_meter_a_step_measures_nothing() -> None:
    (result,) = run_ranks(SINGLE, lambda world: make_step(world)[0](replica_batches(world), lr=1e-3, step=1))
    assert result.measures is None


def test_a_gradient_that_is_not_finite_is_traced_to_the_rank_and_the_micro_batch_where_it_began() -> None:
    layout = LAYOUTS[1]  # two stages, two tensor ranks, two replicas

    class Broken(FakePipeline):
        """Stage 1 of replica 1 gives an infinity for s3; the stage before it receives what follows from that."""

        def gradients(
            self, batches: Sequence[Batch], weights: Sequence[NDArray[np.float32]], *, first: int = 0
        ) -> tuple[float, list[Any]]:
            loss, found = super().gradients(batches, weights, first=first)
            hits = self.world.place.dp == 1 and any("s3" in one.sample_ids for one in batches)
            return loss, [found[0] * float("inf"), *found[1:]] if hits and found else found

    def work(world: Any) -> str:
        step, _ = make_step(world, kind=Broken)
        with pytest.raises(RunError) as error:
            step(replica_batches(world), lr=1e-2, step=3)
        return str(error.value)

    found = run_ranks(layout, work, spec=SPEC)
    assert len(set(found)) == 1
    assert "the gradient norm of step 3 is " in found[0]
    last = [r for r in range(8) if coordinate_of(r, layout).pp == 1 and coordinate_of(r, layout).dp == 1]
    named = ", ".join(rank_text(rank, layout) for rank in last)
    assert f"it began on {named}, with these samples of the step:\n  s3\n" in found[0]
    assert "s1" not in found[0]
