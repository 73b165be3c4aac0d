"""Run the model for generation: prompts into slots, then one token for each slot in use and step.

The engine knows slots, positions and the cache; it does not know requests, nor how tokens are chosen.

Legend: B slots in use, N prompts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from mindspore import Tensor, ops
from numpy.typing import NDArray

from qvl_core.batch import Batch
from qvl_core.generate.cache import KVCache
from qvl_core.generate.prompts import join_prompts
from qvl_core.model.plan import plan_tokens
from qvl_core.model.qwen25vl import Qwen25VL


class Runner(Protocol):
    """What a scheduler needs of a model: the whole of it (`Engine`), or one rank's part."""

    def prefill(self, prompts: Sequence[Batch], slots: Sequence[int]) -> NDArray[np.float32] | None:
        """Run one-sample prompts into slots; give the scores [N, V] of each one's next token, None on other stages."""
        ...

    def decode(self, tokens_B: NDArray[np.int32], positions_3B: NDArray[np.int32]) -> NDArray[np.float32] | None:
        """Add a token to each of the first slots; give the scores [B, V] of the next ones, None on other stages."""
        ...

    def release(self, slot: int, last: int) -> None:
        """Empty a slot: the last one in use takes its place."""
        ...

    def agree(self, tokens: NDArray[np.int32]) -> NDArray[np.int32]:
        """Give every rank the tokens that were chosen where the scores are."""
        ...


class Engine:
    """The whole model in this process."""

    def __init__(self, model: Qwen25VL, slots: int, max_tokens: int) -> None:
        self._model = model
        self.cache = KVCache(slots, max_tokens)

    def prefill(self, prompts: Sequence[Batch], slots: Sequence[int]) -> NDArray[np.float32]:
        """Run the prompts in one flat batch."""
        batch = join_prompts(prompts)
        step = self.cache.prefill(slots, batch.sequence_lengths)
        hidden_TD = self._model.hidden(self._model.plan(batch), step)
        last_N = (np.cumsum(batch.sequence_lengths) - 1).astype(np.int32)
        return self._scores(ops.gather(hidden_TD, Tensor(last_N), 0))

    def decode(self, tokens_B: NDArray[np.int32], positions_3B: NDArray[np.int32]) -> NDArray[np.float32]:
        """Run one step."""
        plan = plan_tokens(tokens_B, positions_3B, self._model.spec)
        return self._scores(self._model.hidden(plan, self.cache.decode(len(tokens_B))))

    def release(self, slot: int, last: int) -> None:
        """Copy inside the cache."""
        self.cache.release(slot, last)

    def agree(self, tokens: NDArray[np.int32]) -> NDArray[np.int32]:
        """Give the tokens themselves: nobody else is there."""
        return tokens

    def _scores(self, hidden_BD: Tensor) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self._model.logits(hidden_BD).float().asnumpy()
        return scores
