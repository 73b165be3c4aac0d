"""The contract of each Ascend form, checked on any machine: the call that it builds, and what the call means.

Stand-ins take the place of MindSpore's fused operations. Each binds what it is given to the recorded signature and,
where there is one, to the installed operation's; checks the documented rules; computes the documented result with
numpy; and keeps a record. So a wrong argument, mask, cumulative length or layout is seen without a device. Values,
gradients and speed of the operations themselves are not: that is what the suite does on a device, with the same cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import reduce
from inspect import Signature
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor
from numpy.typing import NDArray

from qvl_core.conformance.cases import Case
from qvl_core.conformance.checks import VALUE_TOLERANCE, Check, Precision, contract_run
from qvl_core.conformance.documented import MODELS, BrokenRuleError, relied_on
from qvl_core.conformance.signatures import installed_signature, recorded_signature
from qvl_core.kernels import adamw
from qvl_core.kernels.domain import DOMAINS
from qvl_core.kernels.select import KernelTable, reference_table

# The primitive object that the optimizer step calls; all other operations are called by their names.
_ADAM = "ops.Adam"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a fused operation: its arguments by name, defaults included."""

    operation: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """A fused operation with the rules of its documentation."""

    operation: str
    installed: Signature | None
    record: list[Call] = field(default_factory=list)

    def __call__(self, *positional: Any, **named: Any) -> Any:
        """Check the call, keep it, and return the documented result. Raises BrokenRuleError or TypeError."""
        bound = recorded_signature(self.operation).bind(*positional, **named)
        if self.installed is not None:
            self.installed.bind(*positional, **named)
        bound.apply_defaults()
        self.record.append(Call(operation=self.operation, arguments=bound.arguments))
        result = MODELS[self.operation](bound.arguments)
        if self.operation == _ADAM:
            return _write_back(bound.arguments, result)
        first = next(x for x in bound.arguments.values() if isinstance(x, Tensor))
        return tuple(_like(x, first) for x in result) if isinstance(result, tuple) else _like(result, first)


@contextmanager
def stand_ins() -> Iterator[list[Call]]:
    """Put the stand-ins where the Ascend forms find the operations; give the record of the calls.

    An operation that the installed MindSpore does not have gets none: the form that calls it fails as on a device.
    """
    record: list[Call] = []
    with ExitStack() as stack:
        for name in MODELS:
            try:
                installed = installed_signature(name)
            except AttributeError:
                continue
            stand_in = StandIn(operation=name, installed=installed, record=record)
            *path, last = name.split(".")
            holder, attribute = (adamw, "_ADAM") if name == _ADAM else (reduce(getattr, path, ms), last)
            stack.callback(setattr, holder, attribute, getattr(holder, attribute))
            setattr(holder, attribute, stand_in)
        yield record


@dataclass(frozen=True, kw_only=True)
class ContractCheck(Check):
    """The outcome of one contract, and the rule outside of MindSpore's docstring that its calls rely on ("": none)."""

    relies_on: str = ""


def check_contract(case: Case, table: KernelTable, precision: Precision = "float16") -> ContractCheck:
    """Run one case of a kernel with a domain through the stand-ins; the check fails where its contract is broken.

    Inside of the domain the fused operation has to be called, outside of it must not be, and the values have to be
    those of the definition either way.
    """
    relies_on = ""
    try:
        with stand_ins() as record:
            error, dtype = contract_run(case, table, precision)
        message = _wrong_operation(case, record) or _wrong_dtype(case, dtype, precision)
        relies_on = next(filter(None, (relied_on(x.operation, x.arguments) for x in record)), "")
    except (BrokenRuleError, AttributeError, TypeError, ValueError) as failure:
        error, message = float("inf"), f"{type(failure).__name__}: {failure}"
    return ContractCheck(
        kernel=case.kernel, label=case.label, check=f"contract, {precision}", error=error,
        tolerance=VALUE_TOLERANCE[precision], message=message, relies_on=relies_on,
    )  # fmt: skip


def _wrong_operation(case: Case, record: list[Call]) -> str:
    operations = {call.operation for call in record}
    own = DOMAINS[case.kernel].operation
    if case.fused and operations != {own}:
        return f"inside of the domain, but {own} was not called" if own not in operations else f"called {operations}"
    if not case.fused and own in operations:
        return f"outside of the domain, but {own} was called"
    return ""


def _wrong_dtype(case: Case, dtype: str, precision: Precision) -> str:
    """Compare the dtype of the result with that of the reference: losses are fp32 whatever the logits are."""
    _, expected = contract_run(case, reference_table(), precision)
    return "" if dtype == expected else f"gives {dtype}, the reference {expected}"


def _like(result: NDArray[np.float64], first: Tensor) -> Tensor:
    return Tensor(result.astype(np.float32)).astype(first.dtype)


def _write_back(given: Mapping[str, Any], result: tuple[NDArray[np.float64], ...]) -> tuple[Tensor, ...]:
    """Change the parameters in place, as the operation does."""
    for name, value in zip(("var", "m", "v"), result, strict=True):
        parameter: Parameter = given[name]
        parameter.set_data(_like(value, parameter))  # trap: not compiled
    return tuple(given[name] for name in ("var", "m", "v"))
