"""Choose the next token of one row from its scores. Pure numpy on the host.

Order and meaning are those of HF `generate`: repetition penalty, the least number of new tokens, then, only when
sampling, temperature, top-k, top-p.

Legend: V vocabulary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qvl_core.generate.options import GenerationOptions

Scores = NDArray[np.float32]


def choose_token(
    scores_V: Scores,
    seen_ids: NDArray[np.integer],
    options: GenerationOptions,
    generator: np.random.Generator,
    *,
    new_tokens: int = 0,
) -> int:
    """Give the id of the next token.

    `seen_ids` are the row's prompt and new tokens, without padding; `new_tokens` counts the latter.
    """
    scores_V = processed(scores_V, seen_ids, options, new_tokens=new_tokens)
    return draw(scores_V, generator) if options.samples else int(scores_V.argmax())


def processed(
    scores_V: Scores, seen_ids: NDArray[np.integer], options: GenerationOptions, *, new_tokens: int
) -> Scores:
    """Give the scores that the token is chosen by, as HF's logits processors make them; -inf for what is left out."""
    scores_V = penalise_repetition(scores_V, seen_ids, options.repetition_penalty)
    if new_tokens < options.min_new_tokens:
        scores_V = hide(scores_V, options.stop_ids)
    if not options.samples:
        return scores_V
    scores_V = keep_top_k(cool(scores_V, options.temperature), options.top_k)
    return keep_top_p(scores_V, options.top_p)


def row_generator(seed: int, row: int) -> np.random.Generator:
    """Give the random stream of one row; it does not depend on how many other rows there are."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, row], np.uint64)))


def penalise_repetition(scores_V: Scores, seen_ids: NDArray[np.integer], penalty: float) -> Scores:
    """Divide positive scores of seen tokens by the penalty and multiply negative ones. CTRL (arXiv 1909.05858), 4.1.

    HF counts the padding of a left-padded row as seen; we do not, so that a row does not depend on its neighbours.
    """
    if penalty == 1.0:
        return scores_V
    scores_V = scores_V.copy()
    seen = np.unique(seen_ids)
    values, factor = scores_V[seen], np.float32(penalty)
    scores_V[seen] = np.where(values < 0, values * factor, values / factor)
    return scores_V


def hide(scores_V: Scores, ids: tuple[int, ...]) -> Scores:
    """Set the scores of these tokens to -inf; an id outside of the vocabulary, which is never chosen, has none."""
    scores_V = scores_V.copy()
    scores_V[[one for one in ids if 0 <= one < len(scores_V)]] = -np.inf
    return scores_V


def cool(scores_V: Scores, temperature: float) -> Scores:
    """Divide by the temperature.

    Where float32 has no room for it, the best score is put at 0 first, which changes no probability.
    """
    limits = np.finfo(np.float32)
    largest = float(np.abs(scores_V[np.isfinite(scores_V)]).max(initial=0.0))
    if limits.tiny <= temperature <= limits.max and largest < temperature * float(limits.max):
        return scores_V / np.float32(temperature)
    with np.errstate(over="ignore"):
        return ((scores_V.astype(np.float64) - scores_V.max()) / temperature).astype(np.float32)


def keep_top_k(scores_V: Scores, count: int) -> Scores:
    """Set all but the `count` best scores to -inf; ties with the last one kept stay."""
    if count == 0 or count >= len(scores_V):
        return scores_V
    threshold = np.partition(scores_V, -count)[-count]
    return np.where(scores_V < threshold, np.float32(-np.inf), scores_V)


def keep_top_p(scores_V: Scores, probability: float) -> Scores:
    """Set to -inf the worst tokens whose probabilities add up to at most 1 - `probability`; the best one stays."""
    if probability >= 1.0:
        return scores_V
    order = np.argsort(scores_V, kind="stable")
    below = np.cumsum(probabilities(scores_V)[order]) <= 1.0 - probability
    below[-1] = False
    kept_V = scores_V.copy()
    kept_V[order[below]] = -np.inf
    return kept_V


def draw(scores_V: Scores, generator: np.random.Generator) -> int:
    """Draw a token with the softmax of the scores as probability; uses exactly one random number."""
    cumulative = np.cumsum(probabilities(scores_V))
    # Against the last sum, not 1: rounding may leave it a little below, and the draw must hit a token.
    return int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))


def probabilities(scores_V: Scores) -> NDArray[np.float64]:
    """Give the softmax in float64: the sum over 150 000 tokens decides where a draw falls."""
    exponentials = np.exp((scores_V - scores_V.max()).astype(np.float64))
    total: NDArray[np.float64] = exponentials / exponentials.sum()
    return total
