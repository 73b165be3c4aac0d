"""What ranks tell comes together right: means, the worst rank, replicas counted once, bubble, use of the devices."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("mindspore", reason="the meter asks MindSpore for the device")

import mindspore as ms
from qvl_core.layout import Layout
from qvl_core.parallel.step_clock import StepTimes
from qvl_core.specs import load_spec
from qvl_train import memory
from qvl_train.meter import PARTS, Meter

SPEC = load_spec("qwen2.5-vl-tiny")
# Ranks in order: stage 0 of replicas 0 and 1, stage 1 of replicas 0 and 1.
LAYOUT = Layout(pp=2, dp=2, vision_stages=(4, 0), text_stages=(1, 3))


def told(rank: int, **changed: Any) -> dict[str, Any]:
    """Give what a rank tells: each number another one on each rank."""
    times = dict.fromkeys(PARTS, 0.0) | {"forward_s": 1.0 + rank, "backward_s": 2.0, "waiting_s": 1.0 - rank / 4}
    return {
        "times": asdict(StepTimes(**times, stages_s=1.0 - rank / 4, pipeline_s=4.0)),
        "micro_batches": 3,
        "padded_tokens": 100 + rank,
        "flops_text": 10**12 * (1 + rank),
        "flops_vision": 10**11 * (1 + rank),
        "memory_gib": 1.0 + rank / 10,
        "memory_peak_gib": 3.0 - rank / 10,
        "device_memory_peak_gib": None,
    } | changed


def summary(found: list[dict[str, Any]], layout: Layout = LAYOUT, peak: float | None = 2.0) -> dict[str, Any]:
    world: Any = SimpleNamespace(layout=layout, times=SimpleNamespace(communication_s=0.0, waiting_s=0.0))
    return dict(Meter(world, SPEC, peak_tflops=peak).summary(found, tokens=190, samples=8).numbers)


def test_times_are_means_with_the_largest_beside_and_the_slowest_rank_named() -> None:
    numbers = summary([told(rank) for rank in range(4)])
    assert (numbers["forward_s"], numbers["max_forward_s"]) == (2.5, 4.0)
    assert (numbers["waiting_s"], numbers["max_waiting_s"]) == (0.625, 1.0)
    assert (numbers["compute_s"], numbers["max_compute_s"], numbers["slowest_rank"]) == (4.5, 6.0, 3)
    assert numbers["step_time_s"] == sum(numbers[part] for part in PARTS) == 5.125
    assert numbers["tokens_per_s"] == round(190 / 5.125, 1)
    assert numbers["samples_per_s"] == round(8 / 5.125, 3)


def test_work_and_padding_are_those_of_the_replicas_not_of_all_ranks() -> None:
    numbers = summary([told(rank) for rank in range(4)])
    assert numbers["padded_tokens"] == 100 + 101
    assert numbers["model_tflops_text"] == pytest.approx(3.0)
    assert numbers["model_tflops_vision"] == pytest.approx(0.3)
    assert numbers["tflops_per_s"] == pytest.approx(3.3 / 5.125, rel=1e-5)
    # Four devices with a peak of 2 TFLOP/s each.
    assert numbers["mfu"] == pytest.approx(3.3 / 5.125 / 8.0, rel=1e-5)
    assert "mfu" not in summary([told(rank) for rank in range(4)], peak=None)


def test_the_bubble_is_exchange_between_stages_and_what_a_stage_is_done_too_early() -> None:
    found = [told(rank) for rank in range(4)]
    for one, pipeline_s in zip(found, (10.0, 20.0, 8.0, 20.0), strict=True):
        one["times"] |= {"stages_s": 1.0, "pipeline_s": pipeline_s}
    numbers = summary(found)
    # Both pipelines have two stages; the second stage of the first one ends two seconds before the first stage.
    assert numbers["bubble"] == round((4 * 1.0 + 2.0) / (2 * 10.0 + 2 * 20.0), 4)
    assert numbers["ideal_bubble"] == 0.25


def test_memory_names_the_rank_that_has_most() -> None:
    numbers = summary([told(rank, device_memory_peak_gib=30.0 - (rank - 2) ** 2) for rank in range(4)])
    assert (numbers["memory_gib"], numbers["memory_rank"]) == (1.3, 3)
    assert (numbers["memory_peak_gib"], numbers["memory_peak_rank"]) == (3.0, 0)
    assert (numbers["device_memory_peak_gib"], numbers["device_memory_peak_rank"]) == (30.0, 2)


def test_a_single_process_has_no_ranks_to_compare() -> None:
    numbers = summary([told(0)], Layout.single(SPEC))
    assert not [key for key in numbers if key.startswith("max_") or key.endswith("_rank") or "bubble" in key]


def test_host_memory_is_that_of_this_process() -> None:
    before = memory.host_memory_gib()
    block = bytearray(b"x") * 2**27
    assert memory.host_memory_gib() - before > 0.1
    del block
    assert memory.host_peak_gib() >= before
    assert memory.device_peak_gib() is None


def test_on_ascend_the_documented_call_gives_the_devices_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # The call exists on CPU too, and gives 0 there: its name and signature are checked, not its value on a device.
    assert ms.runtime.max_memory_allocated() == 0
    monkeypatch.setattr(memory, "current_device", lambda: "ascend")
    monkeypatch.setattr(ms.runtime, "max_memory_allocated", lambda: 3 * 2**29)
    assert memory.device_peak_gib() == 1.5
