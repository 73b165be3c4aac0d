"""The Ascend forms against the documented rules of the fused operations, which are played by numpy here.

This proves that the calls are what the documentation asks for and that the results land where they should. It proves
nothing about a device: only `python -m qvl_core.conformance --kernels ascend` on one can.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("mindspore", reason="kernels need mindspore")

import mindspore as ms
from mindspore import Parameter, Tensor, mint
from qvl_core.conformance import truth
from qvl_core.conformance.contracts import Call, stand_ins
from qvl_core.kernels import announce, select
from qvl_core.kernels.domain import Limit
from qvl_core.kernels.segments import build_segments

# fp16 results: one rounding is 5e-4 of the largest entry.
HALF = 5e-3
TABLE = select.ascend_table()


def _wide(x: Tensor) -> np.ndarray:
    return x.astype(ms.float32).asnumpy().astype(np.float64)


def _half(seed: int, *shape: int) -> Tensor:
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float16))


@pytest.fixture
def calls() -> Iterator[list[Call]]:
    with stand_ins() as record:
        yield record


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    announce._warn.cache_clear()
    texts: list[str] = []
    with caplog.at_level(logging.WARNING, logger="qvl_core"):
        yield texts
    announce._warn.cache_clear()


def attend(size: int, dtype: Any, *, heads: int = 2) -> None:
    q, k, v = (_half(seed, 5, heads, size).astype(dtype) for seed in (1, 2, 3))
    y = TABLE.attention(q, k, v, build_segments([5]), causal=True, scale=0.25)
    np.testing.assert_allclose(_wide(y), truth.attention(_wide(q), _wide(k), _wide(v), [5], True, 0.25), atol=HALF)


def normalise(dtype: Any, weight_dtype: Any, eps: float = 1e-6) -> None:
    x, weight = _half(1, 5, 16).astype(dtype), _half(2, 16).astype(weight_dtype)
    TABLE.rms_norm(x, weight, eps)


def gated() -> None:
    TABLE.swiglu(_half(1, 5, 16), _half(2, 1, 16))


def rotate(size: int) -> None:
    x, angles = _half(1, 3, 2, size), Tensor(np.zeros((3, size), np.float32))
    np.testing.assert_allclose(_wide(TABLE.rope(x, angles + 1.0, angles)), _wide(x), atol=HALF)


def embed(patches: int) -> None:
    y = TABLE.patch_embed(Tensor(np.ones((patches, 12), np.float32)), Tensor(np.ones((5, 12), np.float32)))
    assert y.shape == (patches, 5)


OUTSIDE = [
    pytest.param(partial(attend, 16, ms.float32), "attention", "takes float16 and bfloat16 only", id="fp32"),
    pytest.param(partial(attend, 8, ms.float16), "attention", "wants a head size 16 to 512, a multiple of 16", id="8"),
    pytest.param(partial(attend, 528, ms.float16), "attention", "wants a head size 16 to 512", id="528"),
    pytest.param(
        partial(attend, 16, ms.float16, heads=257), "attention", "wants a number of heads 1 to 256", id="257 heads"
    ),
    pytest.param(partial(normalise, ms.float16, ms.float32), "rms_norm", "wants inputs of one dtype", id="dtypes"),
    pytest.param(partial(normalise, ms.float64, ms.float64), "rms_norm", "takes float16, bfloat16 and", id="fp64"),
    pytest.param(partial(normalise, ms.float16, ms.float16, eps=0.0), "rms_norm", "wants an epsilon above 0", id="eps"),
    pytest.param(gated, "swiglu", "wants halves of one shape", id="halves"),
    pytest.param(partial(rotate, 896), "rope", "wants a head size 2 to 894, a multiple of 2", id="rope 896"),
    pytest.param(partial(embed, 0), "patch_embed", "wants a number of patches of at least 1", id="no patch"),
]


class TestDomain:
    @pytest.mark.parametrize(("act", "kernel", "words"), OUTSIDE)
    def test_outside_the_reference_runs_and_it_is_said_once(
        self, calls: list[Call], said: list[str], caplog: pytest.LogCaptureFixture, act: Any, kernel: str, words: str
    ) -> None:
        act()
        act()
        assert calls == []
        (text,) = [record.message for record in caplog.records]
        assert text.startswith(f"{kernel}: the fused form (")
        assert words in text
        assert text.endswith("; running the slower reference")

    @pytest.mark.parametrize(
        "act",
        [partial(attend, 80, ms.float16), partial(attend, 512, ms.float16), partial(attend, 16, ms.float16, heads=256),
         partial(normalise, ms.float16, ms.float16), partial(rotate, 894), partial(embed, 1)],
    )  # fmt: skip
    def test_inside_it_is_silent(
        self, calls: list[Call], said: list[str], caplog: pytest.LogCaptureFixture, act: Any
    ) -> None:
        act()
        assert len(calls) == 1
        assert caplog.records == []

    def test_it_is_said_once_by_threads_that_come_at_once(self, said: list[str]) -> None:
        told: list[str] = []

        class Slow(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                told.append(record.getMessage())
                if len(told) == 1:
                    # While the first is being written, another thread comes with the same; it may wait, not write.
                    other.start()
                    other.join(0.5)

        other = threading.Thread(target=announce.warn_once, args=("the same",))
        handler = Slow()
        logging.getLogger("qvl_core").addHandler(handler)
        try:
            announce.warn_once("the same")
            other.join()
        finally:
            logging.getLogger("qvl_core").removeHandler(handler)
        assert told == ["the same"]

    def test_each_process_of_a_run_says_it_once_in_its_own_log(self) -> None:
        program = (
            "from mindspore import Tensor; import numpy as np\n"
            "from qvl_core.kernels import select\n"
            "x = Tensor(np.ones((3, 2, 896), np.float32)); angles = Tensor(np.zeros((3, 896), np.float32))\n"
            "for _ in range(3): select.ascend_table().rope(x, angles + 1.0, angles)\n"
        )
        processes = [
            subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) for _ in range(2)
        ]
        for process in processes:
            _, log = process.communicate()
            assert process.returncode == 0, log
            assert log.count("running the slower reference") == 1

    def test_two_reasons_are_two_messages(
        self, calls: list[Call], said: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        attend(16, ms.float32)
        attend(8, ms.float16)
        attend(24, ms.float16)
        assert len(caplog.records) == 2

    def test_the_optimizer_step_has_no_other_form(self, calls: list[Call]) -> None:
        half = [Parameter(_half(seed, 3)) for seed in range(3)]
        with pytest.raises(TypeError, match=r"adamw_update: the fused form \(ops.Adam\) takes float32 only$"):
            step(*half, _half(9, 3))
        assert calls == []

    def test_nothing_to_update_is_no_call(self, calls: list[Call]) -> None:
        empty = [Parameter(Tensor(np.zeros((0,), np.float32))) for _ in range(3)]
        step(*empty, Tensor(np.zeros((0,), np.float32)))
        assert calls == []

    def test_a_compiled_form_asks_too(self, said: list[str], caplog: pytest.LogCaptureFixture) -> None:
        x, weight = _half(1, 2, 4), Tensor(np.ones(4, np.float32))

        def normalised(x: Tensor, weight: Tensor) -> Tensor:
            return TABLE.rms_norm(x, weight, 1e-6)

        # On CPU the compiler refuses the fused operation: that it compiles shows that the reference was taken.
        np.testing.assert_allclose(_wide(ms.jit(normalised)(x, weight)), _wide(normalised(x, weight)), atol=HALF)
        assert [record.message for record in caplog.records] == [
            "rms_norm: the fused form (ops.rms_norm) wants inputs of one dtype; running the slower reference"
        ]

    def test_compiled_attention_asks_too(self, said: list[str], caplog: pytest.LogCaptureFixture) -> None:
        q, k, v = (_half(seed, 5, 2, 16).astype(ms.float32) for seed in (1, 2, 3))
        segments = build_segments([2, 3])

        def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return TABLE.attention(q, k, v, segments, causal=True, scale=0.25)

        y = ms.jit(attended)(q, k, v)
        np.testing.assert_allclose(
            _wide(y), truth.attention(_wide(q), _wide(k), _wide(v), [2, 3], True, 0.25), atol=1e-5
        )
        assert ["takes float16 and bfloat16 only" in record.message for record in caplog.records] == [True]

    @pytest.mark.parametrize("form", ["swiglu", "rope", "patch_embed", "cross_entropy"])
    def test_compiled_forms_come_as_far_as_their_operation(self, form: str) -> None:
        # Inside of the domain, so the compiler meets the fused operation, which the CPU may not have; a question that
        # jit cannot read would fail otherwise. Where it has the operation the values have to be right, and those of
        # ignored tokens are not what the operation leaves there.
        wide, short = _half(1, 3, 2, 16), _half(2, 3, 8)
        angles = Tensor(np.zeros((3, 16), np.float32))
        arguments: dict[str, tuple[Any, ...]] = {
            "swiglu": (short, short), "rope": (wide, angles + 1.0, angles), "patch_embed": (short, _half(3, 5, 8)),
            "cross_entropy": (short, Tensor(np.array([1, -100, 2], np.int32))),
        }  # fmt: skip
        kernel = getattr(TABLE, form)

        def called(*tensors: Tensor) -> Tensor:
            return kernel(*tensors)

        with suppress_missing_on_cpu():
            expected = getattr(select.reference_table(), form)(*arguments[form])
            np.testing.assert_allclose(_wide(ms.jit(called)(*arguments[form])), _wide(expected), atol=HALF)


@contextmanager
def suppress_missing_on_cpu() -> Iterator[None]:
    """Let the error pass that says of an operation that the CPU does not have it: 2.10 and 2.7 say it differently."""
    try:
        yield
    except RuntimeError as failure:
        if not any(words in str(failure) for words in ("on CPU", "device CPU", "SelectKernel")):
            raise


def step(*tensors: Any) -> None:
    TABLE.adamw_update(*tensors, lr=0.1, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.1, step=1)


class TestLimit:
    @given(least=st.integers(0, 40), span=st.integers(0, 40), multiple=st.integers(1, 16), size=st.integers(-1, 100))
    def test_holds_between_its_borders(self, least: int, span: int, multiple: int, size: int) -> None:
        limit = Limit(name="x", least=least, most=least + span, multiple=multiple)
        assert limit.holds(size) == (size in range(least, least + span + 1) and size % multiple == 0)


def test_embedding_passes_ids_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(input: Tensor, weight: Tensor) -> Tensor:  # noqa: A002 - the documented name
        assert input.dtype in (ms.int32, ms.int64)
        return Tensor(weight.asnumpy()[input.asnumpy()])

    monkeypatch.setattr(mint.nn.functional, "embedding", fake)
    weight, ids = _half(1, 7, 4), Tensor(np.array([3, 0, 3], np.int32))
    assert (TABLE.embedding(weight, ids).asnumpy() == weight.asnumpy()[[3, 0, 3]]).all()


def test_gelu_is_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(input: Tensor, *, approximate: str = "none") -> Tensor:  # noqa: A002 - the documented name
        assert approximate == "none"
        return Tensor(truth.gelu(_wide(input)).astype(np.float32)).astype(input.dtype)

    monkeypatch.setattr(mint.nn.functional, "gelu", fake)
    x = _half(1, 5, 6)
    np.testing.assert_allclose(_wide(TABLE.gelu(x)), truth.gelu(_wide(x)), atol=HALF)
