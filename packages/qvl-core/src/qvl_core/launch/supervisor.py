"""The life of one start on this machine: start the workers, watch them, and leave when all are done or one has failed.

However it ends, no process of the run is left and no port is taken.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from qvl_core.durable import explained, make_folder
from qvl_core.error_text import EXIT_INTERRUPTED, explain
from qvl_core.errors import QvlError, RunError
from qvl_core.launch import processes
from qvl_core.launch.blame import StarterReport, by_exit_code, first_to_fail, starter_report
from qvl_core.launch.board import BOARD_VARIABLE, BoardReader
from qvl_core.launch.eyes import Eyes
from qvl_core.launch.failures import Failure, RankError, read_failures
from qvl_core.launch.log_file import LAUNCHER_LOG, LogTail, count_stacks, open_log, rank_log
from qvl_core.launch.proc import started_at, status_of
from qvl_core.launch.records import LaunchRecord, OtherMachines
from qvl_core.launch.report import Reporter
from qvl_core.launch.stop_request import StopRequest
from qvl_core.launch.watch import Limits, Look, Verdict, Watch
from qvl_core.launch.worker import LAUNCHER_VARIABLE, LOGS_VARIABLE
from qvl_core.launch_plan import RankPlace

PERIOD_S = 0.2
_OTHERS_PERIOD_S = 1.0
_LOOK_S = 0.05
# After the last rank has said that it is done: what it then still does is end.
_FAREWELL_S = 15.0
# Between a failure and the judgement whose it was: others' words, and those of mpiexec, may be on their way.
_SETTLE_S = 0.3
_REPORT_S = 10.0
# For the stacks of ranks that hang: written in milliseconds, where there is a core for it.
_STACKS_S = 5.0
# Within an allocation of several machines, Open MPI (versions 5 and 4) would spread the ranks over all of them.
_THIS_MACHINE_ONLY = {
    "PRTE_MCA_ras": "^slurm,lsf,gridengine,pbs",
    "PRTE_MCA_plm": "^slurm",
    "OMPI_MCA_ras": "^slurm,lsf,gridengine,tm",
    "OMPI_MCA_plm": "^slurm",
}


@dataclass(frozen=True, kw_only=True)
class Start:
    """What is started on this machine. `logs` is an absolute path; `shown_logs` how messages write it."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    places: tuple[RankPlace, ...]
    logs: Path
    shown_logs: Path
    limits: Limits
    node: int = 0
    nodes: int = 1


def supervise(start: Start, screen: TextIO | None, stop: threading.Event | None = None) -> str | None:
    """Run the command until its workers are done; rank 0's output goes to `screen` as it comes.

    Gives None, or the name of the signal that made the workers stop early. Raises the error of the rank that failed
    first, as `RankError` or RunError; KeyboardInterrupt after a second request, or as soon as `stop` is set: outside
    the main thread no signal comes here, and who has started this there says so.
    """
    with explained(start.logs):
        make_folder(start.logs)
    folder = processes.temporary_folder()
    try:
        return _Supervisor(start, folder, screen, stop or threading.Event()).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Supervisor:
    """One start. `run` is called once."""

    def __init__(self, start: Start, folder: Path, screen: TextIO | None, stop: threading.Event) -> None:
        self._start = start
        self._stop = stop
        self._folder = folder
        self._reader = BoardReader(folder, [place.rank for place in start.places])
        self._tail = LogTail(rank_log(start.logs, 0), screen if start.node == 0 else None)
        self._reporter = Reporter(start.places, start.shown_logs)
        self._record = LaunchRecord(
            start.logs,
            node=start.node,
            processes=len(start.places),
            command=start.command,
            started=started_at(os.getpid()),
        )
        self._others = OtherMachines(start.logs, node=start.node, nodes=start.nodes)
        self._watch = Watch(start.limits, time.monotonic())
        self._eyes = Eyes(self._reader)
        self._others_at = 0.0
        self._asked: set[int] = set()
        self._log_start = 0

    def run(self) -> str | None:
        """Start, watch, and leave nothing behind."""
        path = self._start.logs / LAUNCHER_LOG
        with explained(path):
            log = open_log(path, shlex.join(self._start.command))
        self._log_start = os.fstat(log).st_size
        with StopRequest() as request:
            process = processes.spawn(self._start.command, self._environment(), log)
            os.close(log)
            try:
                ended = self._until_end(process, request)
                self._finish("done" if ended is None else f"stopped by {ended}")
                return ended
            except BaseException as error:
                self._tell(error)
                raise
            finally:
                request.ignore()
                workers = self._eyes.living()
                processes.end_session(process)
                # msrun gives each worker a session of its own.
                processes.kill_strays(workers)
                self._reader.close()

    def _tell(self, error: BaseException) -> None:
        """Write down how it ended, for later and for the other machines; the error itself matters more."""
        text, code = explain(error)
        # The disk may be what it failed of.
        with suppress(QvlError, OSError):
            self._finish(next(iter(text.splitlines()), ""))
            if not isinstance(error, KeyboardInterrupt):
                self._others.tell(text, code)

    def _environment(self) -> dict[str, str]:
        own = os.getpid()
        status = status_of(own)
        return {
            **_THIS_MACHINE_ONLY,
            **self._start.environment,
            BOARD_VARIABLE: str(self._folder),
            LOGS_VARIABLE: str(self._start.logs),
            LAUNCHER_VARIABLE: f"{own}:{status.started if status else 0}",
            # Open MPI's own files, so that none is left however its processes end (versions 5 and 4).
            "PRTE_MCA_prte_tmpdir_base": str(self._folder),
            "OMPI_MCA_orte_tmpdir_base": str(self._folder),
            "OMPI_MCA_btl_sm_backing_directory": str(self._folder),
            "OMPI_MCA_btl_vader_backing_directory": str(self._folder),
        }

    def _until_end(self, process: subprocess.Popen[bytes], request: StopRequest) -> str | None:
        done_at: float | None = None
        while True:
            now, looks = time.monotonic(), self._eyes.look()
            starter = process.poll()
            self._show()
            self._record.write(self._stamps())
            verdicts = self._watch.look(now, looks)
            if all(look.done for look in looks):
                done_at = done_at or now
                if starter is not None or now - done_at > _FAREWELL_S:
                    return request.number.name if request.number is not None else None
            elif starter is not None or any(one.kind == "dead" for one in verdicts) or read_failures(self._folder):
                error = self._cause(process, request)
                if error is not None:
                    raise error
            elif verdicts:
                raise self._stuck(verdicts[0], looks)
            self._follow(request, looks)
            self._ask_others(now)
            if self._stop.is_set():
                raise KeyboardInterrupt
            time.sleep(PERIOD_S)

    def _show(self) -> None:
        # First the log, then the failures: a traceback that was read is then known to be one.
        self._tail.read()
        own = [failure for failure in read_failures(self._folder) if failure.rank == 0]
        self._tail.show(until=own[0].log_bytes if own else None)

    def _follow(self, request: StopRequest, looks: Sequence[Look]) -> None:
        """Pass a request to stop on to the workers.

        They finish their step and save, however long that takes: the watch ends those that do not move.
        """
        if request.number is None:
            return
        waiting = [look for look in looks if look.process and not look.done and look.rank not in self._asked]
        # SIGUSR1 would have them write their stacks.
        number = signal.SIGTERM if request.number == signal.SIGUSR1 else request.number
        processes.send_signal(number, [look.process for look in waiting])
        self._asked.update(look.rank for look in waiting)

    def _ask_others(self, now: float) -> None:
        if self._start.nodes > 1 and now - self._others_at > _OTHERS_PERIOD_S:
            self._others_at = now
            if (error := self._others.stopped()) is not None:
                raise error

    def _stuck(self, verdict: Verdict, looks: Sequence[Look]) -> QvlError:
        """Have every rank write its Python stacks into its log, and give the error."""
        text = self._reporter.verdict(verdict, looks)
        # What follows in the log are the stacks.
        self._tail.stop()
        members = [look for look in looks if look.process and look.vitals is not None]
        before = {path: count_stacks(path) for path in (rank_log(self._start.logs, look.rank) for look in members)}
        for number in (signal.SIGUSR1, signal.SIGCONT):
            processes.send_signal(number, [look.process for look in members])
        deadline = time.monotonic() + _STACKS_S
        while time.monotonic() < deadline and any(count_stacks(path) <= count for path, count in before.items()):
            time.sleep(_LOOK_S)
        return RunError(f"{text}\n{self._reporter.stacks(verdict)}")

    def _cause(self, process: subprocess.Popen[bytes], request: StopRequest) -> BaseException | None:
        """Find out which rank failed first, and give its error; None where none has failed after all."""
        time.sleep(_SETTLE_S)
        looks = self._eyes.look()
        self._watch.look(time.monotonic(), looks)
        self._show()
        failures = read_failures(self._folder)
        if request.number is not None and failures and all(one.exit_code == EXIT_INTERRUPTED for one in failures):
            # They had not come to where they can finish a step: there was nothing to save.
            return KeyboardInterrupt()
        words = {failure.rank for failure in failures}
        gone = [look for look in looks if look.process and not look.done and look.vitals is None]
        silent = sorted(
            (look for look in gone if look.rank not in words), key=lambda look: self._watch.last_seen_alive(look.rank)
        )
        if not failures and not silent and (process.poll() is None or all(look.done for look in looks)):
            # It was on its way out: the board was read before its last word, and the process table after.
            return None
        # What another machine has told by now is no consequence of what is seen here only now.
        elsewhere = self._others.stopped()
        unexplained = silent or any(not look.process for look in looks)
        report = self._starter_report(process, looks, failures, silent) if unexplained else None
        known = report is not None or any(failure.exit_code != EXIT_INTERRUPTED for failure in failures)
        if elsewhere is not None and not known and all(look.waiting for look in silent):
            return elsewhere
        first = first_to_fail(looks, failures, silent, report, self._watch.last_seen_alive)
        if isinstance(first, Failure):
            # Told to end: by whom, nobody has said.
            told_to_end = first.exit_code == EXIT_INTERRUPTED
            doubt = self._doubt(process, first, report, looks, silent) if told_to_end else ""
            return RankError(self._reporter.failed(first) + doubt, first.exit_code)
        if first is None:
            return RunError(self._reporter.starter_failed(self._starter_name, process.poll()))
        text = self._reporter.vanished(first, report, seen_s=time.monotonic() - first.marked_at)
        text += self._doubt(process, first, report, looks, silent)
        return RunError(text if elsewhere is None or known else f"{text}\n  and before that: {elsewhere}")

    def _doubt(
        self,
        process: subprocess.Popen[bytes],
        first: Failure | Look,
        report: StarterReport | None,
        looks: Sequence[Look],
        silent: Sequence[Look],
    ) -> str:
        """Give the lines that say which other ranks it may have been, where what started them does not know."""
        if report is not None and report.is_first:
            return ""
        code = process.poll()
        others = [look for look in looks if not look.process and look.rank != first.rank]
        if isinstance(first, Look) and not first.process:
            others += silent
        if others:
            return "\n" + self._reporter.doubt(first, others, self._starter_name, code)
        return "\n" + self._reporter.starter_killed(self._starter_name, -code) if code is not None and code < 0 else ""

    @property
    def _starter_name(self) -> str:
        return Path(self._start.command[0]).name

    def _starter_report(
        self,
        process: subprocess.Popen[bytes],
        looks: Sequence[Look],
        failures: Sequence[Failure],
        silent: Sequence[Look],
    ) -> StarterReport | None:
        """Read what mpiexec or msrun says of the first death; it takes a moment to say it."""
        deadline = time.monotonic() + _REPORT_S
        while True:
            ended = process.poll() is not None
            report = starter_report(self._starter_output(), looks)
            if report is not None or time.monotonic() > deadline:
                return report
            if ended:
                # msrun always ends with 1; and of several machines the one that has not begun may be elsewhere.
                alone = self._starter_name == "mpiexec" and self._start.nodes == 1
                return by_exit_code(process.returncode, looks, failures, silent) if alone else None
            time.sleep(PERIOD_S)

    def _starter_output(self) -> str:
        with (self._start.logs / LAUNCHER_LOG).open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode("utf-8", "replace")

    def _stamps(self) -> list[Mapping[str, float]]:
        return [entry.stamps for entry in self._reader.entries()]

    def _finish(self, ended: str) -> None:
        self._show()
        self._record.write(self._stamps(), ended)
