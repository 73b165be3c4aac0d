"""The signatures of the fused operations, as recorded for every supported MindSpore, and those of the one installed.

A signature that changes between versions breaks the Ascend forms on a device only, where no test of ours runs; here the
change is seen on any machine.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

# The versions that have every recorded signature: asked with `inspect` on 2.7.0 and 2.10.0, read in the sources of the
# wheels of the others.
SEEN_ON = ("2.7.0", "2.7.1", "2.7.2", "2.8.0", "2.9.0", "2.10.0")


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A signature as `inspect.signature` prints it, the same on all of SEEN_ON; `later` names pages of newer ones."""

    text: str
    later: tuple[str, ...] = ()


_FLASH_ATTENTION = (
    "(query, key, value, head_num, real_shift=None, drop_mask=None, padding_mask=None, attn_mask=None, prefix=None, "
    "actual_seq_qlen=None, actual_seq_kvlen=None, keep_prob=1.0, scalar_value=1.0, pre_tokens=2147483647, "
    "next_tokens=2147483647, inner_precise=0, input_layout='BSH', sparse_mode=0)"
)
RECORDED: Mapping[str, Recorded] = MappingProxyType(
    {
        "ops.flash_attention_score": Recorded(text=_FLASH_ATTENTION),
        # 2.9 and later announce rms_norm(input, normalized_shape, weight=None, eps=1e-6); 2.11 has not changed it.
        "ops.rms_norm": Recorded(text="(x, gamma, epsilon=1e-06)", later=("r2.11.0",)),
        "ops.swiglu": Recorded(text="(input, dim=-1)"),
        # Deprecated: "will be removed after version 2.9.0", and still in 2.10.0.
        "ops.rotary_position_embedding": Recorded(text="(x, cos, sin, mode=0)"),
        "mint.nn.functional.cross_entropy": Recorded(
            text="(input, target, weight=None, ignore_index=-100, reduction='mean', label_smoothing=0.0)",
            later=("br_base",),
        ),
        "mint.nn.functional.linear": Recorded(text="(input, weight, bias=None)"),
        # A primitive: what is bound are the inputs of its documentation.
        "ops.Adam": Recorded(
            text="(var, m, v, beta1_power, beta2_power, lr, beta1, beta2, epsilon, gradient)",
        ),
    }
)  # fmt: skip


def operation(name: str) -> Callable[..., Any]:
    """Return the operation of the installed MindSpore: "ops.swiglu" is `mindspore.ops.swiglu`. AttributeError: gone."""
    found: Any = importlib.import_module("mindspore")
    for part in name.split("."):
        found = getattr(found, part)
    return cast("Callable[..., Any]", found)


def recorded_signature(name: str) -> inspect.Signature:
    """Return the recorded signature of an operation."""
    function = ast.parse(f"def recorded{RECORDED[name].text}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    names, given = function.args.args, function.args.defaults
    defaults = [inspect.Parameter.empty] * (len(names) - len(given)) + [ast.literal_eval(value) for value in given]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature(
        [inspect.Parameter(x.arg, kind, default=default) for x, default in zip(names, defaults, strict=True)]
    )


def installed_signature(name: str) -> inspect.Signature | None:
    """Return the installed operation's signature; None for a primitive, whose inputs inspect cannot see."""
    found = operation(name)
    return None if inspect.isclass(found) else inspect.signature(found)


def differences() -> tuple[str, ...]:
    """Say which fused operations are gone from the installed MindSpore or have another signature than recorded."""
    found = []
    for name, recorded in RECORDED.items():
        try:
            signature = installed_signature(name)
        except AttributeError:
            found.append(f"mindspore.{name} is not in this MindSpore")
            continue
        if signature is not None and str(signature) != recorded.text:
            found.append(f"mindspore.{name}{signature} is installed; the calls are written for {recorded.text}")
    return tuple(found)
