"""The decision Ascend or CPU and what is said when something is missing. Needs no mindspore: a stand-in is imported."""

from __future__ import annotations

import importlib.metadata
import sys
import types
import warnings
from typing import Any

import pytest
from qvl_core import device
from qvl_core.errors import EXIT_NOT_INSTALLED, NotInstalledError


class _Mindspore(types.ModuleType):
    """A stand-in that records what is asked of it."""

    PYNATIVE_MODE = 1

    def __init__(self, target: str = "CPU", failure: str = "") -> None:
        super().__init__("mindspore")
        self.target, self.failure = target, failure
        self.said: list[Any] = []
        self.runtime = types.SimpleNamespace(launch_blocking=lambda: self.said.append("launch_blocking"))

    def get_context(self, name: str) -> str:
        assert name == "device_target"
        return self.target

    def set_device(self, target: str) -> None:
        if self.failure:
            raise RuntimeError(self.failure)
        self.said.append(target)

    def set_context(self, *, mode: int) -> None:
        self.said.append(mode)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set, then delete: so that what prepare() writes is taken back after the test.
    for name in ("QVL_DEVICE", "MS_DEV_HOST_BLOCKING_RUN"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(device, "_found", lambda: "cpu")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Give the versions that the packages claim to have, to be changed by the test."""
    versions = {"numpy": "1.26.4", "mindspore": "2.10.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in versions else None)
    return versions


def _stand_in(monkeypatch: pytest.MonkeyPatch, module: _Mindspore) -> _Mindspore:
    monkeypatch.setitem(sys.modules, "mindspore", module)
    return module


class TestPrepare:
    def test_cpu_gets_blocking_launch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert device.prepare("cpu") == "cpu"
        assert device.os.environ["MS_DEV_HOST_BLOCKING_RUN"] == "1"

    def test_ascend_does_not(self) -> None:
        assert device.prepare("ascend") == "ascend"
        assert "MS_DEV_HOST_BLOCKING_RUN" not in device.os.environ

    def test_leaves_what_the_user_has_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MS_DEV_HOST_BLOCKING_RUN", "0")
        device.prepare("cpu")
        assert device.os.environ["MS_DEV_HOST_BLOCKING_RUN"] == "0"

    def test_remembers_the_decision_for_later_calls_and_workers(self) -> None:
        device.prepare("ascend")
        assert device.prepare() == device.current_device() == device.os.environ["QVL_DEVICE"] == "ascend"

    def test_takes_what_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(device, "_found", lambda: "ascend")
        assert device.prepare() == "ascend"

    def test_refuses_another_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("QVL_DEVICE", "gpu")
        with pytest.raises(ValueError, match=r"device is 'gpu'; it has to be \"ascend\" or \"cpu\""):
            device.prepare()


class TestRequireMindspore:
    def test_sets_device_and_mode(self, monkeypatch: pytest.MonkeyPatch, installed: dict[str, str]) -> None:
        module = _stand_in(monkeypatch, _Mindspore(target="Ascend"))
        assert device.require_mindspore() is module
        assert module.said == ["launch_blocking", "CPU", 1]

    def test_leaves_a_device_that_is_set(self, monkeypatch: pytest.MonkeyPatch, installed: dict[str, str]) -> None:
        module = _stand_in(monkeypatch, _Mindspore(target="CPU"))
        device.require_mindspore()
        assert "CPU" not in module.said

    def test_missing_mindspore_says_how_to_get_it(self, installed: dict[str, str]) -> None:
        del installed["mindspore"]
        with pytest.raises(NotInstalledError, match=r"pip install 'qvl-core\[mindspore\]'") as caught:
            device.require_mindspore()
        assert caught.value.exit_code == EXIT_NOT_INSTALLED

    def test_refuses_numpy_2(self, installed: dict[str, str]) -> None:
        installed["numpy"] = "2.1.0"
        with pytest.raises(NotInstalledError, match=r"numpy 2\.1\.0 is installed(.|\n)*pip install 'numpy<2'"):
            device.require_mindspore()

    @pytest.mark.parametrize("version", ["2.6.0", "2.11.0", "3.0.0"])
    def test_warns_outside_the_tested_range(
        self, version: str, monkeypatch: pytest.MonkeyPatch, installed: dict[str, str]
    ) -> None:
        _stand_in(monkeypatch, _Mindspore())
        installed["mindspore"] = version
        with pytest.warns(UserWarning, match=f"MindSpore {version} is outside the tested range 2.7 to 2.10"):
            device.require_mindspore()

    @pytest.mark.parametrize("version", ["2.7.0", "2.8.0", "2.10.1"])
    def test_is_silent_inside_it(
        self, version: str, monkeypatch: pytest.MonkeyPatch, installed: dict[str, str]
    ) -> None:
        _stand_in(monkeypatch, _Mindspore())
        installed["mindspore"] = version
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            device.require_mindspore()

    def test_an_ascend_that_cannot_be_used_is_explained(
        self, monkeypatch: pytest.MonkeyPatch, installed: dict[str, str]
    ) -> None:
        device.prepare("ascend")
        _stand_in(monkeypatch, _Mindspore(failure="libge_runner.so: cannot open shared object file\nmore"))
        with pytest.raises(NotInstalledError, match=r"cannot use the device Ascend: libge_runner\.so") as caught:
            device.require_mindspore()
        assert 'device = "cpu"' in str(caught.value)
        assert "more" not in str(caught.value)


@pytest.fixture
def affinity(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """Stand in for a machine with cores 2 and 5; collect what processes are confined to."""
    asked: list[set[int]] = []
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda pid: {2, 5}, raising=False)
    monkeypatch.setattr(device.os, "sched_setaffinity", lambda pid, cores: asked.append(set(cores)), raising=False)
    monkeypatch.delitem(sys.modules, "mindspore", raising=False)
    return asked


def test_a_small_model_stays_on_one_of_its_cores(affinity: list[set[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    for process, core in ((100, 2), (101, 5)):
        monkeypatch.setattr(device.os, "getpid", lambda process=process: process)
        assert device.confine_small_model(400_000)
        assert affinity[-1] == {core}


def test_a_large_model_an_npu_and_a_late_call_are_left_alone(
    affinity: list[set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not device.confine_small_model(device.SMALL_MODEL)
    monkeypatch.setitem(sys.modules, "mindspore", _Mindspore())
    assert not device.confine_small_model(1)
    monkeypatch.delitem(sys.modules, "mindspore")
    device.prepare("ascend")
    assert not device.confine_small_model(1)
    assert affinity == []
