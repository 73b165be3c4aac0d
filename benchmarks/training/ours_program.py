"""Our side: the step that `qvl run` takes, through the same classes. Started by sides.py, on one core.

Not measured: reading data. Measured: everything that a step does from a `Batch` of numpy arrays on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from serve import Order, serve

if TYPE_CHECKING:
    from qvl_core.batch import Batch

LEARNING_RATE = 1e-4


def main() -> None:
    """Build the model and answer."""
    order = Order.from_arguments()
    from qvl_core.device import prepare, require_mindspore

    prepare("cpu")
    mindspore = require_mindspore()
    import numpy as np

    serve({"mindspore": mindspore.__version__, "numpy": np.__version__}, make_actions(order, make_batch(order.labels)))


def make_batch(labels: str) -> Batch:
    """Give the sample as data code would."""
    import numpy as np
    from qvl_core.batch import IGNORE
    from qvl_core.model import flatten_prompt
    from shape import SMALL, make_sample

    sample = make_sample(SMALL, "all" if labels == "all" else "text")
    prompt = flatten_prompt(
        SMALL, sample.input_ids, pixel_values=sample.pixel_values, image_grid_thw=sample.image_grid_thw
    )
    shifted = np.append(sample.labels[0, 1:], IGNORE).astype(np.int32)
    return dataclasses.replace(prompt.batch, labels=shifted, sample_ids=("noise",))


def make_actions(order: Order, batch: Batch) -> dict[str, Callable[[], float | None]]:
    """Give what is measured, each with its loss, and the saving of the gradients."""
    from qvl_core.layout import Layout
    from qvl_core.model import Qwen25VL
    from qvl_core.parallel.pipeline import Pipeline
    from qvl_core.parallel.single import SingleWorld
    from qvl_core.params import parameter_table
    from qvl_train.optimizer import AdamW, AdamWSettings
    from qvl_train.reduction import count_units, loss_weights
    from qvl_train.step import TrainStep
    from shape import SMALL, read_tensors, write_tensors

    model = Qwen25VL.from_spec(SMALL, read_tensors(SMALL, order.folder / "weights.f32"))
    model.freeze(order.frozen)
    world = SingleWorld(Layout.single(SMALL))
    pipeline = Pipeline(model, world)
    settings = AdamWSettings(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, lr_scale={})
    parameters = {parameter.name: parameter for parameter in pipeline.trainable}
    optimizer = AdamW(parameters, parameter_table(SMALL), settings, world.data)
    take_step = TrainStep(pipeline, optimizer, world, SMALL, clip_norm=1.0, reduction="token")
    weights = loss_weights([batch], "token", count_units([batch], "token"))
    steps: list[int] = []

    def forward() -> float:
        losses = pipeline.losses(batch)
        return float((losses * weights[0]).sum())

    def step() -> float:
        steps.append(len(steps) + 1)
        return take_step([batch], lr=LEARNING_RATE, step=steps[-1]).loss

    def save_gradients() -> None:
        _, gradients = pipeline.gradients([batch], weights)
        found = {name: value.asnumpy() for name, value in zip(parameters, gradients, strict=True)}
        write_tensors(SMALL, order.folder / "ours.f32", found)

    return {
        "forward": forward,
        "forward_backward": lambda: pipeline.gradients([batch], weights)[0],
        "step": step,
        "save_gradients": save_gradients,
    }


if __name__ == "__main__":
    main()
