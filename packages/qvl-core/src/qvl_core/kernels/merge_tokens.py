"""Placing vision features among the text embeddings. Shapes: T tokens, U vision units, D model."""

from __future__ import annotations

from mindspore import Tensor, mint, ops


def merge_tokens_reference(text_TD: Tensor, vision_UD: Tensor, index_T: Tensor) -> Tensor:
    """Return [T, D]: row index_T[t] of the text rows followed by the vision rows.

    The host builds the index: t for a text token, T + u where vision unit u stands. One gather has a right gradient
    on every MindSpore we support, which none of the masked writes has.
    """
    if vision_UD.shape[0] == 0:
        return text_TD
    return ops.gather(mint.cat((text_TD, vision_UD), 0), index_T, 0)


def merge_tokens_ascend(text_TD: Tensor, vision_UD: Tensor, index_T: Tensor) -> Tensor:
    """Return the same: a gather is what the device is good at, so there is no other form."""
    return merge_tokens_reference(text_TD, vision_UD, index_T)
