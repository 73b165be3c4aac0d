"""Tasks are found by entry point, and what is missing is named."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from qvl_core import tasks
from qvl_core.errors import NotInstalledError


def _entry(error: Exception | None = None) -> SimpleNamespace:
    def load() -> object:
        if error:
            raise error
        return "the function"

    return SimpleNamespace(name="sft", dist=SimpleNamespace(name="qvl-train"), load=load)


def _install(monkeypatch: pytest.MonkeyPatch, *entries: SimpleNamespace) -> None:
    monkeypatch.setattr(tasks.metadata, "entry_points", lambda **_: entries)


def test_gives_the_function_of_an_installed_task(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, _entry())
    assert tasks.load_task("sft") == "the function"


@pytest.mark.parametrize(("task", "package"), sorted(tasks.TASK_PACKAGES.items()))
def test_a_missing_package_is_named_with_its_pip_command(
    monkeypatch: pytest.MonkeyPatch, task: str, package: str
) -> None:
    _install(monkeypatch)
    with pytest.raises(NotInstalledError, match=rf"pip install '{package}\[mindspore\]'"):
        tasks.load_task(task)


def test_a_task_without_a_worker_runs_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.metadata, "entry_points", lambda group, name: (_entry(),) if group == "qvl.tasks" else ())
    with pytest.raises(NotInstalledError, match='task = "eval" runs in one process in this version'):
        tasks.load_worker("eval")
    _install(monkeypatch, _entry())
    assert tasks.load_worker("sft") == "the function"


def test_a_worker_of_a_package_that_is_not_installed_is_missing_like_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch)
    with pytest.raises(NotInstalledError, match=r"pip install 'qvl-train\[mindspore\]'"):
        tasks.find_worker("sft")


def test_something_that_the_task_needs_and_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, _entry(ModuleNotFoundError("No module named 'av'", name="av")))
    with pytest.raises(NotInstalledError, match="needs av, which is not installed"):
        tasks.load_task("sft")


def test_a_package_that_is_too_old_for_the_task_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, _entry(ModuleNotFoundError("No module named 'qvl_train.task'", name="qvl_train.task")))
    with pytest.raises(NotInstalledError, match="does not have the task 'sft' yet"):
        tasks.load_task("sft")


def test_a_bug_in_the_task_is_not_called_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, _entry(SyntaxError("bad")))
    with pytest.raises(SyntaxError):
        tasks.load_task("sft")
