"""Every layout trains like a single process: in fp32 on CPU, in real processes that talk over MPI.

Loss and gradients of the first step within 1e-5, the losses of twenty steps within 1e-4, copies equal to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cases import Case
from comparison import GRADIENT_LIMIT, Verdict, judge
from engine_work import read_reference
from launching import Outcomes
from selection import CURVE_STEPS, broken, curves, few_curves, legal_degrees, selection
from specs import TINY

CASES = selection()


@pytest.fixture(scope="session")
def verdicts(say: Callable[[str], None]) -> Iterator[dict[Case, Verdict]]:
    """Collect the verdicts, to say at the end how close the limits came."""
    found: dict[Case, Verdict] = {}
    yield found
    if found:
        case, worst = max(found.items(), key=lambda item: item[1].worst_error)
        curve_case, curve = max(found.items(), key=lambda item: item[1].curve_error)
        first = max(verdict.loss_error for verdict in found.values())
        say(f"{len(found)} cases; worst gradient {worst.worst_error:.1e} ({worst.worst_name} of {case.name})")
        say(f"worst first loss {first:.1e}, worst of a curve {curve.curve_error:.1e} ({curve_case.name})")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_trains_like_a_single_process(
    case: Case, outcomes: Outcomes, run_folder: Path, verdicts: dict[Case, Verdict]
) -> None:
    verdict = _verdict(case, outcomes, run_folder)
    verdicts[case] = verdict
    assert not verdict.failures, str(verdict)


@pytest.mark.parametrize("case", broken(), ids=lambda case: case.name)
def test_notices_what_is_wrong_on_purpose(case: Case, outcomes: Outcomes, run_folder: Path) -> None:
    verdict = _verdict(case, outcomes, run_folder)
    assert verdict.failures
    assert verdict.worst_error > GRADIENT_LIMIT


def test_every_legal_degree_has_a_curve_of_twenty_steps() -> None:
    found = {(case.tp, case.pp, case.dp) for case in curves() if case.steps == CURVE_STEPS == 20}
    assert found == set(legal_degrees(TINY))


@pytest.mark.parametrize("case", [case for case in few_curves() if not case.freeze], ids=lambda case: case.name)
def test_the_loss_of_a_curve_falls(case: Case, outcomes: Outcomes, run_folder: Path) -> None:
    # A curve that stays where it is would prove nothing about the optimizer.
    losses = read_reference(run_folder, case)["losses"]
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4]), losses


def _verdict(case: Case, outcomes: Outcomes, run_folder: Path) -> Verdict:
    if case.name not in outcomes.results:
        pytest.fail(f"no result: {outcomes.failures.get(case.name, 'it is not known why')}")
    return judge(case, outcomes.results[case.name], read_reference(run_folder, case))
