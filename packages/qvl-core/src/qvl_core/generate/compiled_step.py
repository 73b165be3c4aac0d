"""The text layers of a decoding step as one compiled function: on CPU half of a step's time is launching operations.

Legend: B slots of a step, D model width, S capacity of a slot, H head size.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor, nn

from qvl_core import kernels
from qvl_core.generate.cache import extend
from qvl_core.model.text import TextAttention, TextDecoder


class CompiledLayers(nn.Cell):
    """The layers of a decoder over a cache that is handed in, each layer's keys and values one after the other.

    Compiled once for each number of slots and size of the cache (about 0.08 s a layer), and again for other parameters.
    The weights are those of the model, not copies.
    """

    def __init__(self, decoder: TextDecoder) -> None:
        super().__init__(auto_prefix=False)
        self.layers = nn.CellList(list(decoder.layers), auto_prefix=False)
        self._count = len(self.layers)

    @ms.jit
    def construct(
        self, x_BD: Tensor, cos_BH: Tensor, sin_BH: Tensor, index: Tensor, bias_BS: Tensor, *cache: Parameter
    ) -> Tensor:
        """Do what `TextDecoder` does with a `DecodeStep`."""
        for i in range(self._count):
            layer = self.layers[i]
            normed_BD = layer.input_layernorm(x_BD)
            x_BD = x_BD + self._attend(
                layer.self_attn, normed_BD, cos_BH, sin_BH, index, bias_BS, cache[2 * i], cache[2 * i + 1]
            )
            x_BD = x_BD + layer.mlp(layer.post_attention_layernorm(x_BD))
        return x_BD

    def _attend(
        self, attention: TextAttention, x_BD: Tensor, cos_BH: Tensor, sin_BH: Tensor, index: Tensor, bias_BS: Tensor,
        keys: Parameter, values: Parameter,
    ) -> Tensor:  # fmt: skip
        size = x_BD.shape[0]
        q_BNH = kernels.rope(attention.q_proj(x_BD).reshape(size, -1, attention.head_dim), cos_BH, sin_BH)
        k_BKH = kernels.rope(attention.k_proj(x_BD).reshape(size, -1, attention.head_dim), cos_BH, sin_BH)
        v_BKH = attention.v_proj(x_BD).reshape(size, -1, attention.head_dim)
        out_BNH = extend(keys, values, index, bias_BS, q_BNH, k_BKH, v_BKH, attention.scale)
        return attention.o_proj(out_BNH.reshape(size, -1))
