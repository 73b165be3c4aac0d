"""The validation loss is one number, whatever the layout: every held-out sample counts once, on every rank alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="validation runs the model")

from qvl_core.batch import IGNORE
from qvl_core.layout import Layout
from qvl_core.parallel.pipeline import Pipeline
from qvl_core.parallel.stage import build_stage, random_local_weights
from qvl_core.recipe import load_recipe
from qvl_data import count_validation_batches, prepare, validation_batches
from qvl_train import validation
from qvl_train.metrics import read_metrics
from qvl_train.validation import validation_loss
from thread_worlds import run_ranks

# Seven held-out samples in micro batches of two: three whole ones and a half; 2, 3 and 5 replicas do not divide four.
FRACTION = "data.validation.fraction=0.3"
# Without tensor parallelism: its cells meet in the middle of operations, which threads of one process do not
# always stand. In real processes `tests/layouts` compares the validation loss of every case, tp included.
LAYOUTS = [
    Layout(dp=2, vision_stages=(2,), text_stages=(2,)),
    Layout(dp=3, vision_stages=(2,), text_stages=(2,)),
    Layout(dp=5, vision_stages=(2,), text_stages=(2,)),
    Layout(pp=2, vision_stages=(2, 0), text_stages=(1, 1)),
    Layout(pp=2, dp=2, vision_stages=(2, 0), text_stages=(1, 1)),
]


def losses_of(layout: Layout, settings: tuple[str, ...]) -> list[Any]:
    """Validate on every rank of a layout; give what the ranks found."""
    recipe = load_recipe("recipe.toml", settings)
    data = prepare(recipe)

    def work(world: Any) -> Any:
        model = build_stage(recipe.spec, world, random_local_weights(recipe.spec, 5, layout, world.place))
        pipeline = Pipeline(model, world)
        done: list[int] = []
        batches = validation_batches(data, recipe=recipe, dp_rank=world.place.dp, dp_size=layout.dp)
        found = validation_loss(pipeline, world, batches, done.append)
        assert done == list(range(1, count_validation_batches(data, recipe=recipe, dp_size=layout.dp) + 1))
        return found

    found = run_ranks(layout, work, spec=recipe.spec)
    assert not [error for error in found if isinstance(error, Exception)], found
    return found


def write_file(project: Path) -> None:
    (project / "held.json").write_text((project / "train.json").read_text())


@pytest.mark.parametrize("settings", [(FRACTION,), ("data.validation.path=held.json", "data.validation.media_root=.")])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_layout_gives_the_loss_of_one_process(project: Path, layout: Layout, settings: tuple[str, ...]) -> None:
    write_file(project)
    spec = load_recipe("recipe.toml", settings).spec
    (single,) = losses_of(Layout.single(spec), settings)
    found = losses_of(layout, settings)
    assert all(one == found[0] for one in found)
    assert found[0].loss_tokens == single.loss_tokens > 0
    # fp32: cut matrices add up in another order.
    assert found[0].loss == pytest.approx(single.loss, rel=2e-6)


def test_it_is_the_mean_over_labelled_tokens_of_all_samples_one_by_one(project: Path) -> None:
    settings = (FRACTION,)
    recipe = load_recipe("recipe.toml", settings)
    data = prepare(recipe)
    (found,) = losses_of(Layout.single(recipe.spec), settings)
    assert data.validation is not None

    def alone(world: Any) -> Any:
        model = build_stage(
            recipe.spec, world, random_local_weights(recipe.spec, 5, Layout.single(recipe.spec), world.place)
        )
        one_by_one = load_recipe("recipe.toml", (*settings, "train.micro_batch=1"))
        losses, names = [], []
        for batch in validation_batches(data, recipe=one_by_one):
            names += batch.sample_ids
            rows = model.token_losses(batch).asnumpy()
            assert len(rows) == (batch.labels != IGNORE).sum()
            losses.append(rows)
        return np.concatenate(losses), names

    ((losses, names),) = run_ranks(Layout.single(recipe.spec), alone)
    assert names == [data.validation.where(index) for index in range(len(data.validation))]
    assert len(set(names)) == 7
    assert found.loss_tokens == len(losses)
    assert found.loss == pytest.approx(float(losses.astype(np.float64).mean()), rel=2e-6)


def test_rows_come_before_the_first_step_if_asked_and_after_the_last(project: Path) -> None:
    from qvl_core.tasks import RunOptions
    from qvl_train import task

    log = ("train.log.validate_every=2", "train.log.validate_first=true")
    settings = (FRACTION, "train.steps=3", "train.schedule.name=constant", *log)
    task.run(load_recipe("recipe.toml", settings), RunOptions())
    rows = read_metrics(project / "run" / "metrics.jsonl")
    validations = [row for row in rows if "validation_loss" in row]
    assert [row["step"] for row in validations] == [0, 2, 3]
    assert all(set(row) == {"step", "validation_loss", "validation_loss_tokens", "validation_s"} for row in validations)
    assert len({row["validation_loss"] for row in validations}) == 3


@pytest.mark.parametrize("asked_rank", [0, 1])
@pytest.mark.parametrize("layout", [LAYOUTS[0], LAYOUTS[3]], ids=str)
def test_a_signal_on_one_rank_ends_it_on_all_after_the_same_batch(
    project: Path, monkeypatch: pytest.MonkeyPatch, layout: Layout, asked_rank: int
) -> None:
    monkeypatch.setattr(validation, "ASK_EVERY", 1)
    recipe = load_recipe("recipe.toml", (FRACTION, "train.micro_batch=1"))
    data = prepare(recipe)

    def work(world: Any) -> Any:
        model = build_stage(recipe.spec, world, random_local_weights(recipe.spec, 5, layout, world.place))
        batches = validation_batches(data, recipe=recipe, dp_rank=world.place.dp, dp_size=layout.dp)
        done: list[int] = []
        result = validation_loss(
            Pipeline(model, world),
            world,
            batches,
            done.append,
            lambda: "SIGTERM" if world.rank == asked_rank and len(done) >= 2 else None,
        )
        return done, result.is_complete, result.signal_name

    found = run_ranks(layout, work, spec=recipe.spec)
    assert found == [([1, 2], False, "SIGTERM")] * layout.world_size


def test_a_signal_in_the_last_batches_is_heard_and_the_loss_is_whole(project: Path) -> None:
    recipe = load_recipe("recipe.toml", (FRACTION,))
    data, layout = prepare(recipe), LAYOUTS[0]

    def work(world: Any) -> Any:
        model = build_stage(recipe.spec, world, random_local_weights(recipe.spec, 5, layout, world.place))
        batches = validation_batches(data, recipe=recipe, dp_rank=world.place.dp, dp_size=layout.dp)
        return validation_loss(
            Pipeline(model, world), world, batches, asked_to_stop=lambda: "SIGINT" if world.rank else None
        )

    (plain, _), found = losses_of(layout, (FRACTION,)), run_ranks(layout, work, spec=recipe.spec)
    assert all((one.loss, one.is_complete, one.signal_name) == (plain.loss, True, "SIGINT") for one in found)
