"""What each process of a run with several does: `python -m qvl_core.launch.worker RECIPE [--set K=V]...`.

Started by mpiexec or msrun, with the launcher's variables in its environment. Whatever goes wrong is written to the
board, where the launcher finds it, and the process leaves at once: its peers must not wait for it in a finalizer.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import shlex
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO, cast

from qvl_core.errors import EXIT_DONE
from qvl_core.launch.board import BOARD_VARIABLE, writer_from_environment
from qvl_core.launch.failures import write_failure
from qvl_core.launch.log_file import open_log, rank_log
from qvl_core.launch.proc import all_statuses, family, status_of
from qvl_core.launch.rank_number import local_place, rank_from
from qvl_core.tasks import RunOptions

# Where the logs are, and which process started all this ("number:start"), for the workers.
LOGS_VARIABLE = "QVL_LOGS"
LAUNCHER_VARIABLE = "QVL_LAUNCHER"
# What msrun calls the process at which the others meet.
SCHEDULER_ROLE = "MS_SCHED"
_GUARD_PERIOD_S = 0.25


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe's task as one rank; give 0, or end the process with the exit code of what went wrong."""
    if os.environ.get("MS_ROLE") == SCHEDULER_ROLE:
        return _schedule()
    rank = rank_from(os.environ) or 0
    log = _own_log(rank)
    board = writer_from_environment()
    # Before the process is on the board: the launcher asks for stacks by this signal, which would end it otherwise.
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    board.begin()
    board.stamp("workers started")
    _watch_launcher()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Until the task has its own way to stop.
        signal.signal(number, _interrupt)
    # What starts the workers does not see them.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        _take_own_cores()
        _run(_parsed(arguments))
        _flush()
    except BaseException as error:  # whatever it is: the launcher has to hear of it, and the peers must not wait
        if isinstance(error, SystemExit) and not error.code:
            board.finish()
            return EXIT_DONE
        _leave(rank, error, log)
    board.finish()
    return EXIT_DONE


def _schedule() -> int:
    """Be the scheduler at which the ranks of MindSpore meet: msrun starts one more process with the ranks' command.

    It has no rank (msrun gives it RANK_ID 0), and its output stays where msrun sends it.
    """
    from qvl_core import device

    _watch_launcher()
    # Returns when all ranks have left.
    device.require_mindspore().communication.init()
    return EXIT_DONE


def _run(words: argparse.Namespace) -> None:
    from qvl_core.recipe import load_recipe
    from qvl_core.tasks import load_worker

    recipe = load_recipe(words.recipe, words.settings)
    options = RunOptions(resume=words.resume, reshard=words.reshard, accept_changes=words.accept_changes)
    load_worker(words.task or recipe.task)(recipe, options)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m qvl_core.launch.worker", description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--set", action="append", dest="settings", default=[])
    # Not the recipe's own: any recipe's weights can answer questions.
    parser.add_argument("--task", default="")
    parser.add_argument("--resume", default="auto")
    parser.add_argument("--reshard", action="store_true")
    parser.add_argument("--accept-changes", action="store_true")
    return parser.parse_args(arguments)


def _own_log(rank: int) -> Path | None:
    """Send all output of this process, that of libraries included, to the rank's log."""
    folder = os.environ.get(LOGS_VARIABLE)
    if not folder:
        return None
    path = rank_log(Path(folder), rank)
    descriptor = open_log(path, shlex.join(sys.orig_argv))
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        # The launcher shows the lines of rank 0 as they come.
        cast("TextIO", stream).reconfigure(line_buffering=True, encoding="utf-8", errors="replace")  # type: ignore[attr-defined]
    return path


def _watch_launcher() -> None:
    launcher = os.environ.get(LAUNCHER_VARIABLE, "")
    number, _, started = launcher.partition(":")
    if number.isdecimal() and started.isdecimal():
        arguments = (int(number), int(started))
        threading.Thread(target=_end_with_launcher, args=arguments, name="launcher-watch", daemon=True).start()


def _end_with_launcher(launcher: int, started: int) -> None:
    """End this process and its children as soon as the launcher is gone: nobody would ever end them."""
    while True:
        status = status_of(launcher)
        if status is None or status.started != started:
            break
        time.sleep(_GUARD_PERIOD_S)
    os.write(2, b"the launcher of this run is gone: this worker ends too\n")
    if board := os.environ.get(BOARD_VARIABLE):
        shutil.rmtree(board, ignore_errors=True)
    own = os.getpid()
    for status in family(own, all_statuses()):
        if status.process != own:
            with suppress(OSError):
                os.kill(status.process, signal.SIGKILL)
    os._exit(1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _take_own_cores() -> None:
    """Keep this process on its share of the cores where there are enough: threads of several ranks fight over them."""
    place = local_place(os.environ)
    if place is None or os.environ.get("QVL_DEVICE") != "cpu" or not hasattr(os, "sched_setaffinity"):
        return
    number, ranks = place
    cores = sorted(os.sched_getaffinity(0))
    if ranks <= len(cores):
        first, after = (len(cores) * one // ranks for one in (number, number + 1))
        os.sched_setaffinity(0, cores[first:after])


def _leave(rank: int, error: BaseException, log: Path | None) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):
        # The same request again, from the launcher: it must not cut short what tells of the first.
        signal.signal(number, signal.SIG_IGN)
    _flush()
    board = os.environ.get(BOARD_VARIABLE)
    size = log.stat().st_size if log is not None and log.exists() else 0
    code = 1
    try:
        if board:
            # Where there is no room even for this, the traceback in the log is what is left.
            with suppress(OSError):
                code = write_failure(Path(board), rank, error, log_bytes=size).exit_code
        traceback.print_exception(error)
        _flush()
    finally:
        os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


if __name__ == "__main__":
    sys.exit(main())
