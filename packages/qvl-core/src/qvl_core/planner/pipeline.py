"""Seconds of a step by the clock: every stage's 1F1B order is gone through, for the plans that are shown.

The account that plans are searched by (`Plan.step_s`) adds up in a line; lopsided stages wait more, or less, than it
says. `qvl_core.parallel.clock` gives whole timelines, and the tests compare both.
"""

from __future__ import annotations

from collections.abc import Sequence

# Once the pipeline is full a further micro batch takes what the slowest stage takes. More than so many, beside two for
# each stage, are not run: of 400 drawn pipelines none was more than 0.8 % too long for it.
_SETTLED = 16


def clock_seconds(
    forward: Sequence[float], backward: Sequence[float], micro_batches: int, ends: Sequence[float]
) -> float:
    """Give the time from the start of a step until every stage is through with its micro batches and its end.

    `forward` and `backward` are seconds of one micro batch on each stage, `ends` what comes after all of them.
    """
    stages = len(forward)
    run = min(micro_batches, 2 * stages + _SETTLED)
    later = (micro_batches - run) * max(f + b for f, b in zip(forward, backward, strict=True))
    # When each stage is done with a micro batch, one after the other; and when it is free.
    ahead: list[list[float]] = [[] for _ in range(stages)]
    back: list[list[float]] = [[] for _ in range(stages)]
    free = [0.0] * stages
    left = stages * 2 * run
    while left:
        for stage in range(stages):
            warm = min(stages - stage, run)
            while True:
                done, returned = len(ahead[stage]), len(back[stage])
                is_forward = done < run and done - returned < warm
                if is_forward:
                    if stage and len(ahead[stage - 1]) <= done:
                        break
                    arrived = ahead[stage - 1][done] if stage else 0.0
                elif returned < run:
                    if stage < stages - 1 and len(back[stage + 1]) <= returned:
                        break
                    arrived = back[stage + 1][returned] if stage < stages - 1 else ahead[stage][returned]
                else:
                    break
                free[stage] = max(free[stage], arrived) + (forward if is_forward else backward)[stage]
                (ahead if is_forward else back)[stage].append(free[stage])
                left -= 1
    return later + max(time + end for time, end in zip(free, ends, strict=True))
