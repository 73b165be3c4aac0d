"""The choice of kernels: what is taken where, and that nothing changes afterwards."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

pytest.importorskip("mindspore", reason="kernels need mindspore")

from qvl_core import kernels
from qvl_core.errors import NotInstalledError
from qvl_core.kernels import select

KERNELS = [field.name for field in dataclasses.fields(select.KernelTable) if field.name != "name"]


def test_auto_takes_the_reference_on_cpu() -> None:
    assert select.use("auto") == select.reference_table()
    assert kernels.attention is select.reference_table().attention


def test_auto_takes_the_fused_forms_on_ascend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QVL_DEVICE", "ascend")
    assert select.use("auto") == select.ascend_table()
    assert select.use("reference") == select.reference_table()


def test_refuses_fused_forms_on_cpu() -> None:
    with pytest.raises(NotInstalledError, match="need an Ascend device; this process runs on cpu"):
        select.use("ascend")


def test_refuses_an_unknown_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QVL_KERNELS", "fast")
    with pytest.raises(ValueError, match="QVL_KERNELS is 'fast'; it has to be auto, reference or ascend"):
        select.requested()


@pytest.mark.parametrize("choice", ["auto", "reference", "ascend"])
def test_accepts_each_choice(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QVL_KERNELS", choice)
    assert select.requested() == choice


@pytest.mark.parametrize("name", KERNELS)
def test_both_forms_have_one_signature(name: str) -> None:
    reference, ascend = getattr(select.reference_table(), name), getattr(select.ascend_table(), name)
    assert inspect.signature(reference) == inspect.signature(ascend)
    assert reference is not ascend


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_is_exposed(name: str) -> None:
    assert callable(getattr(kernels, name))


def test_a_table_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        select.use("auto").gelu = None  # type: ignore[misc]
