"""Fused against reference form, timed side by side on the sizes of one 7B training step. Nothing asserts a time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from qvl_core.device import current_device
from qvl_core.kernels.segments import Segments, build_segments
from qvl_core.kernels.select import KernelTable

ROUNDS = 10


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Medians over alternating rounds, forward only, in milliseconds; `spread` is (max - min) / median of the fused.

    Where the device refused, there are no numbers, and `message` says why.
    """

    kernel: str
    label: str
    fused_ms: float | None = None
    reference_ms: float | None = None
    spread: float | None = None
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is timed: one call of a table's kernel."""

    kernel: str
    label: str
    call: Callable[[KernelTable], Any]


def measure(
    fused: KernelTable,
    reference: KernelTable,
    tasks: Sequence[Task],
    *,
    rounds: int = ROUNDS,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Timing, ...]:
    """Time every task with both tables, in turns, so that a busy machine slows both.

    A task that a device refuses gives a timing without numbers, and `tell` hears why: it must not cost the other tasks.
    """
    timings: list[Timing] = []
    for task in tasks:
        try:
            timings.append(_measure(task, fused, reference, rounds))
        # Whatever a device or MindSpore raises; the checks of the suite have its details.
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            message = f"{type(error).__name__}: {first[:200]}"
            timings.append(Timing(kernel=task.kernel, label=task.label, message=message))
            tell(f"  no timing of {task.kernel}, {task.label}: {message}")
    return tuple(timings)


def _measure(task: Task, fused: KernelTable, reference: KernelTable, rounds: int) -> Timing:
    times: dict[str, list[float]] = {"fused": [], "reference": []}
    for table in (fused, reference):
        _finish(task.call(table))
    for _ in range(rounds):
        for name, table in (("fused", fused), ("reference", reference)):
            start = time.perf_counter()
            _finish(task.call(table))
            times[name].append(1e3 * (time.perf_counter() - start))
    median = statistics.median(times["fused"])
    return Timing(
        kernel=task.kernel, label=task.label, fused_ms=median, reference_ms=statistics.median(times["reference"]),
        spread=(max(times["fused"]) - min(times["fused"])) / median,
    )  # fmt: skip


def _finish(result: Any) -> None:
    """Wait for the device: launches return before the work is done. On CPU they are blocking (`qvl_core.device`)."""
    if current_device() == "ascend":
        ms.runtime.synchronize()
    del result


def tasks_of_7b(*, divide: int = 1, dtype: str = "bfloat16", seed: int = 1) -> tuple[Task, ...]:
    """Return the tasks, those of `case_list.TIMED`: 4096 tokens and 4096 patches, 1 rank.

    `divide` shrinks tokens, patches and vocabulary.
    """
    random = np.random.default_rng(seed)
    tokens = 4096 // divide

    def normal(*shape: int) -> Tensor:
        return Tensor(random.standard_normal(shape).astype(np.float32)).astype(getattr(ms, dtype))

    return tuple(_tasks(normal, tokens, 152_064 // divide))


def _tasks(normal: Callable[..., Tensor], tokens: int, vocabulary: int) -> Iterator[Task]:
    packed, windows = build_segments([tokens // 4] * 4), build_segments([min(64, tokens // 4)] * (tokens // 64 or 4))
    text = (normal(packed.total, 28, 128), normal(packed.total, 4, 128), normal(packed.total, 4, 128))
    vision = tuple(normal(windows.total, 16, 80) for _ in range(3))
    x, weight = normal(tokens, 3584), normal(3584)
    angles = Tensor(np.zeros((tokens, 128), np.float32))
    gate, up = normal(tokens, 18944), normal(tokens, 18944)
    logits, labels = normal(tokens // 4, vocabulary), Tensor(np.zeros(tokens // 4, np.int32))
    patches, kernel = normal(tokens, 1176), normal(1280, 1176)
    yield Task(kernel="attention", label="packed, 28 and 4 heads of 128", call=partial(_attend, text, packed, True))
    yield Task(kernel="attention", label="windows, 16 heads of 80", call=partial(_attend, vision, windows, False))
    yield Task(kernel="rms_norm", label="width 3584", call=lambda table: table.rms_norm(x, weight, 1e-6))
    yield Task(kernel="rope", label="28 heads of 128", call=lambda table: table.rope(text[0], angles + 1.0, angles))
    yield Task(kernel="swiglu", label="width 18944", call=lambda table: table.swiglu(gate, up))
    yield Task(kernel="cross_entropy", label="vocabulary", call=lambda table: table.cross_entropy(logits, labels))
    yield Task(kernel="patch_embed", label="1176 to 1280", call=lambda table: table.patch_embed(patches, kernel))
    yield Task(kernel="adamw_update", label="tokens x 3584", call=_optimizer(tokens * 3584))


def _attend(qkv: Sequence[Tensor], segments: Segments, causal: bool, table: KernelTable) -> Tensor:
    q, k, v = qkv
    return table.attention(q, k, v, segments, causal=causal, scale=q.shape[-1] ** -0.5)


def _optimizer(size: int) -> Callable[[KernelTable], None]:
    parameter, first, second = (Parameter(Tensor(np.zeros(size, np.float32))) for _ in range(3))
    gradient = Tensor(np.ones(size, np.float32))

    def step(table: KernelTable) -> None:
        table.adamw_update(
            parameter, first, second, gradient, lr=1e-5, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.01, step=1
        )

    return step
