"""Run one case on this rank with the code that a training run uses, and keep what its optimizer was given.

Imports mindspore: only the programs in processes of their own import this.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from batches import micro_batches
from cases import Case
from mindspore import Tensor
from numpy.typing import NDArray
from qvl_core.model.initialize import random_tensor
from qvl_core.parallel.pipeline import Pipeline
from qvl_core.parallel.stage import build_stage
from qvl_core.parallel.world import World
from qvl_core.params import Parameter, parameter_table
from qvl_core.weights.sharding import cut
from qvl_train.optimizer import AdamW, AdamWSettings, Optimizer
from qvl_train.sliced_optimizer import SlicedAdamW
from qvl_train.step import TrainStep
from qvl_train.validation import validation_loss
from sabotage import spoil_gradients
from specs import SPECS

_WEIGHT_SEED = 11
# Large enough that a loss falls visibly in twenty steps, and that every step clips.
_LEARNING_RATE = 3e-3
_CLIP_NORM = 0.5
_SETTINGS = AdamWSettings(beta1=0.9, beta2=0.99, eps=1e-6, weight_decay=0.1, lr_scale={"vision": 0.5})


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a rank has after a case: a loss and a gradient norm a step, the first step's gradients, digests at the end.

    `validation` is the loss over the first step's samples before that step, and how many tokens it was taken over.
    A digest is of a parameter's bytes on this rank after the last step.
    """

    losses: list[float]
    norms: list[float]
    gradients: dict[str, NDArray[np.float32]]
    digests: dict[str, int]
    validation: list[float]


def train(case: Case, world: World) -> Trained:
    """Train a case's steps on this rank."""
    spec = SPECS[case.spec]
    model = build_stage(spec, world, lively_weights(case, world), lora=case.lora, seed=_WEIGHT_SEED)
    model.freeze(case.freeze)
    recompute = case.recompute if case.recompute in ("none", "full") else (case.recompute,)
    pipeline = Pipeline(model, world, recompute=recompute)  # type: ignore[arg-type]
    kind = SlicedAdamW if case.zero1 else AdamW
    parameters = {parameter.name: parameter for parameter in pipeline.trainable}
    witness = Witness(kind(parameters, case.trained_rows(whole=True), _SETTINGS, world.data), case, world)
    take_step = TrainStep(
        pipeline,
        witness,
        world,
        spec,
        clip_norm=_CLIP_NORM,
        reduction=case.reduction,  # type: ignore[arg-type]
        lora=case.lora,
    )
    validation = validation_loss(pipeline, world, micro_batches(case, 1, world.place.dp))
    results = []
    for step in range(1, case.steps + 1):
        world.phase = f"step {step}"
        results.append(take_step(micro_batches(case, step, world.place.dp), lr=_LEARNING_RATE, step=step))
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    return Trained(
        losses=[result.loss for result in results],
        norms=[result.gradient_norm for result in results],
        gradients={name: array.reshape(shapes[name]) for name, array in witness.gradients.items()},
        digests={name: zlib.crc32(np.ascontiguousarray(array).tobytes()) for name, array in model.named_arrays()},
        validation=[validation.loss, validation.loss_tokens],
    )


class Witness:
    """Stands in front of an optimizer and keeps what the first update is made with, put together from its slices."""

    def __init__(self, optimizer: Optimizer, case: Case, world: World) -> None:
        self.names = optimizer.names
        self.gradients: dict[str, NDArray[np.float32]] = {}
        self._optimizer = optimizer
        self._case = case
        self._world = world
        table = {row.name: row for row in case.trained_rows()}
        self._sizes = [prod(table[name].local_shape(case.tp)) for name in self.names]

    def over_replicas(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Hand on."""
        return self._optimizer.over_replicas(spoil_gradients(gradients, self.names, self._case, self._world))

    def counts(self, index: int) -> bool:
        """Hand on."""
        return self._optimizer.counts(index)

    def update(self, gradients: Sequence[Tensor], *, lr: float, step: int, scale: float = 1.0) -> None:
        """Keep the first, before clipping, and hand on."""
        if step == 1:
            for name, size, gradient in zip(self.names, self._sizes, gradients, strict=True):
                whole = self._world.data.gather(gradient) if self._case.zero1 else gradient
                self.gradients[name] = np.array(whole.asnumpy()).reshape(-1)[:size]
        self._optimizer.update(gradients, lr=lr, step=step, scale=scale)

    def stored(self) -> list[Any]:
        """Hand on."""
        return self._optimizer.stored()

    def load(self, arrays: Any) -> None:
        """Hand on."""
        self._optimizer.load(arrays)


def lively_weights(case: Case, world: World) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield this rank's part of weights in which no norm is one and no bias zero: else a bias added twice is no bug.

    Factors of adapters follow, none of them zero: else A has no gradient in the first step.
    """
    factors = [] if case.lora is None else case.trained_rows()
    for row in (*parameter_table(SPECS[case.spec], world.layout), *factors):
        if world.place.pp in row.stages:
            yield row.name, cut(_lively(row), row.shard, tp=world.layout.tp, rank=world.place.tp)


def _lively(row: Parameter) -> NDArray[np.float32]:
    values = random_tensor(row, _WEIGHT_SEED)
    if row.name.endswith(".lora_B.weight"):
        # An update as large as the weight makes every rounding grow from layer to layer.
        return 0.1 * values
    if values.ndim > 1:
        return values
    noise = np.random.default_rng(zlib.crc32(row.name.encode())).standard_normal(row.shape)
    return (values + 0.2 * noise).astype(np.float32)
