"""Faults on purpose, in the processes of a run that a test starts with this folder on PYTHONPATH.

    QVL_TEST_FAULT       kind:rank:call, at a rank's call number `call` of `Pipeline.gradients` and every later one
    QVL_TEST_SLOW_FSYNC  seconds that every fsync takes longer, so that a save lasts

Nothing of this is in qvl itself: Python imports a module of this name at its start if it finds one.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
import time

TARGET = "qvl_core.parallel.pipeline"


def _rank() -> int:
    return int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("RANK_ID", "0")))


def _is_worker() -> bool:
    """Tell whether this process trains: a rank of several, or the only one, which has no rank."""
    several = "OMPI_COMM_WORLD_RANK" in os.environ
    return several or os.environ.get("QVL_TEST_RANKS") == "1"


class _Patcher(importlib.abc.MetaPathFinder):
    """Changes `Pipeline` as soon as it is defined."""

    def __init__(self, kind: str, call: int) -> None:
        self._kind, self._call = kind, call

    def find_spec(self, name, path, target=None):
        if name != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            self._patch(module.Pipeline)

        spec.loader.exec_module = exec_module
        return spec

    def _patch(self, pipeline) -> None:
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


def _slow(seconds: float) -> None:
    plain = os.fsync

    def fsync(descriptor: int) -> None:
        time.sleep(seconds)
        plain(descriptor)

    os.fsync = fsync


if _is_worker():
    if "QVL_TEST_SLOW_FSYNC" in os.environ:
        _slow(float(os.environ["QVL_TEST_SLOW_FSYNC"]))
    if "QVL_TEST_FAULT" in os.environ:
        _kind, _at, _call = os.environ["QVL_TEST_FAULT"].split(":")
        if int(_at) == _rank():
            sys.meta_path.insert(0, _Patcher(_kind, int(_call)))
