"""Run the model for generation: prompts into slots, then one token for each slot in use and step.

The engine knows slots, positions and the cache; it does not know requests, nor how tokens are chosen. Of a model that
is cut over processes each rank has an engine, which runs its part: all ranks of a replica make the same calls, the last
stage gets the scores. Replicas (dp) know nothing of each other.

On CPU a step is fast in two ways that cost something first, so both wait until a number of steps has shown that there
are many: the layers are compiled for the step's size, and the output head's weight is copied in the transposed layout,
which one row is multiplied by in less than half of the time. Neither changes a token. What is compiled reads the
weights of the model; the copy of the head is compared with them whenever a sequence comes to an empty cache.

A model in training may generate between two steps, on all ranks of its world: `borrowed_engine`.

Legend: B slots of a step, N prompts, D model width, V vocabulary.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from mindspore import Tensor, ops
from numpy.typing import NDArray

from qvl_core.answer_sizes import blocks
from qvl_core.batch import Batch
from qvl_core.device import current_device
from qvl_core.errors import InputError, Problem
from qvl_core.generate.cache import DecodeStep, KVCache, PrefillStep
from qvl_core.generate.compiled_step import CompiledLayers
from qvl_core.generate.head_copy import HeadCopy
from qvl_core.generate.prompts import join_prompts
from qvl_core.layout import Layout
from qvl_core.model.plan import Plan, plan_tokens
from qvl_core.model.qwen25vl import Qwen25VL
from qvl_core.parallel.single import SingleWorld
from qvl_core.parallel.vision_pass import vision_flow
from qvl_core.parallel.world import World
from qvl_core.stage_part import flow_after

# Steps after which compiling for a size, or copying the head, is worth it: each takes about what so many steps save.
PATIENCE = 32
# Sizes that are compiled at most: a layer of one takes some 2.6 MB.
MOST_COMPILED = 16
_NO_BFLOAT16 = Problem(
    where="model",
    key="dtype",
    message="is bfloat16, which MindSpore cannot multiply on CPU",
    fix='load it with dtype="float32"',
)

logger = logging.getLogger(__name__)


class Engine:
    """A model, or one rank's part of it, and the slots of its cache."""

    def __init__(
        self, model: Qwen25VL, slots: int, max_tokens: int, *, world: World | None = None, patience: int = PATIENCE
    ) -> None:
        """Hold at most `slots` sequences and `max_tokens` tokens, a multiple of the cache's blocks.

        The weights may change whenever no sequence is held. Raises InputError for a dtype that the device cannot
        multiply.
        """
        if model.dtype == "bfloat16" and current_device() == "cpu":
            raise InputError(_NO_BFLOAT16)
        self._model = model
        self._world = world or SingleWorld(Layout.single(model.spec))
        self._patience = patience
        self.cache = KVCache(slots, max_tokens)
        # Sums over ranks cannot be compiled, and an adapter's dropout is Python.
        compiles = current_device() == "cpu" and self._world.tensor.size == 1 and model.dropout is None
        self._compiled = CompiledLayers(model.model) if compiles and model.model is not None else None
        if current_device() == "cpu" and not compiles:
            reason = "the model is cut over a tensor group" if model.dropout is None else "it has unmerged adapters"
            logger.info("decoding steps are not compiled and take about twice the time: %s", reason)
        self._steps_of: Counter[tuple[int, int, int]] = Counter()
        self._sizes: set[tuple[int, int, int]] = set()
        self._steps = 0
        self._head: HeadCopy | None = None

    def clear(self, slots: int, max_tokens: int) -> None:
        """Forget all sequences, and take other bounds."""
        self.cache.clear(slots, max_tokens)

    def forget_head(self) -> None:
        """Free the copy of the output head; it is made again after as many steps as the first one."""
        self._head, self._steps = None, 0

    def runs_in(self, world: World | None) -> bool:
        """Tell whether the other parts of its model are those of this world."""
        return self._world is world or (world is None and isinstance(self._world, SingleWorld))

    def prefill(self, prompts: Sequence[Batch], slots: Sequence[int]) -> NDArray[np.float32] | None:
        """Run one-sample prompts into slots; give the scores [N, V] of each one's next token, None on other stages."""
        batch = join_prompts(prompts)
        if not self.cache.lengths.any():
            self._begin()
        step = self.cache.prefill(slots, batch.sequence_lengths)
        hidden_TD = self._advance(self._model.plan(batch), self._arrived(batch.tokens, batch.grid_patches), step)
        if hidden_TD is None:
            return None
        last_N = (np.cumsum(batch.sequence_lengths) - 1).astype(np.int32)
        return self._scores(ops.gather(hidden_TD, Tensor(last_N), 0))

    def decode(self, tokens_B: NDArray[np.int32], positions_3B: NDArray[np.int32]) -> NDArray[np.float32] | None:
        """Add a token to each of the first slots; give the scores [B, V] of the next ones, None on other stages."""
        count = len(tokens_B)
        step = self.cache.decode(count)
        empty = step.size - count
        plan = plan_tokens(np.pad(tokens_B, (0, empty)), np.pad(positions_3B, ((0, 0), (0, empty))), self._model.spec)
        self._steps += 1
        hidden_BD = self._advance(plan, self._arrived(step.size, 0), step)
        if hidden_BD is None:
            return None
        return self._scores(hidden_BD[:count] if empty else hidden_BD)

    def release(self, slot: int, last: int) -> None:
        """Empty a slot: the last one in use takes its place."""
        self.cache.release(slot, last)

    def agree(self, tokens: NDArray[np.int32]) -> NDArray[np.int32]:
        """Give every rank the tokens that were chosen where the scores are."""
        pipeline = self._world.pipeline
        if pipeline.size == 1:
            return tokens
        is_last = pipeline.index == pipeline.size - 1
        summed: NDArray[np.int32] = pipeline.sum(Tensor(tokens if is_last else np.zeros_like(tokens))).asnumpy()
        return summed

    def _begin(self) -> None:
        """Look at the model anew: since there was no sequence it may have been trained."""
        if self._head is not None and not self._head.is_of(self._model.head_weight):
            self.forget_head()
        if self._model.dropout is not None:
            # The last micro batch's masks; the next one sets its own.
            self._model.dropout.end()

    def _arrived(self, tokens: int, patches: int) -> Tensor | None:
        """Receive what the stage before made; None on the first stage, and before the text without media."""
        stage, layout, spec = self._world.place.pp, self._world.layout, self._model.spec
        if stage == 0:
            return None
        if flow_after(layout, stage - 1) == "text":
            shape = (tokens, spec.text.hidden_size)
        elif patches:
            shape = vision_flow(layout, stage - 1, patches, spec.vision)
        else:
            return None
        return self._world.receive(shape, self._model.dtype, stage - 1)

    def _advance(self, plan: Plan, arrived: Tensor | None, step: PrefillStep | DecodeStep) -> Tensor | None:
        """Run this part; give the last layer's output [., D] on the last stage, send on and give None before."""
        if isinstance(step, DecodeStep) and self._compiled is not None and self._is_worth(step):
            x = self._run_compiled(self._compiled, plan, arrived, step)
        else:
            x = self._model.advance(plan, arrived, step)
        stage = self._world.place.pp
        if stage == self._world.layout.pp - 1:
            return x
        if x is not None:
            self._world.send(x, stage + 1)
            self._world.finish_sends()
        return None

    def _is_worth(self, step: DecodeStep) -> bool:
        """Tell whether the layers are compiled for a step's size, or have been asked for often enough."""
        size = (step.size, self.cache.rows, self.cache.capacity)
        self._steps_of[size] += 1
        if size not in self._sizes and self._steps_of[size] > self._patience and len(self._sizes) < MOST_COMPILED:
            self._sizes.add(size)
        return size in self._sizes

    def _run_compiled(self, layers: CompiledLayers, plan: Plan, arrived: Tensor | None, step: DecodeStep) -> Tensor:
        decoder = self._model.model
        assert decoder is not None
        x_BD = arrived if decoder.embed_tokens is None or arrived is not None else decoder.embed_tokens(plan.ids_T)
        cache = [held for layer in self.cache.layers.values() for held in (layer.keys, layer.values)]
        return layers(x_BD, plan.cos_TH, plan.sin_TH, step.index, step.bias_BS, *cache)

    def _scores(self, hidden_BD: Tensor) -> NDArray[np.float32]:
        """Give the scores over the whole vocabulary, on every rank of the last stage."""
        if self._head is None and self._steps > self._patience and current_device() == "cpu":
            self._head = HeadCopy(self._model.head_weight)
        logits_BW = self._model.logits(hidden_BD, None if self._head is None else self._head.weight_DV).float()
        tensor = self._world.tensor
        if tensor.size > 1:
            parts_tBW = tensor.gather(logits_BW.reshape(-1)).reshape(tensor.size, *logits_BW.shape)
            logits_BW = parts_tBW.swapaxes(0, 1).reshape(logits_BW.shape[0], -1)
        scores: NDArray[np.float32] = logits_BW.asnumpy()
        return scores


@contextmanager
def borrowed_engine(model: Qwen25VL, slots: int, max_tokens: int, *, world: World | None = None) -> Iterator[Engine]:
    """Give the engine that the model keeps while none is in use, or a new one, and leave it with the model.

    The way to answer now and then, as between two steps of a training run: what is compiled is found again (MindSpore
    never frees compiled code, so an engine for each time would grow by some MB a layer), while the cache and the copy
    of the output head are freed. In a `world` all ranks of a replica do the same:

        with borrowed_engine(model, 8, 8 * 1024, world=world) as engine:
            scheduler = Scheduler(model, slots=8, max_tokens=8 * 1024, engine=engine)
            ...                                  # submit and step until it is idle

    `answer_all` does this itself. The model's state is of no concern: nothing depends on `set_train`, recomputation and
    frozen parts make no difference to a forward pass, dropout is switched off (the next micro batch sets its own
    masks), no random number of the process is drawn and no weight is written, so training goes on bit for bit as if
    nobody had asked. After an error the engine is not kept.
    """
    engine = take_engine(model, slots, blocks(max_tokens), world=world)
    yield engine
    engine.forget_head()
    give_back(engine, model)


def take_engine(model: Qwen25VL, slots: int, max_tokens: int, *, world: World | None = None) -> Engine:
    """Give the engine that the model keeps, if it is of this world, or a new one."""
    engine, model.idle_engine = model.idle_engine, None
    if engine is None or not engine.runs_in(world):
        return Engine(model, slots, max_tokens, world=world)
    engine.clear(slots, max_tokens)
    return engine


def give_back(engine: Engine, model: Qwen25VL) -> None:
    """Leave an engine with its model until the next time."""
    engine.clear(0, 0)
    model.idle_engine = engine
