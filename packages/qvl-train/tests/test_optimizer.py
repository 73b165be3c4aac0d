"""AdamW over groups against a float64 reference, and clipping.

Tolerance 2e-6 relative to weights of order 1 after five fp32 updates: about ten units in the last place.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

ms = pytest.importorskip("mindspore", reason="the optimizer needs MindSpore")

from qvl_core.parallel.single import SingleGroup  # noqa: E402
from qvl_core.params import Parameter as TableRow  # noqa: E402
from qvl_train.gradients import clip_scale, norm_of, sum_of_squares  # noqa: E402
from qvl_train.optimizer import AdamW, AdamWSettings  # noqa: E402

SETTINGS = AdamWSettings(
    beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, lr_scale={"vision": 0.1, "merger": 1.0, "text": 1.0}
)
TABLE = [
    TableRow(name="text.matrix", shape=(3, 4), component="text", layer=None, stages=(0,), shard="replicate"),
    TableRow(name="text.norm", shape=(4,), component="text", layer=None, stages=(0,), shard="replicate"),
    TableRow(name="vision.matrix", shape=(2, 5), component="vision", layer=None, stages=(0,), shard="replicate"),
]


def make_parameters(dtype: str = "float32") -> dict[str, ms.Parameter]:
    generator = np.random.default_rng(1)
    return {
        row.name: ms.Parameter(ms.Tensor(generator.standard_normal(row.shape).astype(dtype)), name=row.name)
        for row in TABLE
    }


def reference(value: np.ndarray, gradients: list[np.ndarray], *, lr: float, decay: float) -> np.ndarray:
    """Apply AdamW (arXiv 1711.05101, algorithm 2) in float64."""
    value, m, v = value.astype(np.float64), 0.0, 0.0
    for step, gradient in enumerate(gradients, 1):
        m = 0.9 * m + 0.1 * gradient
        v = 0.95 * v + 0.05 * gradient**2
        value = value * (1 - lr * decay)
        value = value - lr * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.95**step)) + 1e-8)
    return value


def run_updates(parameters: dict[str, ms.Parameter], gradients: list[list[np.ndarray]]) -> AdamW:
    optimizer = AdamW(parameters, TABLE, SETTINGS, SingleGroup())
    for step, row in enumerate(gradients, 1):
        optimizer.update([ms.Tensor(g) for g in row], lr=1e-2, step=step)
    return optimizer


def random_gradients(steps: int) -> list[list[np.ndarray]]:
    generator = np.random.default_rng(2)
    return [[generator.standard_normal(row.shape).astype(np.float32) for row in TABLE] for _ in range(steps)]


def test_equals_the_float64_reference_with_decay_on_matrices_and_a_rate_by_component() -> None:
    parameters, gradients = make_parameters(), random_gradients(5)
    before = {name: value.asnumpy().copy() for name, value in parameters.items()}
    run_updates(parameters, gradients)
    for i, (name, lr, decay) in enumerate(
        [("text.matrix", 1e-2, 0.1), ("text.norm", 1e-2, 0.0), ("vision.matrix", 1e-3, 0.1)]
    ):
        expected = reference(before[name], [row[i].astype(np.float64) for row in gradients], lr=lr, decay=decay)
        np.testing.assert_allclose(parameters[name].asnumpy(), expected, rtol=2e-6, atol=2e-6)


def test_state_put_into_a_new_optimizer_continues_to_the_bit() -> None:
    gradients = random_gradients(6)
    straight = make_parameters()
    run_updates(straight, gradients)

    first = make_parameters()
    saved = {stored.name: stored.read().copy() for stored in run_updates(first, gradients[:3]).stored()}
    second = {name: ms.Parameter(ms.Tensor(value.asnumpy().copy()), name=name) for name, value in first.items()}
    optimizer = AdamW(second, TABLE, SETTINGS, SingleGroup())
    assert {name: array.shape for name, array in saved.items()} == {one.name: one.shape for one in optimizer.stored()}
    optimizer.load(saved.items())
    for step, row in enumerate(gradients[3:], 4):
        optimizer.update([ms.Tensor(g) for g in row], lr=1e-2, step=step)
    for name in straight:
        assert second[name].asnumpy().tobytes() == straight[name].asnumpy().tobytes()


def test_half_precision_weights_follow_fp32_master_weights() -> None:
    """An update far below the spacing of float16 must add up in the master weights instead of vanishing."""
    parameters = {"text.norm": ms.Parameter(ms.Tensor(np.ones(4, np.float16)), name="text.norm")}
    optimizer = AdamW(parameters, TABLE, SETTINGS, SingleGroup())
    for step in range(1, 31):
        optimizer.update([ms.Tensor(np.ones(4, np.float32))], lr=1e-4, step=step)
    state = {stored.name: stored.read() for stored in optimizer.stored()}
    np.testing.assert_allclose(state["text.norm.master"], 1 - 30 * 1e-4, rtol=1e-5)
    assert parameters["text.norm"].asnumpy().tolist() == state["text.norm.master"].astype(np.float16).tolist()


@pytest.mark.parametrize(("norm", "limit", "scale"), [(0.5, 1.0, 1.0), (2.0, 0.0, 1.0), (4.0, 1.0, 0.25)])
def test_clipping_scales_only_what_is_too_long(norm: float, limit: float, scale: float) -> None:
    assert clip_scale(norm, limit) == pytest.approx(scale, rel=1e-5)


def test_global_norm_is_that_of_all_tensors_together_and_shows_a_nan() -> None:
    tensors = [ms.Tensor(np.full((2, 2), 1.0, np.float32)), ms.Tensor(np.full(5, 2.0, np.float32))]
    assert norm_of([sum_of_squares(tensors)]) == pytest.approx(math.sqrt(4 + 20))
    assert math.isnan(norm_of([sum_of_squares([*tensors, ms.Tensor(np.array([np.nan], np.float32))])]))
