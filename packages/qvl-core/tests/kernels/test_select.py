"""The choice of kernels: what is taken where, and that nothing changes afterwards."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

pytest.importorskip("mindspore", reason="kernels need mindspore")

from qvl_core import kernels
from qvl_core.errors import InputError, NotInstalledError
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
    with pytest.raises(InputError) as caught:
        select.requested()
    (problem,) = caught.value.problems
    assert (problem.where, problem.message) == ("QVL_KERNELS of this shell", "is 'fast'")
    assert problem.fix == "set it to auto, reference, reference:KERNEL,..., bsnd:attention or ascend"


@pytest.mark.parametrize("choice", ["auto", "reference", "ascend"])
def test_accepts_each_choice(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QVL_KERNELS", choice)
    assert select.requested() == (choice, ())


@pytest.mark.parametrize(("text", "plain"), [("attention", ["attention"]), ("rope, swiglu", ["rope", "swiglu"])])
def test_single_kernels_can_be_plain_on_ascend(text: str, plain: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QVL_KERNELS", f"reference:{text}")
    monkeypatch.setenv("QVL_DEVICE", "ascend")
    table, fused, reference = select.use(*select.requested()), select.ascend_table(), select.reference_table()
    for name in KERNELS:
        assert getattr(table, name) is getattr(reference if name in plain else fused, name)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("", ("auto", ())), ("  ", ("auto", ())), (" reference ", ("reference", ())), (" bsnd:attention\n", ("bsnd", ()))],
)
def test_a_variable_that_was_emptied_is_none(
    text: str, wanted: tuple[str, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QVL_KERNELS", text)
    assert select.requested() == wanted


def test_the_other_form_of_attention_is_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QVL_KERNELS", "bsnd:attention")
    assert select.requested() == ("bsnd", ())
    with pytest.raises(NotInstalledError, match="need an Ascend device; this process runs on cpu"):
        select.use(*select.requested())
    monkeypatch.setenv("QVL_DEVICE", "ascend")
    table, fused = select.use(*select.requested()), select.ascend_table()
    changed = [name for name in KERNELS if getattr(table, name) is not getattr(fused, name)]
    assert changed == ["attention"]
    assert inspect.signature(table.attention) == inspect.signature(fused.attention)


def test_plain_kernels_are_the_reference_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QVL_KERNELS", "reference:attention")
    assert select.use(*select.requested()) == select.reference_table()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("reference:attn", "names 'attn', which is no kernel"),
        ("reference:", "names '', which is no kernel"),
        ("reference:attention,", "names '', which is no kernel"),
        ("reference:name", "names 'name', which is no kernel"),
        ("ascend:attention", "is 'ascend:attention'"),
        ("bsnd:rope", "is 'bsnd:rope'"),
        ("bsnd", "is 'bsnd'"),
    ],
)
def test_refuses_kernels_that_are_none(text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QVL_KERNELS", text)
    with pytest.raises(InputError, match=said) as caught:
        select.requested()
    assert caught.value.exit_code == 2


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
