"""The work of one pipeline stage in a training step: micro batches forward and backward in 1F1B order.

The gradient of a stage is taken with public calls that every MindSpore we support has: the forward pass keeps only the
stage's input; the backward pass runs the stage again and differentiates sum(output * arriving gradient). A backward of
one micro batch between the forward and the backward of another is possible no other way on all of them. The last stage
(so a single one too) runs each micro batch once: its loss follows its forward pass at once. Vision layers that nothing
trains in or before are run once on every stage, outside of what is differentiated.

Shapes travel with nobody: every stage reads the same batches and knows what its neighbours will send.

Legend: T tokens, P patches, U merged units, L rows with a label.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, mint, ops
from numpy.typing import NDArray

from qvl_core.batch import Batch
from qvl_core.device import current_device
from qvl_core.model import Plan, Qwen25VL
from qvl_core.parallel.mesh import coordinate_of
from qvl_core.parallel.schedule import one_f_one_b
from qvl_core.parallel.step_clock import Clock, SilentClock
from qvl_core.parallel.vision_pass import vision_flow
from qvl_core.parallel.world import World
from qvl_core.params import Component
from qvl_core.stage_part import flow_after

COMPONENTS: tuple[Component, ...] = ("vision", "merger", "text")


@dataclass(frozen=True, kw_only=True)
class _InFlight:
    """A micro batch between its forward and its backward.

    `x` is what is differentiated from, `is_wanted` says whether the stage before wants its gradient.
    """

    plan: Plan
    x: Tensor | None
    is_wanted: bool


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
        self.trainable: list[Parameter] = [value for value in model.named_parameters().values() if value.requires_grad]
        """The stage's parameters that are not frozen, in the order of the parameter table; perhaps none."""
        components = {row.name: row.component for row in model.table}
        here = {components[parameter.name] for parameter in self.trainable}
        self._trained_before = _trained_before(world, here)
        # Then vision runs once, outside of what is differentiated: neither kept nor run again for the backward.
        self._vision_is_constant = not (here & {"vision", "merger"}) and not self._trained_before[self._stage]
        # Features that were computed before and kept have to be those of any batch to the bit. On a device, where sums
        # are rounded in its own order anyway, one run for all media is worth more.
        model.runs_media_apart = self._vision_is_constant and current_device() == "cpu"
        self.step = 0
        """The update that `gradients` computes for: what the dropout of adapters draws by."""
        self._derivatives: dict[tuple[bool, bool], Callable[..., Any]] = {}
        self._outgoing: tuple[Tensor, int] | None = None
        self.clock: Clock = SilentClock()
        """Is told what begins: forward, backward, or an exchange between stages."""

    @property
    def is_last(self) -> bool:
        """Tell whether this stage gives the losses."""
        return self._stage == self._stages - 1

    def gradients(
        self, batches: Sequence[Batch], weights: Sequence[NDArray[np.float32]], *, first: int = 0
    ) -> tuple[float, list[Tensor]]:
        """Give the sum of this replica's weighted losses (0.0 before the last stage) and the gradients of `trainable`.

        `weights` are those of each batch's loss rows. The gradients are fp32 sums over the batches, neither summed
        over replicas nor over the copies of a tied embedding. A stage that a batch has no work for gives zeros.
        `first` is the number of the first batch in its step, by which dropout draws.
        """
        in_flight: dict[int, _InFlight] = {}
        loss: float = 0.0
        total: list[Tensor] = []
        order = running_order(batches) if self._stages > 1 else range(len(batches))
        for action in one_f_one_b(self._stage, self._stages, len(batches)):
            number = order[action.micro_batch]
            self._draw(first + number)
            if action.kind == "forward":
                in_flight[number] = self._forward(batches[number])
                continue
            value, found = self._backward(batches[number], weights[number], in_flight.pop(number))
            loss += value
            accumulate(total, found)
        self._finish_sends()
        return loss, total or [_zeros(parameter) for parameter in self.trainable]

    def losses(self, batch: Batch) -> NDArray[np.float32] | None:
        """Give the loss of each row of `batch.loss_rows` on the last stage, None on the others. No gradient.

        The model's cells are in evaluation mode meanwhile (`training` is False).
        """
        if self._model.dropout is not None:
            self._model.dropout.end()
        trains = self._model.training
        if trains:
            self._model.set_train(False)
        try:
            held = self._forward(batch)
            self._finish_sends()
            if not self.is_last:
                return None
            return self._model.losses_of(self._advance(held.plan, held.x), held.plan).asnumpy()
        finally:
            if trains:
                self._model.set_train(True)

    def is_finite(self, batch: Batch, number: int) -> bool:
        """Run batch `number` of a step forward; tell whether what this stage makes of it, or the losses, are finite.

        All ranks of a replica call it. A stage that has nothing to do with the batch says yes.
        """
        self._draw(number)
        held = self._forward(batch)
        output = self._outgoing[0] if self._outgoing is not None else None
        self._finish_sends()
        if self.is_last:
            output = self._model.losses_of(self._advance(held.plan, held.x), held.plan)
        return output is None or bool(np.isfinite(output.astype(ms.float32).asnumpy()).all())

    def _draw(self, number: int) -> None:
        """Tell dropout which micro batch of all replicas' comes: a stage runs one several times, others in between."""
        if self._model.dropout is not None:
            place, layout = self._world.place, self._world.layout
            self._model.dropout.begin(self.step, place.dp + number * layout.dp)

    def _forward(self, batch: Batch) -> _InFlight:
        """Receive, and (before the last stage) compute and send on."""
        self.clock.switch("forward")
        plan = self._model.plan(batch)
        x = self._take(self._flow_shape(self._stage - 1, batch) if self._stage else None, self._stage - 1)
        is_wanted = x is not None and self._needs_gradient(self._stage, batch)
        if self._vision_is_constant:
            x, plan = self._model.see(plan, x), plan.without_vision()
        if not self.is_last:
            output = self._advance(plan, x)
            if output is not None:
                self._outgoing = (output, self._stage + 1)
        return _InFlight(plan=plan, x=x, is_wanted=is_wanted)

    def _backward(self, batch: Batch, weights_L: NDArray[np.float32], held: _InFlight) -> tuple[float, list[Tensor]]:
        """Receive the gradient of the output, give loss and gradients, send the gradient of the input."""
        # The last stage has its forward still to do, in one call with the backward: `_scalar` says when it is over.
        self.clock.switch("forward" if self.is_last else "backward")
        if self.is_last:
            self._deliver()
            seed: Tensor | None = Tensor(weights_L)
        else:
            is_due = self._needs_gradient(self._stage + 1, batch)
            seed = self._take(self._flow_shape(self._stage, batch) if is_due else None, self._stage + 1)
        if seed is None or not (held.is_wanted or self.trainable):
            # No gradient arrives or nothing here wants one; the last stage still says its loss.
            return (self._loss_alone(held, weights_L) if self.is_last else 0.0), []
        value, into_x, into_weights = self._differentiate(held, seed)
        if into_x is not None:
            self._outgoing = (into_x, self._stage - 1)
        return (float(value.asnumpy()) if self.is_last else 0.0), into_weights

    def _loss_alone(self, held: _InFlight, weights_L: NDArray[np.float32]) -> float:
        losses_L = self._model.losses_of(self._advance(held.plan, held.x), held.plan).asnumpy()
        return float((losses_L * weights_L).sum())

    def _differentiate(self, held: _InFlight, seed: Tensor) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Run the stage and its backward: value, gradient of x if it is wanted, gradients of `trainable`."""
        key = (held.is_wanted, bool(self.trainable))
        if key not in self._derivatives:
            position = 0 if held.is_wanted else None
            self._derivatives[key] = ms.value_and_grad(self._scalar, position, self.trainable or None)
        value, found = self._derivatives[key](held.x, held.plan, seed)
        if not self.trainable:
            return value, found, []
        into_x, into_weights = found if held.is_wanted else (None, found)
        return value, into_x, list(into_weights)

    def _scalar(self, x: Tensor | None, plan: Plan, seed: Tensor) -> Tensor:
        """What is differentiated: the weighted loss, or the output times its gradient."""
        output = self._advance(plan, x)
        if self.is_last:
            loss = mint.sum(self._model.losses_of(output, plan) * seed)
            self.clock.switch("backward")
            return loss
        return mint.sum(output * seed)

    def _advance(self, plan: Plan, x: Tensor | None) -> Tensor | None:
        return self._model.read(plan, x) if self._vision_is_constant else self._model.advance(plan, x)

    def _take(self, shape: tuple[int, ...] | None, stage: int) -> Tensor | None:
        """Receive from a neighbour, None where it sends nothing, and hand over what is still here for a neighbour.

        Every piece of work begins with this. What goes to the neighbour that something comes from travels in the same
        call: two neighbours that both send first would wait for each other on an engine whose sends wait.
        """
        if shape is None:
            self._deliver()
            return None
        if self._outgoing is not None and self._outgoing[1] == stage:
            x, self._outgoing = self._outgoing[0], None
            interrupted = self.clock.switch("stages")
            found = self._world.swap(x, shape, self._model.dtype, stage)
        else:
            self._deliver()
            interrupted = self.clock.switch("stages")
            found = self._world.receive(shape, self._model.dtype, stage)
        self.clock.switch(interrupted)
        return found

    def _deliver(self) -> None:
        if self._outgoing is not None:
            interrupted = self.clock.switch("stages")
            self._world.send(*self._outgoing)
            self._outgoing = None
            self.clock.switch(interrupted)

    def _finish_sends(self) -> None:
        self._deliver()
        self.clock.switch("stages")
        self._world.finish_sends()

    def _flow_shape(self, stage: int, batch: Batch) -> tuple[int, ...] | None:
        """Give the shape of what `stage` sends to the next for a batch; None where it sends nothing."""
        spec, layout = self._model.spec, self._world.layout
        if flow_after(layout, stage) == "text":
            return batch.tokens, spec.text.hidden_size
        patches = batch.grid_patches
        # Features that are known travel nowhere: the stage that places them has them itself.
        return vision_flow(layout, stage, patches, spec.vision) if patches and batch.features is None else None

    def _needs_gradient(self, stage: int, batch: Batch) -> bool:
        """Tell whether the stages before `stage` want the gradient of what `stage` received for a batch."""
        trained = self._trained_before[stage]
        return "text" in trained or (bool(trained) and batch.features is None and batch.grid_patches > 0)


def running_order(batches: Sequence[Batch]) -> list[int]:
    """Give the order in which a pipeline runs the micro batches of a step: by size, so that neighbours are alike.

    Stages work on neighbouring micro batches at the same time, and wait for the slowest; the sum does not depend on the
    order. The same on every stage.
    """
    return sorted(range(len(batches)), key=lambda number: (batches[number].tokens, batches[number].grid_patches))


def accumulate(total: list[Tensor], gradients: Sequence[Tensor]) -> None:
    """Add one micro batch's gradients to the running fp32 sums, one by one: two of a tensor at a time, not of all.

    The gradients have the dtype of their parameters. The list is changed, no tensor is: adding in place is a silent
    no-op on CPU. With one micro batch of fp32 nothing is copied.
    """
    for i, new in enumerate(gradients):
        # Before the sum: in bf16 a sum of 256 equal gradients stops growing. (astype copies nothing, but is a call.)
        summand = new if new.dtype == ms.float32 else new.astype(ms.float32)
        if i < len(total):
            total[i] = ops.add(total[i], summand)
        else:
            total.append(summand)


def _recomputed(recompute: Literal["none", "full"] | Collection[Component]) -> Collection[Component]:
    if recompute == "none":
        return ()
    return COMPONENTS if recompute == "full" else recompute


def _trained_before(world: World, here: Collection[Component]) -> list[frozenset[str]]:
    """List, for each stage, the components with something to train on the stages before it. All ranks take part."""
    places: list[set[str]] = [set() for _ in range(world.layout.pp)]
    for rank, found in enumerate(world.exchange(sorted(here))):
        places[coordinate_of(rank, world.layout).pp].update(cast("list[str]", found))
    return [frozenset().union(*places[:stage]) for stage in range(world.layout.pp)]


def _zeros(parameter: Parameter) -> Tensor:
    return Tensor(np.zeros(tuple(parameter.shape), np.float32))
