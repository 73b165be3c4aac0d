"""The work of one pipeline stage in a training step: micro batches forward and backward in 1F1B order.

The gradient of a stage is taken with public calls that every MindSpore we support has: the forward pass keeps only the
stage's input; the backward pass runs the stage again and differentiates sum(output * arriving gradient). A backward of
one micro batch between the forward and the backward of another is possible no other way on all of them. The last stage
(so a single one too) runs each micro batch once: its loss follows its forward pass at once.

Shapes travel with nobody: every stage reads the same batches and knows what its neighbours will send.

Legend: T tokens, P patches, U merged units, L rows with a label.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, mint, ops
from numpy.typing import NDArray

from qvl_core.batch import Batch
from qvl_core.model import Plan, Qwen25VL
from qvl_core.parallel.schedule import one_f_one_b
from qvl_core.parallel.world import World
from qvl_core.params import Component, parameter_table
from qvl_core.stage_part import flow_after

COMPONENTS: tuple[Component, ...] = ("vision", "merger", "text")


@dataclass(kw_only=True)
class _InFlight:
    """A micro batch between its forward and its backward."""

    plan: Plan
    arrived: Tensor | None


class Pipeline:
    """A rank's model as a stage: `gradients` for training, `losses` for validation. Every rank calls the same ones."""

    def __init__(
        self, model: Qwen25VL, world: World, *, recompute: Literal["none", "full"] | Collection[Component] = "none"
    ) -> None:
        """Freeze the model's components before: what has no gradient is found here, once."""
        self._model = model
        self._world = world
        self._stage, self._stages = world.place.pp, world.layout.pp
        model.recompute(_recomputed(recompute))
        parameters = model.named_parameters()
        self.trainable: list[Parameter] = [value for value in parameters.values() if value.requires_grad]
        """The stage's parameters that are not frozen, in the order of the parameter table; perhaps none."""
        self._trained_before = _trained_before(model, world, self.trainable)
        self._derivatives: dict[tuple[bool, bool], Callable[..., Any]] = {}

    @property
    def is_last(self) -> bool:
        """Tell whether this stage gives the losses."""
        return self._stage == self._stages - 1

    def gradients(self, batches: Sequence[Batch], weights: Sequence[NDArray[np.float32]]) -> tuple[float, list[Tensor]]:
        """Give the sum of this replica's weighted losses (0.0 before the last stage) and the gradients of `trainable`.

        `weights` are those of each batch's loss rows. The gradients are fp32 sums over the batches, neither summed
        over replicas nor over the copies of a tied embedding. A stage that a batch has no work for gives zeros.
        """
        in_flight: dict[int, _InFlight] = {}
        loss, total = 0.0, None
        for action in one_f_one_b(self._stage, self._stages, len(batches)):
            batch, number = batches[action.micro_batch], action.micro_batch
            if action.kind == "forward":
                in_flight[number] = self._forward(batch, keep=not self.is_last)
                continue
            value, found = self._backward(batch, weights[number], in_flight.pop(number))
            loss += value
            total = accumulate(total, found) if found else total
        self._world.finish_sends()
        return loss, total if total is not None else [_zeros(parameter) for parameter in self.trainable]

    def losses(self, batch: Batch) -> NDArray[np.float32] | None:
        """Give the loss of each row of `batch.loss_rows` on the last stage, None on the others. No gradient."""
        held = self._forward(batch, keep=not self.is_last)
        self._world.finish_sends()
        if not self.is_last:
            return None
        hidden = self._model.advance(held.plan, held.arrived)
        return self._model.losses_of(hidden, held.plan).asnumpy()

    def _forward(self, batch: Batch, *, keep: bool) -> _InFlight:
        """Receive, and (before the last stage) compute and send on."""
        plan = self._model.plan(batch)
        arrived = self._receive_input(batch)
        if keep:
            output = self._model.advance(plan, arrived)
            if output is not None:
                self._world.send(output, self._stage + 1)
        return _InFlight(plan=plan, arrived=arrived)

    def _backward(self, batch: Batch, weights_L: NDArray[np.float32], held: _InFlight) -> tuple[float, list[Tensor]]:
        """Receive the gradient of the output, give loss and gradients, send the gradient of the input."""
        is_wanted = held.arrived is not None and self._needs_gradient(self._stage, batch)
        if self.is_last:
            seed: Tensor | None = Tensor(weights_L)
        elif self._flow_shape(self._stage, batch) is not None and self._needs_gradient(self._stage + 1, batch):
            seed = self._receive(self._flow_shape(self._stage, batch), self._stage + 1)
        else:
            seed = None
        if seed is None or (not is_wanted and not self.trainable):
            # No gradient arrives or nothing here wants one; the last stage still says its loss.
            return (self._loss_alone(held, weights_L) if self.is_last else 0.0), []
        value, (into_input, into_weights) = self._differentiate(is_wanted, held, seed)
        if is_wanted:
            self._world.send(into_input, self._stage - 1)
        return (float(value.asnumpy()) if self.is_last else 0.0), into_weights

    def _loss_alone(self, held: _InFlight, weights_L: NDArray[np.float32]) -> float:
        hidden = self._model.advance(held.plan, held.arrived)
        return float((self._model.losses_of(hidden, held.plan).asnumpy() * weights_L).sum())

    def _differentiate(
        self, is_wanted: bool, held: _InFlight, seed: Tensor
    ) -> tuple[Tensor, tuple[Tensor | None, list[Tensor]]]:
        """Run the stage and its backward: (value, (gradient of the input or None, gradients of `trainable`))."""
        key = (is_wanted, bool(self.trainable))
        if key not in self._derivatives:
            position = 0 if is_wanted else None
            self._derivatives[key] = ms.value_and_grad(self._scalar, position, self.trainable or None)
        value, found = self._derivatives[key](held.arrived, held.plan, seed)
        if not self.trainable:
            return value, (found, [])
        into_input, into_weights = found if is_wanted else (None, found)
        return value, (into_input, list(into_weights))

    def _scalar(self, arrived: Tensor | None, plan: Plan, seed: Tensor) -> Tensor:
        """What is differentiated: the weighted loss, or the output times its gradient."""
        output = self._model.advance(plan, arrived)
        if self.is_last:
            return mint.sum(self._model.losses_of(output, plan) * seed)
        return mint.sum(output * seed)

    def _receive_input(self, batch: Batch) -> Tensor | None:
        shape = self._flow_shape(self._stage - 1, batch) if self._stage else None
        return None if shape is None else self._receive(shape, self._stage - 1)

    def _receive(self, shape: tuple[int, ...] | None, stage: int) -> Tensor:
        assert shape is not None
        return self._world.receive(shape, self._model.dtype, stage)

    def _flow_shape(self, stage: int, batch: Batch) -> tuple[int, ...] | None:
        """Give the shape of what `stage` sends to the next for a batch; None where it sends nothing."""
        spec, flow = self._model.spec, flow_after(self._world.layout, stage)
        if flow == "text":
            return batch.tokens, spec.text.hidden_size
        patches = len(batch.patches)
        if patches == 0:
            return None
        if flow == "patches":
            return patches, spec.vision.hidden_size
        return patches // spec.vision.merge_unit, spec.vision.out_hidden_size

    def _needs_gradient(self, stage: int, batch: Batch) -> bool:
        """Tell whether the stages before `stage` want the gradient of what `stage` received for a batch."""
        trained = self._trained_before[stage]
        return "text" in trained or (bool(trained) and len(batch.patches) > 0)


def accumulate(total: list[Tensor] | None, gradients: Sequence[Tensor]) -> list[Tensor]:
    """Add one micro batch's gradients to the running fp32 sum; never in place (a silent no-op on CPU)."""
    if total is None:
        return [gradient.astype(ms.float32) for gradient in gradients]
    return [ops.add(old, new.astype(ms.float32)) for old, new in zip(total, gradients, strict=True)]


def _recomputed(recompute: Literal["none", "full"] | Collection[Component]) -> Collection[Component]:
    if recompute == "none":
        return ()
    return COMPONENTS if recompute == "full" else recompute


def _trained_before(model: Qwen25VL, world: World, trainable: Sequence[Parameter]) -> list[frozenset[str]]:
    """List, for each stage, the components with something to train on the stages before it. All ranks take part."""
    components = {row.name: row.component for row in parameter_table(model.spec)}
    mine = sorted({components[parameter.name] for parameter in trainable})
    places: dict[int, set[str]] = {stage: set() for stage in range(world.layout.pp)}
    for row in world.exchange({"stage": world.place.pp, "components": mine}):
        assert isinstance(row, dict)
        places[int(row["stage"])] |= set(row["components"])  # type: ignore[arg-type]
    return [frozenset().union(*(places[before] for before in range(stage))) for stage in range(world.layout.pp)]


def _zeros(parameter: Parameter) -> Tensor:
    return Tensor(np.zeros(tuple(parameter.shape), np.float32))
