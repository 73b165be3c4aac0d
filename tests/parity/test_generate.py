"""Greedy generation gives the tokens of HF `generate`: with and without images, one row and left-padded batches.

Equality is exact. It could only break where two tokens' scores are closer than the logits' deviation of about 1e-5;
the seeds are fixed, so it either happens always or never.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hf_models import PAD, SPECS, Inputs, Pair, Part, make_inputs, pair
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from parity_report import ParityReport
from qvl_core.answer_sizes import BLOCK
from qvl_core.generate import GenerationOptions
from qvl_core.generate.engine import Engine
from qvl_core.generate.request import Request
from qvl_core.generate.scheduler import Scheduler
from qvl_core.model import Qwen25VL, flatten_prompt

NEW_TOKENS = 64

CASES: dict[str, Sequence[Sequence[Part]]] = {
    "text": [[9]],
    "image": [[3, (4, 6), 5]],
    "video": [[3, (3, 4, 5, 0.5), 5]],
    "texts, padded left": [[5], [17], [11]],
    "mixed, padded left": [[2, (3, 4), 5, (2, 4, 4, 0.6), 3], [11], [1, (2, 5, 3, 0.7), 2, (2, 3), 6]],
}


@pytest.fixture(scope="module")
def report(request: pytest.FixtureRequest) -> Iterator[ParityReport]:
    collected = ParityReport("generate")
    yield collected
    path = collected.write()
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{collected.summary()}\nwritten to {path}")


# Every configuration with the batch that holds everything, two of them with each kind of input alone as well.
GREEDY = [
    (name, case) for number, name in enumerate(SPECS) for case in CASES if number < 2 or case == "mixed, padded left"
]


@pytest.mark.parametrize(("name", "case"), GREEDY)
def test_greedy_tokens_equal_hf(name: str, case: str, report: ParityReport) -> None:
    both = pair(name)
    inputs = make_inputs(both.spec, CASES[case], seed=3)
    ours = both.ours.generate(**inputs.arrays, max_new_tokens=NEW_TOKENS, pad_token_id=PAD).asnumpy()
    theirs = _hf_generate(both, inputs)
    new = theirs[:, inputs.mask.shape[1] :]
    assert new.shape[1] == NEW_TOKENS
    report.record("tokens that differ", f"{name} | {case}", int((ours[:, -NEW_TOKENS:] != new).sum()))
    report.record("tokens compared", f"{name} | {case}", new.size)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["tied, two full blocks", "one kv head, untied, odd vision heads"])
@pytest.mark.parametrize("patience", [0, 1000], ids=["compiled", "not compiled"])
def test_requests_that_join_a_running_batch_get_the_tokens_of_hf_for_each_alone(
    name: str, patience: int, report: ParityReport
) -> None:
    both = pair(name)
    rows = [[9], [3, (4, 6), 5], [3, (3, 4, 5, 0.5), 5], [17], [2, (3, 4), 5, (2, 4, 4, 0.6), 3], [5]]
    asked = [make_inputs(both.spec, [row], seed=number) for number, row in enumerate(rows)]
    engine = Engine(both.ours, 4, 4 * 4 * BLOCK, patience=patience)
    scheduler = Scheduler(both.ours, slots=4, max_tokens=4 * 4 * BLOCK, engine=engine)
    answers: list[list[int]] = [[] for _ in asked]
    for step in range(3 * NEW_TOKENS):
        # One more request every seventh step: the last two wait for slots.
        if step % 7 == 0 and step // 7 < len(asked):
            prompt = flatten_prompt(both.spec, **asked[step // 7].arrays).batch
            options = GenerationOptions(max_new_tokens=NEW_TOKENS)
            scheduler.submit(Request(prompt=prompt, options=options, request_id=str(step // 7)))
        for event in scheduler.step():
            answers[int(event.request_id)].append(event.token)
    for number, inputs in enumerate(asked):
        expected = _hf_generate(both, inputs)[0, inputs.mask.shape[1] :]
        assert answers[number] == expected.tolist()
        report.record("tokens compared", f"{name} | joining, patience {patience} | {number}", len(expected))


@pytest.mark.parametrize("name", ["one kv head, untied, odd vision heads", "merge of three, tied"])
def test_tokens_after_a_long_video_equal_those_of_hf_for_a_folder_that_hf_saved(
    name: str, tmp_path: Path, report: ParityReport
) -> None:
    both = pair(name)
    both.theirs.save_pretrained(tmp_path)
    loaded = Qwen25VL.from_pretrained(tmp_path)
    # The last slices stand after the text that follows them; new tokens continue the text, not the slices.
    inputs = make_inputs(both.spec, [[2, (2, 3), 4], [3, (9, 2, 2, 3.3), 8]], seed=3)
    ours = loaded.generate(**inputs.arrays, max_new_tokens=NEW_TOKENS, pad_token_id=PAD).asnumpy()
    np.testing.assert_array_equal(ours, _hf_generate(both, inputs))
    report.record("tokens compared", f"{name} | long video", 2 * NEW_TOKENS)


@pytest.mark.parametrize("name", ["tied, two full blocks", "merge of three, tied"])
def test_stop_tokens_and_padding_equal_hf(name: str, report: ParityReport) -> None:
    both = pair(name)
    inputs = make_inputs(both.spec, CASES["mixed, padded left"], seed=3)
    free = _hf_generate(both, inputs)[:, inputs.mask.shape[1] :]
    # One row stops at its tenth new token, or earlier; the others where they meet it, or not at all.
    stops = (int(free[0, 9]), int(free[2, 20]))
    ours = both.ours.generate(
        **inputs.arrays, max_new_tokens=NEW_TOKENS, eos_token_id=stops, pad_token_id=PAD
    ).asnumpy()
    theirs = _hf_generate(both, inputs, eos_token_id=list(stops))
    assert (theirs == PAD).sum() > (inputs.arrays["input_ids"] == PAD).sum(), "no row stopped early"
    np.testing.assert_array_equal(ours, theirs)
    report.record("tokens compared", f"{name} | stop tokens", theirs.size - inputs.mask.size)


def test_repetition_penalty_equals_hf(report: ParityReport) -> None:
    # One row: HF counts padding as a token that was seen, we do not.
    both = pair("no grouping, window of three units")
    inputs = make_inputs(both.spec, CASES["image"], seed=3)
    free = _hf_generate(both, inputs)
    penalised = _hf_generate(both, inputs, repetition_penalty=1.3)
    assert (free != penalised).any(), "the penalty changes nothing here"
    ours = both.ours.generate(**inputs.arrays, max_new_tokens=NEW_TOKENS, repetition_penalty=1.3).asnumpy()
    np.testing.assert_array_equal(ours, penalised)
    report.record("tokens compared", "repetition penalty", NEW_TOKENS)


def test_the_least_number_of_new_tokens_equals_hf(report: ParityReport) -> None:
    both = pair("tied, two full blocks")
    inputs = make_inputs(both.spec, CASES["mixed, padded left"], seed=3)
    free = _hf_generate(both, inputs)[:, inputs.mask.shape[1] :]
    stops = [int(free[0, 4]), int(free[2, 9])]
    theirs = _hf_generate(both, inputs, eos_token_id=stops, min_new_tokens=20)
    assert (theirs != _hf_generate(both, inputs, eos_token_id=stops)[:, : theirs.shape[1]]).any()
    ours = both.ours.generate(
        **inputs.arrays, max_new_tokens=NEW_TOKENS, eos_token_id=stops, min_new_tokens=20, pad_token_id=PAD
    ).asnumpy()
    np.testing.assert_array_equal(ours, theirs)
    report.record("tokens compared", "least number of new tokens", theirs.size - inputs.mask.size)


def test_scores_of_seen_tokens_are_those_of_the_processors_of_hf() -> None:
    from qvl_core.generate import sampling
    from transformers.generation.logits_process import (
        MinNewTokensLengthLogitsProcessor,
        RepetitionPenaltyLogitsProcessor,
    )

    rng = np.random.default_rng(12)
    for penalty in (0.7, 1.05, 2.0):
        for _ in range(20):
            scores = (3 * rng.standard_normal(300)).astype(np.float32)
            seen = rng.integers(0, 300, 40)
            ids, theirs = torch.from_numpy(seen)[None], torch.from_numpy(scores)[None]
            expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, theirs.clone())
            ours = sampling.penalise_repetition(scores, seen, penalty)
            np.testing.assert_array_equal(ours, expected.numpy()[0])
            expected = MinNewTokensLengthLogitsProcessor(40, 1, [3, 7], "cpu")(ids, expected)
            np.testing.assert_array_equal(sampling.hide(ours, (3, 7)), expected.numpy()[0])


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.7}, {"temperature": 2.0, "top_k": 7}, {"top_p": 0.8}, {"top_k": 40, "top_p": 0.5}],
    ids=str,
)
def test_sampling_keeps_the_probabilities_of_hf(options: dict[str, float], report: ParityReport) -> None:
    from qvl_core.generate import sampling
    from transformers import GenerationConfig
    from transformers.generation.logits_process import (
        LogitsProcessorList,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    makers = {"temperature": TemperatureLogitsWarper, "top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper}
    theirs = LogitsProcessorList(makers[name](value) for name, value in options.items())
    assert GenerationConfig(**options) is not None
    choice = GenerationOptions(do_sample=True, **options)
    rng = np.random.default_rng(11)
    for _ in range(50):
        scores = (3 * rng.standard_normal(500)).astype(np.float32)
        expected = torch.softmax(theirs(torch.zeros((1, 1), dtype=torch.long), torch.from_numpy(scores)[None])[0], -1)
        kept = sampling.keep_top_p(
            sampling.keep_top_k(scores / np.float32(choice.temperature), choice.top_k), choice.top_p
        )
        found = sampling.probabilities(kept)
        np.testing.assert_array_equal(found > 0, expected.numpy() > 0)
        report.record(
            "sampling probabilities, largest difference", str(options), np.abs(found - expected.numpy()).max()
        )
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from([2, 5, 60, 700]),
    spread=st.sampled_from([0.0, 0.1, 3.0, 40.0]),
    levels=st.none() | st.integers(1, 6),
    penalty=st.sampled_from([0.3, 0.9, 1.0, 1.3, 5.0]),
    least=st.sampled_from([0, 2, 3, 9]),
    temperature=st.sampled_from([1e-3, 0.1, 0.7, 1.0, 2.0, 1e4]),
    top_k=st.sampled_from([0, 1, 2, 3, 50, 700, 10**6]),
    top_p=st.sampled_from([0.0, 1e-9, 0.1, 0.5, 0.9, 0.999, 1.0]),
)
def test_scores_are_those_of_the_processors_that_hf_generate_puts_together(
    seed: int, size: int, spread: float, levels: int | None, penalty: float, least: int, temperature: float,
    top_k: int, top_p: float,
) -> None:  # fmt: skip
    from qvl_core.generate import sampling
    from transformers import GenerationConfig
    from transformers.generation.logits_process import LogitsProcessorList

    rng = np.random.default_rng(seed)
    scores = (spread * rng.standard_normal(size)).astype(np.float32)
    if levels is not None:
        # Few values, so that many scores are tied.
        scores = rng.choice(scores, levels)[rng.integers(0, levels, size)]
    prompt, new = rng.integers(0, size, 4), rng.integers(0, size, 2)
    stops = [int(rng.integers(0, size)), size + 7]
    config = GenerationConfig(
        do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=penalty,
        min_new_tokens=least, max_new_tokens=20, eos_token_id=stops, pad_token_id=0,
    )  # fmt: skip
    theirs_model = pair("no grouping, window of three units").theirs
    theirs_model._prepare_special_tokens(config, device=torch.device("cpu"))
    processors = theirs_model._get_logits_processor(
        generation_config=config, input_ids_seq_length=len(prompt), logits_processor=LogitsProcessorList(), device="cpu"
    )
    seen = np.concatenate((prompt, new))
    theirs = processors(torch.from_numpy(seen)[None], torch.from_numpy(scores)[None].clone())[0].numpy()
    options = GenerationOptions(
        do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=penalty,
        min_new_tokens=least, eos_token_id=tuple(stops),
    )  # fmt: skip
    ours = sampling.processed(scores, seen, options, new_tokens=len(new))
    # Which of tied tokens top-p leaves out is up to torch's sort.
    ours_kept, theirs_kept = (np.sort(found[np.isfinite(found)]) for found in (ours, theirs))
    if len(ours_kept) != len(theirs_kept):
        # One token that only rounding decides about: the sums are float32 there. With it, or without, it is just p.
        before = sampling.processed(scores, seen, replace(options, top_p=1.0), new_tokens=len(new))
        fewest = min(len(ours_kept), len(theirs_kept))
        best = np.sort(sampling.probabilities(before))[::-1]
        assert abs(len(ours_kept) - len(theirs_kept)) == 1
        assert abs(best[:fewest].sum() - top_p) < 1e-5
        ours_kept, theirs_kept = ours_kept[-fewest:], theirs_kept[-fewest:]
    np.testing.assert_array_equal(ours_kept, theirs_kept)


def _hf_generate(both: Pair, inputs: Inputs, **options: object) -> NDArray[np.int64]:
    both.theirs.model.rope_deltas = None
    with torch.no_grad():
        result = both.theirs.generate(
            **inputs.for_hf(), max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=PAD, **options
        )
    return result.numpy()
