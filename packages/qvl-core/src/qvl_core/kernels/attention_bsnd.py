"""A second Ascend form of attention, for devices that refuse full attention without a mask in the TND layout.

Not verified on a device, and slower: a mask of rows by rows says which tokens share a segment, and every score of a
call is computed, also those that it hides. `QVL_KERNELS=bsnd:attention` chooses it. MindSpore's page documents each of
its calls: layout BSND, `sparse_mode` 1 with the complete mask, or 0 without one where nothing is hidden. Causal
attention is documented in TND with its triangle and stays there.
"""

from __future__ import annotations

from mindspore import Tensor, mint, ops

from qvl_core.kernels.attention import attention_ascend, attention_reference, longest, require_fit
from qvl_core.kernels.domain import is_outside
from qvl_core.kernels.segments import Segments

# ruff: noqa: RUF005 - jit reads neither [*pieces, piece] nor append.


def attention_bsnd_ascend(
    q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, segments: Segments, *, causal: bool, scale: float
) -> Tensor:
    """Return attention inside segments, [T, N, H]: full with masks in BSND, causal as `attention_ascend` does it."""
    if causal:
        return attention_ascend(q_TNH, k_TKH, v_TKH, segments, causal=causal, scale=scale)
    sizes = (q_TNH.shape[2], q_TNH.shape[1], longest(segments))
    if is_outside("attention_bsnd", (q_TNH.dtype, k_TKH.dtype, v_TKH.dtype), sizes):
        return attention_reference(q_TNH, k_TKH, v_TKH, segments, causal=causal, scale=scale)
    require_fit(q_TNH.shape, k_TKH.shape, v_TKH.shape, segments)
    pieces: list[Tensor] = []
    for i in range(len(segments.masked_batches)):
        first, last = segments.masked_batches[i]
        mask = segments.segment_masks[i]
        piece = ops.flash_attention_score(
            q_TNH[first:last].expand_dims(0),
            k_TKH[first:last].expand_dims(0),
            v_TKH[first:last].expand_dims(0),
            q_TNH.shape[1],
            attn_mask=mask,
            scalar_value=float(scale),
            input_layout="BSND",
            sparse_mode=0 if mask is None else 1,
        )
        pieces = pieces + [piece.squeeze(0)]
    return pieces[0] if len(pieces) == 1 else mint.cat(pieces, 0)
