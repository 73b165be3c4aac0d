"""Faults on purpose, in the processes of a run that a test starts with this folder on PYTHONPATH.

    QVL_TEST_FAULT         kind:rank:call, at a rank's call number `call` of `Pipeline.gradients` and every later one
    QVL_TEST_GO            the file that the fault `await_file` waits for
    QVL_TEST_SLOW_FSYNC    seconds that every fsync takes longer, so that a save lasts
    QVL_TEST_SLOW_SAVE     seconds that every fsync of a checkpoint takes longer
    QVL_TEST_KILL_IN_SAVE  rank:number, SIGKILL of this rank before its fsync of this number of a checkpoint
    QVL_TEST_SETTLE        seconds for which a small checkpoint is waited for, instead of qvl's own two

Nothing of this is in qvl itself: Python imports a module of this name at its start if it finds one.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path

PIPELINE = "qvl_core.parallel.pipeline"
SAVES = "qvl_train.run_saves"
INTERRUPT = "qvl_train.interrupt"


def _rank() -> int:
    return int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("RANK_ID", "0")))


def _is_worker() -> bool:
    """Tell whether this process trains: a rank of several, or the only one, which has no rank."""
    several = "OMPI_COMM_WORLD_RANK" in os.environ
    return several or os.environ.get("QVL_TEST_RANKS") == "1"


class _Patcher(importlib.abc.MetaPathFinder):
    """Changes a module as soon as it is executed."""

    def __init__(self, target: str, change) -> None:
        self._target, self._change = target, change

    def find_spec(self, name, path, target=None):
        if name != self._target:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            self._change(module)

        spec.loader.exec_module = exec_module
        return spec


class _Fault:
    """A fault in `Pipeline.gradients`."""

    def __init__(self, kind: str, call: int) -> None:
        self._kind, self._call = kind, call
        self._asked: list[int] = []

    def listen(self, module) -> None:
        """Note every request to stop, also one that comes before anybody waits for it."""
        handle = module.Interrupt._handle

        def noted(this, number, frame):
            self._asked.append(number)
            handle(this, number, frame)

        module.Interrupt._handle = noted

    def patch(self, module) -> None:
        pipeline = module.Pipeline
        original, calls, fault = pipeline.gradients, [0], getattr(self, f"_{self._kind}")

        def gradients(this, batches, weights, **options):
            calls[0] += 1
            hits = calls[0] >= self._call
            if hits:
                print(f"fault {self._kind}", flush=True)
                batches = fault(batches) if self._kind != "inf_gradient" else batches
            loss, found = original(this, batches, weights, **options)
            return (loss, fault(found)) if hits and self._kind == "inf_gradient" else (loss, found)

        pipeline.gradients = gradients

    def _nan_picture(self, batches):
        batches[0].patches[:] = float("nan")
        return batches

    def _inf_gradient(self, gradients):
        return [gradients[0] * float("inf"), *gradients[1:]]

    def _sleep(self, batches):
        while True:
            time.sleep(1)

    def _loop(self, batches):
        while True:
            pass

    def _await_request(self, batches):
        while not self._asked:
            time.sleep(0.01)
        return batches

    def _await_file(self, batches):
        while not Path(os.environ["QVL_TEST_GO"]).exists():
            time.sleep(0.01)
        return batches


def _is_of_a_checkpoint(descriptor: int) -> bool:
    path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
    return "step_" in path and ".tmp-" in path


def _slow(seconds: float, *, always: bool) -> None:
    plain = os.fsync

    def fsync(descriptor: int) -> None:
        if always or _is_of_a_checkpoint(descriptor):
            time.sleep(seconds)
        plain(descriptor)

    os.fsync = fsync


def _deadly(number: int) -> None:
    plain, count = os.fsync, [0]

    def fsync(descriptor: int) -> None:
        count[0] += _is_of_a_checkpoint(descriptor)
        if count[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        plain(descriptor)

    os.fsync = fsync


if _is_worker():
    if "QVL_TEST_SLOW_FSYNC" in os.environ:
        _slow(float(os.environ["QVL_TEST_SLOW_FSYNC"]), always=True)
    if "QVL_TEST_SLOW_SAVE" in os.environ:
        _slow(float(os.environ["QVL_TEST_SLOW_SAVE"]), always=False)
    if "QVL_TEST_KILL_IN_SAVE" in os.environ:
        _at, _number = os.environ["QVL_TEST_KILL_IN_SAVE"].split(":")
        if int(_at) == _rank():
            _deadly(int(_number))
    if "QVL_TEST_SETTLE" in os.environ:
        sys.meta_path.insert(
            0, _Patcher(SAVES, lambda module: setattr(module, "SETTLE_S", float(os.environ["QVL_TEST_SETTLE"])))
        )
    if "QVL_TEST_FAULT" in os.environ:
        _kind, _at, _call = os.environ["QVL_TEST_FAULT"].split(":")
        if int(_at) == _rank():
            _fault = _Fault(_kind, int(_call))
            sys.meta_path[:0] = [_Patcher(PIPELINE, _fault.patch), _Patcher(INTERRUPT, _fault.listen)]
