"""Which devices of a plan are on one machine: as the mesh has them, and tensor groups never over two without need."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned_jobs import SEVEN, job_of
from qvl_core.layout import Layout
from qvl_core.parallel.mesh import Axis, group_of
from qvl_core.planner.collectives import links_of
from qvl_core.planner.devices import device_facts
from qvl_core.planner.job import each_machine, on_machines
from qvl_core.planner.plan import make_plan
from qvl_core.planner.search import search

DEGREES = st.integers(1, 6)


@settings(max_examples=200, deadline=None)
@given(tp=DEGREES, pp=DEGREES, dp=DEGREES, size=st.integers(1, 16))
def test_what_is_near_is_what_the_mesh_lays_on_one_machine(tp: int, pp: int, dp: int, size: int) -> None:
    """A tensor group of four over machines of six was counted as near."""
    world = tp * pp * dp
    nodes = next(count for count in range(-(-world // size), world + 1) if world % count == 0)
    each = world // nodes
    layout = Layout(vision_stages=(1, *[0] * (pp - 1)), text_stages=(1,) * pp, tp=tp, pp=pp, dp=dp)

    def is_within(axis: Axis) -> bool:
        return all(len({one // each for one in group_of(rank, axis, layout)}) == 1 for rank in range(world))

    links = links_of(each, tp=tp, pp=pp, dp=dp)
    assert links.tensor is is_within("tp")
    # Replicas of a slice are one from each group: where they are apart, groups of tp * dp ranks are.
    assert links.replicas <= is_within("dp")
    assert links.replicas or dp == 1 or tp > 1 or not is_within("dp")


@settings(max_examples=300, deadline=None)
@given(tp=st.sampled_from([1, 2, 3, 4, 8, 16]), groups=st.integers(1, 200), size=st.integers(1, 20))
def test_machines_hold_whole_tensor_groups_and_are_as_few_as_can_be(tp: int, groups: int, size: int) -> None:
    devices = tp * groups
    job = job_of(SEVEN, device=replace(device_facts("ascend-910b2"), devices_per_node=size))
    each = each_machine(job, devices, tp)
    possible = [one for one in range(1, min(size, devices) + 1) if devices % one == 0]
    whole = [one for one in possible if one % tp == 0]
    assert each == max(whole or possible)
    assert bool(whole) is (tp <= size)


@pytest.mark.parametrize(("devices", "each"), [(12, 4), (20, 4), (36, 4), (24, 8)])
def test_plans_are_on_machines_that_hold_their_tensor_groups(devices: int, each: int) -> None:
    job = job_of(SEVEN, task="generate", batch=4, new_tokens=64)
    plans = search(job, devices, 1e12, top=100)
    wide = [plan for plan in plans if plan.layout.tp == 4]
    assert wide
    assert {plan.machines for plan in wide} == {(devices // each, each)}
    assert not any(plan.has_far_tensors for plan in plans)


@pytest.mark.parametrize("devices", [9, 12, 20, 36, 60])
def test_the_search_and_its_plans_count_with_the_same_links(devices: int) -> None:
    """Plans that were sought as near and made as far would stand in a wrong order."""
    slow = replace(device_facts("ascend-910b2"), far_gb_per_s=0.5, far_latency_us=500.0)
    job = job_of(SEVEN, device=slow, global_batch=180)
    plans = search(job, devices, 1e12, top=30)
    times = [plan.step_s for plan in plans]
    assert times == pytest.approx(sorted(times), rel=1e-9)
    assert plans[0].samples_per_s == pytest.approx(search(job, devices, 1e12, top=1)[0].samples_per_s)


def test_sums_over_two_machines_take_the_far_link() -> None:
    job = job_of(SEVEN, task="generate", batch=4, new_tokens=64)
    layout = Layout(vision_stages=(32,), text_stages=(28,), tp=4, pp=1, dp=3)
    six, four = (make_plan(replace(job, device=replace(job.device, devices_per_node=each)), layout) for each in (6, 4))
    assert (six.has_far_tensors, four.has_far_tensors) == (True, False)
    assert six.stages[0].forward.communication > four.stages[0].forward.communication
    assert make_plan(on_machines(job, 12, 4), layout).step_s == four.step_s


def test_a_machine_larger_than_the_layout_holds_all_of_it() -> None:
    """Three tensor ranks do not divide eight devices: alone on a machine, they are near all the same."""
    assert links_of(8, tp=3, pp=1, dp=2).tensor
    assert not links_of(8, tp=3, pp=1, dp=3).tensor


def test_machines_that_are_known_stay() -> None:
    job = job_of(SEVEN, task="generate", batch=4, new_tokens=64, is_placed=True)
    placed = replace(job, device=replace(job.device, devices_per_node=6))
    plans = search(placed, 12, 1e12, top=100)
    assert {plan.machines for plan in plans} == {(2, 6)}
    assert {plan.layout.tp for plan in plans if plan.has_far_tensors} == {4}
