"""Run the model for generation: prompts in at once, then one token for each sequence and step.

The engine knows slots, positions and the cache; it does not know how tokens are chosen. A server's scheduler would fill
and empty slots here.

Legend: B sequences, V vocabulary.
"""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, ops
from numpy.typing import NDArray

from qvl_core.generate.cache import KVCache
from qvl_core.model.inputs import Prompt
from qvl_core.model.plan import plan_tokens
from qvl_core.model.qwen25vl import Qwen25VL


class Engine:
    """One batch of sequences being extended."""

    def __init__(self, model: Qwen25VL, prompt: Prompt) -> None:
        self._model = model
        self._prompt = prompt
        self._cache = KVCache(len(prompt.batch.sequence_lengths))
        self._positions = prompt.next_positions

    def prefill(self) -> NDArray[np.float32]:
        """Run the prompts, give the scores [B, V] of each one's next token."""
        batch = self._prompt.batch
        hidden_TD = self._model.hidden(self._model.plan(batch), self._cache.prefill(batch.sequence_lengths))
        return self._scores(ops.gather(hidden_TD, Tensor(self._prompt.last_rows), 0))

    def step(self, tokens_B: NDArray[np.int32], active_B: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Add a token to each active sequence, give the scores [B, V] of the next one; rows not active mean nothing."""
        plan = plan_tokens(tokens_B, self._positions, self._model.spec)
        hidden_BD = self._model.hidden(plan, self._cache.decode(active_B))
        self._positions = (self._positions + active_B).astype(np.int32)
        return self._scores(hidden_BD)

    def _scores(self, hidden_BD: Tensor) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self._model.logits(hidden_BD).float().asnumpy()
        return scores
