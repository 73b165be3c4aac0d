"""The reference kernels: what the conformance suite does not say about them.

Tolerances: fp32, some hundred roundings of 6e-8 each, hence 5e-6 of the largest entry.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="kernels need mindspore")

import mindspore as ms
from mindspore import Parameter, Tensor
from qvl_core import kernels
from qvl_core.conformance import truth
from qvl_core.kernels import segments as segments_module
from qvl_core.kernels.segments import GROUP_COST, HIDDEN, MOST_GROUPS, build_segments

TOLERANCE = 5e-6


def _tensor(random: np.random.Generator, *shape: int) -> Tensor:
    return Tensor(random.standard_normal(shape).astype(np.float32))


def _wide(x: Tensor) -> np.ndarray:
    return x.asnumpy().astype(np.float64)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(11)


class TestSegments:
    def test_equal_lengths_need_no_gather(self) -> None:
        plan = build_segments([4, 4, 4])
        assert plan.order is None
        assert [(group.start, group.count, group.length) for group in plan.groups] == [(0, 3, 4)]
        assert plan.total == 12

    def test_ascending_lengths_need_no_gather(self) -> None:
        plan = build_segments([2, 4, 4, 6], group_cost=0)
        assert plan.order is None
        assert [(group.start, group.count, group.length) for group in plan.groups] == [(0, 1, 2), (2, 2, 4), (10, 1, 6)]

    def test_alternating_lengths_are_gathered_without_padding(self) -> None:
        plan = build_segments([4, 2, 4, 2, 4, 2], group_cost=0)
        assert plan.order is not None
        assert plan.order.shape == (18,)
        assert all(group.padding_bias is None for group in plan.groups)

    def test_pads_where_that_costs_less_than_another_group(self) -> None:
        lengths = [6, 4, 6, 4, 4]
        padded = 3 * (6**2 - 4**2)
        assert [group.length for group in build_segments(lengths, group_cost=padded).groups] == [6]
        assert [group.length for group in build_segments(lengths, group_cost=padded - 1).groups] == [4, 6]

    def test_many_lengths_share_padded_groups(self) -> None:
        plan = build_segments([1, 9, 2, 8, 3, 7, 4, 6, 5], group_cost=0)
        assert len(plan.groups) == MOST_GROUPS
        biases = [group.padding_bias for group in plan.groups]
        assert any(bias is not None for bias in biases)
        assert all(bias is None or set(np.unique(bias.asnumpy())) <= {0.0, np.float32(HIDDEN)} for bias in biases)

    @pytest.mark.parametrize("seed", range(5))
    def test_inverse_undoes_order(self, seed: int) -> None:
        lengths = np.random.default_rng(seed).integers(1, 9, 12)
        plan = build_segments(lengths.tolist(), group_cost=seed * 50)
        assert plan.order is not None
        assert plan.inverse is not None
        tokens = np.arange(plan.total)
        assert (tokens[plan.order.asnumpy()][plan.inverse.asnumpy()] == tokens).all()

    @pytest.mark.parametrize("group_cost", [0, GROUP_COST])
    def test_head_rows_lie_together_and_find_back(self, group_cost: int) -> None:
        lengths, heads = [3, 1, 3, 2], 5
        plan = build_segments(lengths, group_cost=group_cost)
        rows, back = (index.asnumpy() for index in plan.head_rows(heads))
        assert (rows[back] == np.arange(plan.total * heads)).all()
        starts = np.cumsum([0, *lengths])
        for group in plan.groups:
            of_group = rows[group.start * heads : (group.start + group.rows) * heads]
            tokens_CNL = of_group.reshape(group.count, heads, group.length) // heads
            assert (of_group.reshape(group.count, heads, group.length) % heads == np.arange(heads)[None, :, None]).all()
            for tokens_NL, length in zip(tokens_CNL, group.lengths, strict=True):
                first = tokens_NL[0, 0]
                assert first in starts
                assert (tokens_NL[:, :length] == first + np.arange(length)).all()
        assert plan.head_rows(heads) is plan.head_rows(heads)

    def test_empty_segments_are_left_out(self) -> None:
        assert build_segments([0, 3, 0]).lengths == (3,)

    def test_refuses_no_token_at_all(self) -> None:
        with pytest.raises(AssertionError, match="no token"):
            build_segments([0, 0])


class TestAttention:
    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("group_cost", [0, GROUP_COST])
    @pytest.mark.parametrize("seed", range(3))
    def test_random_lengths_agree_with_the_definition(
        self, random: np.random.Generator, seed: int, group_cost: int, causal: bool
    ) -> None:
        lengths = np.random.default_rng(seed).integers(1, 12, 9).tolist()
        total = sum(lengths)
        q, k, v = _tensor(random, total, 6, 8), _tensor(random, total, 2, 8), _tensor(random, total, 2, 8)
        plan = build_segments(lengths, group_cost=group_cost)
        found = kernels.attention(q, k, v, plan, causal=causal, scale=0.35)
        expected = truth.attention(_wide(q), _wide(k), _wide(v), lengths, causal, 0.35)
        np.testing.assert_allclose(found.asnumpy(), expected, atol=TOLERANCE)

    @pytest.mark.parametrize("causal", [False, True])
    def test_long_segments_without_a_shared_bias_agree(
        self, random: np.random.Generator, causal: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(segments_module, "LONGEST_SHARED_BIAS", 5)
        q, k, v = _tensor(random, 9, 4, 8), _tensor(random, 9, 2, 8), _tensor(random, 9, 2, 8)
        plan = build_segments([9], most_scores=4 * 9 * 4)
        assert plan.groups[0].causal_bias is None
        found = kernels.attention(q, k, v, plan, causal=causal, scale=0.35)
        expected = truth.attention(_wide(q), _wide(k), _wide(v), [9], causal, 0.35)
        np.testing.assert_allclose(found.asnumpy(), expected, atol=TOLERANCE)

    def test_a_segment_does_not_see_its_neighbour(self, random: np.random.Generator) -> None:
        q, k, v = (_tensor(random, 7, 2, 8) for _ in range(3))
        plan = build_segments([3, 4])
        before = kernels.attention(q, k, v, plan, causal=False, scale=0.35).asnumpy()[:3]
        changed = v.asnumpy().copy()
        changed[3:] += 100.0
        after = kernels.attention(q, k, Tensor(changed), plan, causal=False, scale=0.35).asnumpy()[:3]
        assert (before == after).all()

    def test_training_on_one_token_leaves_later_gradients_right(self, random: np.random.Generator) -> None:
        # MindSpore 2.7 and 2.10: a softmax gradient over a dim of size 1 spoils those of every later shape.
        one = [_tensor(random, 1, 2, 8) for _ in range(3)]
        ms.grad(_attention_sum([1]), (0, 1, 2))(*one)
        q, k, v = (_tensor(random, 5, 2, 8) for _ in range(3))
        found = ms.grad(_attention_sum([5]), 0)(q, k, v).asnumpy()
        step = np.zeros((5, 2, 8))
        step[2, 1, 3] = 1e-5
        ends = [
            float((truth.attention(_wide(q) + s * step, _wide(k), _wide(v), [5], True, 0.35) ** 2).sum())
            for s in (1, -1)
        ]
        assert found[2, 1, 3] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-4)


def _attention_sum(lengths: list[int]):  # type: ignore[no-untyped-def]
    plan = build_segments(lengths)

    def loss(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = kernels.attention(q, k, v, plan, causal=True, scale=0.35)
        return (y * y).sum()

    return loss


class TestDecodeAttention:
    def test_equals_the_last_row_of_causal_attention(self, random: np.random.Generator) -> None:
        q, k, v = _tensor(random, 6, 4, 8), _tensor(random, 6, 2, 8), _tensor(random, 6, 2, 8)
        full = kernels.attention(q, k, v, build_segments([6]), causal=True, scale=0.35).asnumpy()[-1]
        caches = [
            Tensor(np.pad(x.asnumpy().swapaxes(0, 1)[None], ((0, 0), (0, 0), (0, 3), (0, 0)), constant_values=7.0))
            for x in (k, v)
        ]
        bias = Tensor(np.array([[0.0] * 6 + [HIDDEN] * 3], np.float32))
        one = kernels.decode_attention(q[5:6], caches[0], caches[1], bias, scale=0.35).asnumpy()[0]
        np.testing.assert_allclose(one, full, atol=TOLERANCE)


class TestCrossEntropy:
    def test_ignored_labels_have_no_loss_and_no_gradient(self, random: np.random.Generator) -> None:
        logits, labels = _tensor(random, 3, 5), Tensor(np.array([-100, 2, -100], np.int32))
        assert kernels.cross_entropy(logits, labels).asnumpy()[[0, 2]].tolist() == [0.0, 0.0]
        gradient = ms.grad(lambda x: kernels.cross_entropy(x, labels).sum())(logits).asnumpy()
        assert (gradient[[0, 2]] == 0.0).all()
        assert (gradient[1] != 0.0).all()

    def test_nothing_but_ignored_labels_gives_zeros_and_no_nan(self, random: np.random.Generator) -> None:
        labels = Tensor(np.full(2, -100, np.int32))
        value, gradient = ms.value_and_grad(lambda x: kernels.cross_entropy(x, labels).sum())(_tensor(random, 2, 5))
        assert float(value.asnumpy()) == 0.0
        assert (gradient.asnumpy() == 0.0).all()

    def test_is_fp32_for_half_precision_logits(self, random: np.random.Generator) -> None:
        labels = Tensor(np.array([1, 2], np.int32))
        assert kernels.cross_entropy(_tensor(random, 2, 5).astype(ms.float16), labels).dtype == ms.float32


class TestAdamW:
    @pytest.mark.parametrize("eps", [1e-8, 1e-3])
    def test_ten_steps_agree_with_float64(self, random: np.random.Generator, eps: float) -> None:
        start = random.standard_normal((4, 5)).astype(np.float32)
        gradients = [random.standard_normal((4, 5)).astype(np.float32) for _ in range(10)]
        parameter, first, second = (
            Parameter(Tensor(x)) for x in (start.copy(), np.zeros_like(start), np.zeros_like(start))
        )
        for step, gradient in enumerate(gradients, start=1):
            kernels.adamw_update(
                parameter, first, second, Tensor(gradient),
                lr=0.01, beta1=0.9, beta2=0.999, eps=eps, weight_decay=0.1, step=step,
            )  # fmt: skip
        wide = [gradient.astype(np.float64) for gradient in gradients]
        expected = truth.adamw(start.astype(np.float64), wide, lr=0.01, betas=(0.9, 0.999), eps=eps, decay=0.1)
        np.testing.assert_allclose(parameter.asnumpy(), expected, atol=2e-6)

    def test_first_step_moves_by_the_learning_rate(self) -> None:
        parameter, first, second = (Parameter(Tensor(np.full(3, x, np.float32))) for x in (1.0, 0.0, 0.0))
        gradient = Tensor(np.array([0.5, -2.0, 1e-3], np.float32))
        kernels.adamw_update(
            parameter, first, second, gradient,
            lr=0.1, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, step=1,
        )  # fmt: skip
        np.testing.assert_allclose(parameter.asnumpy(), [0.9, 1.1, 0.9], rtol=1e-4)


def test_merge_without_vision_gives_the_text_back(random: np.random.Generator) -> None:
    text = _tensor(random, 3, 4)
    merged = kernels.merge_tokens(text, Tensor(np.zeros((0, 4), np.float32)), Tensor(np.arange(3, dtype=np.int32)))
    assert merged is text


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_adamw_updates_do_not_grow_the_process() -> None:
    # MindSpore 2.10 keeps about 4 kB for every plain float that reaches the operation: 8 MiB here, 0.1 without.
    state = [Parameter(Tensor(np.zeros(100, np.float32))) for _ in range(3)]
    gradient = Tensor(np.ones(100, np.float32))

    def resident_mib(updates: range) -> float:
        for step in updates:
            kernels.adamw_update(
                *state, gradient, lr=1e-4, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.1, step=step
            )
        state[0].asnumpy()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    before = resident_mib(range(1, 1001))
    assert resident_mib(range(1001, 3001)) - before < 3.0


@pytest.mark.parametrize(("length", "heads"), [(2049, 1), (2100, 2)])
def test_causal_attention_of_few_heads_over_more_rows_than_the_shared_bias_sees_no_future(
    random: np.random.Generator, length: int, heads: int
) -> None:
    """Few enough scores for one piece, too many rows for one bias: the piece has to make its own."""
    q, k, v = (_tensor(random, length, heads, 4) for _ in range(3))
    found = kernels.attention(q, k, v, build_segments([length]), causal=True, scale=0.5)
    expected = truth.attention(*map(_wide, (q, k, v)), lengths=(length,), causal=True, scale=0.5)
    np.testing.assert_allclose(_wide(found), expected, atol=TOLERANCE)
