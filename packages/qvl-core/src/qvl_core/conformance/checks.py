"""The checks of the conformance suite: values, gradients and compiled execution of one case.

Gradients are measured against central differences of the float64 definition, so their noise is 1e-8 and the tolerance
can be that of fp32 arithmetic. They are taken with several kinds of incoming cotangent, because a MindSpore operation
can be right for a contiguous one and silently wrong for a view (mint.split in 2.8 and 2.10).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore import Tensor, mint
from numpy.typing import NDArray

from qvl_core.conformance.cases import Case, Input
from qvl_core.conformance.tolerance import COMPILED_TOLERANCE as COMPILED_TOLERANCE
from qvl_core.conformance.tolerance import GRADIENT_TOLERANCE as GRADIENT_TOLERANCE
from qvl_core.conformance.tolerance import VALUE_TOLERANCE as VALUE_TOLERANCE
from qvl_core.conformance.tolerance import Precision as Precision
from qvl_core.kernels.domain import dtype_name
from qvl_core.kernels.select import KernelTable

Pose = Literal["contiguous", "transposed", "offset rows", "offset columns", "broadcast"]

POSES: tuple[Pose, ...] = ("contiguous", "transposed", "offset rows", "offset columns", "broadcast")
# Inputs with more entries than this are differentiated along this many random directions instead of entry by entry.
MOST_ENTRIES = 200
DIRECTIONS = 6
STEP = 1e-5


@dataclass(frozen=True, kw_only=True)
class Check:
    """The outcome of one check: the error that was measured, the most that is allowed, and what broke if it did."""

    kernel: str
    label: str
    check: str
    error: float
    tolerance: float
    message: str = ""

    @property
    def passed(self) -> bool:
        """Tell whether the check holds; a kernel that raised or gave NaN does not."""
        return not self.message and self.error <= self.tolerance


def check_case(case: Case, table: KernelTable, precision: Precision, *, jit: bool, seed: int = 7) -> tuple[Check, ...]:
    """Return all checks of one case. A kernel that raises is a failed check with the first line of its error."""
    random = np.random.default_rng(seed)
    inputs = tuple(_rounded(x, i, case, precision) for i, x in enumerate(case.inputs))
    run = _Run(case=case, table=table, precision=precision, inputs=inputs)
    checks = [_guarded(run, "values", VALUE_TOLERANCE, run.values)]
    checks.append(_guarded(run, "inputs unchanged", {precision: 0.0}, run.inputs_changed))
    if case.gradients:
        cotangent = random.standard_normal(run.truth().shape)
        for pose in POSES:
            measure = partial(run.gradients, pose, cotangent)
            checks.append(_guarded(run, f"gradient, {pose}", GRADIENT_TOLERANCE, measure))
    if jit and case.jit:
        checks.append(_guarded(run, "jit values", COMPILED_TOLERANCE, run.compiled_values))
        if case.gradients:
            measure = partial(run.gradients, "offset columns", cotangent, jit=True)
            checks.append(_guarded(run, "jit gradient", GRADIENT_TOLERANCE, measure))
    return tuple(checks)


def check_again(case: Case, table: KernelTable, precision: Precision, seed: int = 7) -> tuple[Check, ...]:
    """Return values and one gradient of a case for a second time, to be called after all other cases have run.

    In MindSpore 2.10 a softmax gradient over a dim of size 1 spoils the later ones of other shapes: what an operation
    gives can depend on what ran before it.
    """
    run = _Run(
        case=case, table=table, precision=precision,
        inputs=tuple(_rounded(x, i, case, precision) for i, x in enumerate(case.inputs)),
    )  # fmt: skip
    checks = [_guarded(run, "values again", VALUE_TOLERANCE, run.values)]
    if case.gradients:
        cotangent = np.random.default_rng(seed).standard_normal(run.truth().shape)
        checks.append(
            _guarded(run, "gradient again", GRADIENT_TOLERANCE, lambda: run.gradients("contiguous", cotangent))
        )
    return tuple(checks)


def contract_run(case: Case, table: KernelTable, precision: Precision) -> tuple[float, str]:
    """Return the error of a case's values and their dtype, of one call; whatever the kernel raises goes through."""
    inputs = tuple(_rounded(x, i, case, precision) for i, x in enumerate(case.inputs))
    run = _Run(case=case, table=table, precision=precision, inputs=inputs)
    y = run.call()
    return _error(_numbers(y), run.truth()), dtype_name(y.dtype)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A case with its inputs rounded to the precision that is measured."""

    case: Case
    table: KernelTable
    precision: Precision
    inputs: tuple[Input, ...]

    def truth(self) -> NDArray[np.float64]:
        """Return the definition's values for the rounded inputs."""
        return self.case.definition(*(_wide(x) for x in self.inputs))

    def call(self) -> Tensor:
        """Run the kernel on fresh tensors."""
        return self.case.call(self.table, *self._tensors())

    def values(self) -> float:
        """Return the error of the values."""
        return _error(_numbers(self.call()), self.truth())

    def inputs_changed(self) -> float:
        """Return by how much the call changed its own inputs."""
        tensors = self._tensors()
        before = [_numbers(x) for x in tensors]
        self.case.call(self.table, *tensors)
        changes = [np.abs(_numbers(x) - y).max(initial=0.0) for x, y in zip(tensors, before, strict=True)]
        return float(max(changes))

    def compiled_values(self) -> float:
        """Return the difference between compiled and plain execution."""
        tensors = self._tensors()
        compiled = ms.jit(_bind(self.case, self.table))
        return _error(_numbers(compiled(*tensors)), _numbers(self.case.call(self.table, *tensors)))

    def gradients(self, pose: Pose, cotangent: NDArray[np.float64], *, jit: bool = False) -> float:
        """Return the largest gradient error over the float inputs, with the cotangent arriving in this pose."""
        if pose == "broadcast":
            cotangent = np.ones_like(cotangent)
        forward = _bind(self.case, self.table)
        loss = _posed_loss(ms.jit(forward) if jit else forward, pose, cotangent)
        tensors, places = self._tensors(), self._differentiable()
        found = ms.grad(loss, places)(*tensors)
        found = found if isinstance(found, tuple) else (found,)
        return max(self._gradient_error(i, _numbers(g), cotangent) for i, g in zip(places, found, strict=True))

    def _gradient_error(self, place: int, found: NDArray[np.float64], cotangent: NDArray[np.float64]) -> float:
        """Compare one input's gradient with central differences of the definition."""
        wide = [_wide(x) for x in self.inputs]
        entries = wide[place].size
        if entries <= MOST_ENTRIES:
            directions = np.eye(entries)
        else:
            directions = np.random.default_rng(place).standard_normal((DIRECTIONS, entries))
        expected = []
        for direction in directions:
            change = STEP * direction.reshape(wide[place].shape)
            ends = []
            for sign in (1.0, -1.0):
                moved = [x + sign * change if i == place else x for i, x in enumerate(wide)]
                ends.append(float((self.case.definition(*moved) * cotangent).sum()))
            expected.append((ends[0] - ends[1]) / (2.0 * STEP))
        return _error(directions @ found.reshape(-1), np.asarray(expected))

    def _differentiable(self) -> tuple[int, ...]:
        return tuple(
            i for i, x in enumerate(self.inputs) if x.dtype == np.float32 and i not in self.case.single
        )  # fmt: skip

    def _tensors(self) -> list[Tensor]:
        """Return fresh tensors, so that a kernel that writes into its inputs cannot hide it."""
        tensors = []
        for i, x in enumerate(self.inputs):
            tensor = Tensor(x.copy())
            half = x.dtype == np.float32 and i not in self.case.single and self.precision != "float32"
            tensors.append(tensor.astype(getattr(ms, self.precision)) if half else tensor)
        return tensors


def _bind(case: Case, table: KernelTable) -> Callable[..., Tensor]:
    """Return the case's call with the table filled in, as a function that jit can read."""
    # Bound to a name first: jit cannot call a function through an attribute of a captured object.
    call = case.call

    def forward(*tensors: Tensor) -> Tensor:
        return call(table, *tensors)

    return forward


def _posed_loss(forward: Callable[..., Tensor], pose: Pose, cotangent: NDArray[np.float64]) -> Callable[..., Tensor]:
    """Return sum(y * cotangent), written so that the cotangent of y reaches the kernel in the pose.

    The pieces that `cat` hands back are views with an offset, those of `swapaxes` are transposed, and that of a bare
    sum has stride 0.
    """
    like = np.asarray(cotangent, np.float32)
    rows, columns = np.zeros((2, *like.shape[1:]), np.float32), np.zeros((*like.shape[:-1], 3), np.float32)
    if pose == "transposed":
        weight = Tensor(np.ascontiguousarray(like.swapaxes(0, -1)))
    elif pose == "offset rows":
        weight = Tensor(np.concatenate((rows, like), 0))
    elif pose == "offset columns":
        weight = Tensor(np.concatenate((columns, like), -1))
    else:
        weight = Tensor(like)
    above, left = Tensor(rows), Tensor(columns)

    def loss(*tensors: Tensor) -> Tensor:
        y = forward(*tensors)
        # In the output's own dtype up to here, so that a half-precision cotangent is half precision too.
        if pose == "transposed":
            y = y.swapaxes(0, -1)
        elif pose == "offset rows":
            y = mint.cat((above.astype(y.dtype), y), 0)
        elif pose == "offset columns":
            y = mint.cat((left.astype(y.dtype), y), -1)
        elif pose == "broadcast":
            return mint.sum(y)
        return mint.sum(y * weight.astype(y.dtype))

    return loss


def _guarded(run: _Run, name: str, tolerance: Mapping[str, float], measure: Callable[[], float]) -> Check:
    """Run one measurement; whatever the kernel raises is the outcome, because that is what this suite looks for."""
    try:
        error, message = measure(), ""
    except Exception as failure:  # any failure of a kernel is a finding, and the next check still has to run
        error, message = float("inf"), f"{type(failure).__name__}: {_first_line(failure)}"
    return Check(
        kernel=run.case.kernel, label=run.case.label, check=name, error=error,
        tolerance=tolerance[run.precision], message=message,
    )  # fmt: skip


def _first_line(failure: Exception) -> str:
    return next((line.strip() for line in str(failure).splitlines() if line.strip()), "no text")


def _rounded(x: Input, place: int, case: Case, precision: Precision) -> Input:
    """Return the input rounded to what the kernel will really see."""
    if x.dtype != np.float32 or place in case.single or precision == "float32":
        return x
    if precision == "float16":
        return x.astype(np.float16).astype(np.float32)
    bits = x.view(np.uint32)
    # Round to nearest even on the upper 16 bits, which is what a bf16 number is.
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def _wide(x: Input) -> NDArray[Any]:
    return x.astype(np.float64) if x.dtype == np.float32 else x


def _numbers(x: Tensor) -> NDArray[np.float64]:
    """Return the tensor's numbers, a copy in float64."""
    single = x.astype(ms.float32) if x.dtype == ms.bfloat16 else x
    return np.array(single.asnumpy(), np.float64)


def _error(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """Return the largest difference over the largest expected entry (at least 1e-3); inf for NaN or another shape."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    size = max(float(np.abs(expected).max(initial=0.0)), 1e-3)
    return float(np.abs(found - expected).max(initial=0.0)) / size
