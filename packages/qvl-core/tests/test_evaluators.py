"""What evaluates is found by its entry point, and what it lacks is told."""

from __future__ import annotations

from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from qvl_core.errors import NotInstalledError
from qvl_core.evaluators import benchmark_pictures


class Evaluator:
    @staticmethod
    def pictures(path: Path, indexes: Collection[str], *, compat: str) -> dict[str, tuple[bytes, ...]]:
        return {index: (f"{path} {compat}".encode(),) for index in indexes}


class OlderEvaluator:
    pass


def install(monkeypatch: pytest.MonkeyPatch, *evaluators: Any) -> None:
    found = tuple(SimpleNamespace(load=lambda one=one: one) for one in evaluators)
    monkeypatch.setattr(metadata, "entry_points", lambda **_: found)


def test_pictures_come_from_the_package_that_evaluates(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Evaluator)
    assert benchmark_pictures(Path("a.tsv"), ["7"], compat="none") == {"7": (b"a.tsv none",)}


@pytest.mark.parametrize("evaluators", [(), (OlderEvaluator,)])
def test_a_package_that_is_missing_or_older_is_told(monkeypatch: pytest.MonkeyPatch, evaluators: Any) -> None:
    install(monkeypatch, *evaluators)
    with pytest.raises(NotInstalledError, match="qvl-eval reads the pictures of benchmarks"):
        benchmark_pictures(Path("a.tsv"), ["7"], compat="none")
