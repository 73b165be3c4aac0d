"""The operations that the model is built from: one signature each, the form of the device behind it.

Shapes, one legend for all: B batch, T tokens, P patches, U vision units, D model, N heads, K kv heads, H head size,
F ffn, V vocabulary, C numbers in a patch, S segments or cache slots.
"""

from __future__ import annotations

from qvl_core.device import require_mindspore

# Before the first import of mindspore below: the device's environment has to stand by then.
require_mindspore()

from qvl_core.kernels import select as select  # noqa: E402
from qvl_core.kernels.cross_entropy import IGNORE_LABEL as IGNORE_LABEL  # noqa: E402
from qvl_core.kernels.segments import Segments as Segments  # noqa: E402
from qvl_core.kernels.segments import build_segments as build_segments  # noqa: E402

_TABLE = select.use(*select.requested())

# Tokens in and out
embedding = _TABLE.embedding
patch_embed = _TABLE.patch_embed
merge_tokens = _TABLE.merge_tokens
cross_entropy = _TABLE.cross_entropy

# Layers
linear = _TABLE.linear
rms_norm = _TABLE.rms_norm
swiglu = _TABLE.swiglu
gelu = _TABLE.gelu
split_qkv = _TABLE.split_qkv
rope = _TABLE.rope
attention = _TABLE.attention
decode_attention = _TABLE.decode_attention

# Training
adamw_update = _TABLE.adamw_update
join = _TABLE.join
deal = _TABLE.deal
sum_of_squares = _TABLE.sum_of_squares
