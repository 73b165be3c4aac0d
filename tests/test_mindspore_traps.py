"""The lint of MindSpore traps: catches each, and lets the right way through."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAD = "import mindspore as ms\nfrom mindspore import Parameter, Tensor, mint, nn, ops\n"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lint_mindspore_traps", ROOT / "tools" / "lint_mindspore_traps.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Frozen dataclasses look their module up by name.
    sys.modules["lint_mindspore_traps"] = module
    spec.loader.exec_module(module)
    return module


lint = _load()


def _found(body: str, path: str = "packages/qvl-core/src/qvl_core/model/text.py") -> list[str]:
    return [finding.message for finding in lint.find_traps(HEAD + body + "\n", path)]


TRAPS = {
    "a, b = mint.split(x, 2, -1)": "mint.split: its gradient is silently wrong",
    "ops.index_add(x, i, y, 0)": "ops.index_add: it changes its first argument",
    "mint.index_add(x, 0, i, y)": "mint.index_add: it fails in jit",
    "ops.scatter_add(p, i, y)": "ops.scatter_add: it changes a Parameter",
    "x.add_(y)": "add_ does nothing on CPU",
    "self.weight.mul_(2.0)": "mul_ does nothing on CPU",
    "x.zero_()": "zero_ does nothing on CPU",
    "self.weight.set_data(y)": "compiled code that has run once keeps the old values after set_data",
    "weight.assign_value(y)": "compiled code that has run once keeps the old values after assign_value",
    "x[0].copy_(y)": "copy_ through a view never writes the right cells",
    "self.weight += y": "augmented assignment to an attribute or item",
    "weights[0] -= y": "augmented assignment to an attribute or item",
    "x.requires_grad_()": "requires_grad_ does not exist in MindSpore 2.7",
    "x.expand((2, 3))": "expand fails in jit",
    "y = mint.einsum('ij->ji', x)": "mint.einsum does not run on CPU",
    "y = mint.arange(3)": "mint.arange does not run on CPU",
    "y = mint.nn.functional.embedding(i, w)": "mint.nn.functional.embedding does not run on CPU",
    "y = mint.nn.functional.linear(x, w)": "mint.nn.functional.linear: it copies the transposed weight",
    "o = mint.optim.AdamW(p)": "mint.optim.AdamW does not run on CPU",
    "y = ops.rms_norm(x, w)": "ops.rms_norm does not run on CPU",
    "o = nn.AdamWeightDecay(p)": "nn.AdamWeightDecay: it has no bias correction",
    "y = ops.softmax(x, -1)": "ops.softmax: one gradient of it over a dim of size 1",
    "y = mint.nn.functional.softmax(x, -1)": "mint.nn.functional.softmax: one gradient of it",
    "ms.manual_seed(1)": "ms.manual_seed: it does not reach the random operations on CPU",
    "f = ops.vjp(g, x)": "ops.vjp: closures of it cannot interleave",
}
NEIGHBOURS = [
    "a, b = x[..., :2], x[..., 2:]",
    "a, b = ops.split(x, 2, -1)",
    "names = text.split(',')",
    "y = ops.gather(mint.cat((x, y), 0), i, 0)",
    "ops.assign(self.weight, y)",
    "ops.assign_add(self.weight, y)",
    "x[0] = y",
    "weight.copy_(y)",
    "self.step += 1",
    "x.add(y)",
    "seen.add(y)",
    "total += y",
    "y = mint.broadcast_to(x, (2, 3))",
    "y = ops.arange(3)",
    "y = ops.log_softmax(x, -1)",
    "y = mint.cat((x, y), 0)",
    "y = kernels.rms_norm(x, w, eps)",
    "y = kernels.linear(x, w)",
    "ms.set_seed(1)",
]


@pytest.mark.parametrize("body", TRAPS, ids=list(TRAPS))
def test_catches(body: str) -> None:
    messages = _found(body)
    assert len(messages) == 1
    assert messages[0].startswith(TRAPS[body])


@pytest.mark.parametrize("body", NEIGHBOURS)
def test_accepts(body: str) -> None:
    assert _found(body) == []


def test_follows_other_names_for_the_same_thing() -> None:
    source = "import mindspore\nfrom mindspore.mint import split as cut\nfrom mindspore import mint as m\n"
    path = "packages/qvl-core/src/qvl_core/model/text.py"
    for call in ("cut(x, 2)", "m.split(x, 2)", "mindspore.mint.split(x, 2)"):
        assert len(lint.find_traps(source + call, path)) == 1, call


def test_catches_mindspore_in_the_light_part() -> None:
    assert _found("", "packages/qvl-core/src/qvl_core/layout.py")[0].startswith(
        "mindspore is imported in the light part"
    )
    assert _found("", "packages/qvl-core/src/qvl_core/kernels/rope.py") == []


def test_softmax_is_for_the_kernels() -> None:
    assert _found("ops.softmax(x, -1)", "packages/qvl-core/src/qvl_core/kernels/attention.py") == []


def test_ascend_forms_may_call_what_only_the_device_has() -> None:
    assert _found("def rms_norm_ascend(x, w):\n    return ops.rms_norm(x, w)") == []
    assert len(_found("def rms_norm_reference(x, w):\n    return ops.rms_norm(x, w)")) == 1


def test_ascend_forms_may_not_be_silently_wrong() -> None:
    assert len(_found("def rope_ascend(x):\n    return mint.split(x, 2)")) == 1


def test_a_line_can_be_allowed_with_its_reason() -> None:
    assert _found("mint.split(x, 2)  # trap: on purpose, this test needs it") == []
    assert len(_found("mint.split(x, 2)  # on purpose")) == 1


def test_numpy_code_is_left_alone() -> None:
    path = "packages/qvl-core/src/qvl_core/geometry/grids.py"
    assert lint.find_traps("import numpy as np\ncounts[0] += x\ny = x.expand(3)\n", path) == []


def test_our_own_code_has_no_trap(capsys: pytest.CaptureFixture[str]) -> None:
    assert lint.main([]) == 0, capsys.readouterr().out


def test_findings_name_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "qvl_core" / "model"
    folder.mkdir(parents=True)
    (folder / "bad.py").write_text(HEAD + "x.add_(y)\n", encoding="utf-8")
    assert lint.main([str(tmp_path)]) == 1
    assert "bad.py:3: add_ does nothing on CPU" in capsys.readouterr().out
