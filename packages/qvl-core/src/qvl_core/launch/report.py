"""What a person is told when a rank has failed: which one, of what, doing what, and where to read on. Pure text."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from qvl_core.error_text import EXIT_INTERRUPTED
from qvl_core.launch.blame import StarterReport
from qvl_core.launch.failures import Failure
from qvl_core.launch.known_messages import explained_lines, known_in
from qvl_core.launch.log_file import LAUNCHER_LOG, last_lines, rank_log, stack_top
from qvl_core.launch.watch import Look, Verdict
from qvl_core.launch_plan import RankPlace

_SHOWN_LINES = 10
_SHOWN_FRAMES = 4
_SHOWN_RANKS = 16
# Known messages stand anywhere near the end: CANN writes long stacks of its own below them.
_SEARCHED_LINES = 2000


class Reporter:
    """Writes the messages of one run: knows the places of the ranks and where the logs are."""

    def __init__(self, places: Sequence[RankPlace], logs: Path) -> None:
        self._places: Mapping[int, RankPlace] = {place.rank: place for place in places}
        self._logs = logs

    def name(self, rank: int) -> str:
        """Give "rank 3 (stage 1, tp 0, dp 1)"."""
        place = self._places[rank].place
        return f"rank {rank} (stage {place.pp}, tp {place.tp}, dp {place.dp})"

    def failed(self, failure: Failure) -> str:
        """A rank has raised an error."""
        text = failure.text
        if failure.exit_code == EXIT_INTERRUPTED:
            text = "qvl: a worker was told to end by a signal that did not come through its launcher"
        log = rank_log(self._logs, failure.rank)
        known = self._known(log, text=text)
        return "\n".join([text, *known, f"{self.name(failure.rank)} failed first; its log: {log}"])

    def vanished(self, look: Look, report: StarterReport | None, *, seen_s: float) -> str:
        """A rank has ended without a word."""
        how = "ended without saying why"
        if report is not None and report.rank == look.rank:
            how = _how(report)
        if not look.process:
            path = self._logs / LAUNCHER_LOG
            starter = [*self._known(path, *self._msrun_logs()), *self._end(path, "the end of its starter's output")]
            return "\n".join([f"{self.name(look.rank)} {how}, before it could begin", *starter])
        lines = [f"{self.name(look.rank)}, process {look.process}, {how}", *self._state(look, seen_s)]
        if report is not None and report.signal_number == signal.SIGKILL:
            lines.append("  fix: if nobody has killed it, the kernel did because memory ran out: see `dmesg`")
        log = rank_log(self._logs, look.rank)
        return "\n".join([*lines, *self._known(log), *self._end_of_log(look.rank)])

    def doubt(self, first: Failure | Look, others: Sequence[Look], name: str, code: int | None) -> str:
        """Say who else it may have been than the first: ranks without a word, of which the starter does not tell."""
        ranks = [f"{self.name(look.rank)}{f', {look.state}' if look.process else ''}" for look in others[:_SHOWN_RANKS]]
        more = f" and {len(others) - _SHOWN_RANKS} more" if len(others) > _SHOWN_RANKS else ""
        what = "had not begun" if not any(look.process for look in others) else "left no word either"
        how = "and has not ended" if code is None else f"its exit code: {code}"
        if code is not None and code < 0:
            how = f"and was itself killed by {_signal_name(-code)}"
        one = "was the first" if name == "msrun" else "it was"
        head = f"  or the cause is one that {what}: {'; '.join(ranks)}{more}; {name} does not say which {one}, {how}"
        if isinstance(first, Look) and not first.process:
            # `vanished` has shown what the starter says.
            return head
        path = self._logs / LAUNCHER_LOG
        return "\n".join([head, *self._known(path, *self._msrun_logs()), *self._end(path, "the end of its output")])

    def starter_killed(self, name: str, number: int) -> str:
        """Say that what started the ranks was killed too, and so could not tell which of them was first."""
        path = self._logs / LAUNCHER_LOG
        head = f"  {name} itself was killed by {_signal_name(number)}, and does not say which rank was the first"
        return "\n".join([head, *self._end(path, "the end of its output")])

    def verdict(self, verdict: Verdict, looks: Sequence[Look]) -> str:
        """The watch has found a rank, or all of them, unable to go on."""
        seconds = f"{verdict.lasted_s:.0f} s"
        if verdict.kind == "deadlocked":
            lines = [f"all ranks wait for each other, and none has moved for {seconds}"]
            return "\n".join([*lines, *self._states(looks)])
        look = verdict.look
        assert look is not None
        if verdict.kind == "absent":
            return "\n".join(
                [
                    f"{self.name(look.rank)} has not started within {seconds}",
                    *self._end(self._logs / LAUNCHER_LOG, "what its starter says"),
                ]
            )
        head = f"{self.name(look.rank)}, process {look.process}, "
        if verdict.kind == "stopped":
            head += f"has been stopped by a signal for {seconds}"
        else:
            head += f"hangs: no sign of life for {seconds}"
        lines = [head, *self._state(look, verdict.lasted_s)]
        if verdict.kind == "stopped":
            lines.append(f"  fix: let it go on in time: kill -CONT {look.process}; now run the same command again")
        known = self._known(rank_log(self._logs, look.rank))
        return "\n".join([*lines, *known, *self._end_of_log(look.rank)])

    def stacks(self, verdict: Verdict) -> str:
        """Say where the rank of a verdict stood, after all ranks have written their stacks into their logs."""
        lines = [f"Python stacks of all ranks are in their logs, {self._logs}/rank_*.log"]
        if verdict.rank is not None:
            frames = stack_top(rank_log(self._logs, verdict.rank), _SHOWN_FRAMES)
            lines += ["it stood at (innermost first):", *(f"  {frame}" for frame in frames)] if frames else []
        return "\n".join(f"  {line}" for line in lines)

    def starter_failed(self, name: str, code: int | None) -> str:
        """mpiexec or msrun itself has ended, and no rank has."""
        how = f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was killed by {_signal_name(-code)}"
        head = f"{name} {how} before the workers had done their work"
        path = self._logs / LAUNCHER_LOG
        known = self._known(path, *self._msrun_logs())
        return "\n".join([head, *known, *self._end(path, "the end of its output")])

    def _known(self, *paths: Path, text: str = "") -> list[str]:
        """Explain what the logs' last sections, or an error's text, are known to mean."""
        lines = [line for path in paths for line in last_lines(path, _SEARCHED_LINES)]
        return explained_lines(known_in([*text.splitlines(), *lines]))

    def _msrun_logs(self) -> list[Path]:
        """Give what msrun has kept of its scheduler and of workers before these opened logs of their own."""
        return sorted(self._logs.glob("node_*/*.log"))[:_SHOWN_RANKS]

    def _states(self, looks: Sequence[Look]) -> list[str]:
        at_work = [look for look in looks if not look.done]
        more = [f"  and {len(at_work) - _SHOWN_RANKS} more"] if len(at_work) > _SHOWN_RANKS else []
        return [*(f"  {self.name(look.rank)}: {look.state}" for look in at_work[:_SHOWN_RANKS]), *more]

    def _state(self, look: Look, seen_s: float) -> list[str]:
        waiting = ", waiting for other ranks" if look.waiting else ""
        return [f"  its last state, {seen_s:.1f} s before: {look.state or 'none'}{waiting}"]

    def _end_of_log(self, rank: int) -> list[str]:
        return self._end(rank_log(self._logs, rank))

    def _end(self, path: Path, what: str = "the end of its log") -> list[str]:
        lines = last_lines(path, _SHOWN_LINES)
        if not lines:
            return [f"  {what}, {path}, is empty"]
        return [f"  {what}, {path}:", *(f"    | {line[:200]}" for line in lines)]


def _how(report: StarterReport) -> str:
    if report.signal_number:
        return f"was killed by {_signal_name(report.signal_number)}"
    return f"ended with exit code {report.exit_code} without saying why"


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
