"""What a step reads back from the device: each read makes the host wait for everything before it.

The forms that Ascend takes for joining, dealing out and the norm run here on CPU, where a read costs nothing.
"""

from __future__ import annotations

from typing import Any

import pytest

ms = pytest.importorskip("mindspore", reason="a training step needs MindSpore")

from qvl_core import kernels  # noqa: E402
from qvl_core.kernels import select  # noqa: E402
from qvl_core.layout import Layout  # noqa: E402
from qvl_core.model import Qwen25VL  # noqa: E402
from qvl_core.model.initialize import random_weights  # noqa: E402
from qvl_core.parallel.pipeline import Pipeline  # noqa: E402
from qvl_core.parallel.single import SingleWorld  # noqa: E402
from qvl_core.params import parameter_table  # noqa: E402
from qvl_train.optimizer import AdamW, AdamWSettings  # noqa: E402
from qvl_train.sliced_optimizer import SlicedAdamW  # noqa: E402
from qvl_train.step import TrainStep  # noqa: E402
from sharded_folders import divisible_spec  # noqa: E402
from test_step import batch  # noqa: E402

SPEC = divisible_spec(tied=True)


@pytest.mark.parametrize("kind", [AdamW, SlicedAdamW])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_a_step_reads_each_micro_batchs_loss_and_the_norm(
    kind: type[AdamW | SlicedAdamW], micro_batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("join", "deal", "sum_of_squares"):
        monkeypatch.setattr(kernels, name, getattr(select.ascend_table(), name))
    world: Any = SingleWorld(Layout.single(SPEC))
    model = Qwen25VL.from_spec(SPEC, random_weights(SPEC, 1))
    pipeline = Pipeline(model, world)
    parameters = {parameter.name: parameter for parameter in pipeline.trainable}
    settings = AdamWSettings(beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, lr_scale={})
    optimizer = kind(parameters, parameter_table(SPEC), settings, world.data)
    step = TrainStep(pipeline, optimizer, world, SPEC, clip_norm=1e-3, reduction="token")
    batches = [batch(f"s{i}", labels=2) for i in range(micro_batches)]
    step(batches, lr=1e-3, step=1)
    reads: list[tuple[int, ...]] = []
    read = ms.Tensor.asnumpy
    monkeypatch.setattr(ms.Tensor, "asnumpy", lambda self: reads.append(tuple(self.shape)) or read(self))
    step(batches, lr=1e-3, step=2)
    assert reads == [()] * micro_batches + [(len(parameters),)]
