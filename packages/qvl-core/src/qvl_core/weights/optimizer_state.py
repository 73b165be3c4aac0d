"""Optimizer state beside the weights of a training checkpoint: what there is of a parameter, and in which file it lies.

A tensor of it is called `<parameter>.<kind>`, has its parameter's shape, is cut by the same shard rule and lies on the
same ranks. There is nothing for a frozen parameter, so that a rank's file may hold no tensor at all.
"""

from __future__ import annotations

# First and second moment of AdamW; the fp32 weights where the model's own are not fp32.
OPTIMIZER_KINDS = ("moment1", "moment2", "master")


def optimizer_file_name(pp: int, tp: int) -> str:
    """Give the name of the optimizer state of one pipeline stage and tensor rank."""
    return f"optimizer-pp{pp:03d}-tt{tp:03d}.safetensors"


def state_name(parameter: str, kind: str) -> str:
    """Give the name of one tensor of a parameter's state."""
    return f"{parameter}.{kind}"


def split_name(name: str) -> tuple[str, str]:
    """Give (parameter, kind), which need not be known ones; the parameter is empty where there is no dot."""
    parameter, _, kind = name.rpartition(".")
    return parameter, kind
