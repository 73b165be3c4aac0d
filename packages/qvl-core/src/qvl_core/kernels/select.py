"""The choice between reference and Ascend kernels: the only code that asks for the device.

The choice is a frozen table. `qvl_core.kernels` takes its functions from the table of `QVL_KERNELS` (auto, reference,
ascend, reference:attention,rope for auto with these kernels in the reference form, or bsnd:attention for ascend with
the other form of that kernel) once, at import, so that nothing changes under a compiled function. To bisect a
difference on a device set QVL_KERNELS=reference, then name kernels; to have two tables at once (as the conformance
suite does) call `use` and keep what it returns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, Protocol, cast

from mindspore import Parameter, Tensor

from qvl_core.device import current_device
from qvl_core.errors import InputError, NotInstalledError, Problem
from qvl_core.input_file import printable
from qvl_core.kernels.activations import gelu_ascend, gelu_reference, swiglu_ascend, swiglu_reference
from qvl_core.kernels.adamw import adamw_update_ascend, adamw_update_reference
from qvl_core.kernels.attention import attention_ascend, attention_reference
from qvl_core.kernels.attention_bsnd import attention_bsnd_ascend
from qvl_core.kernels.cross_entropy import cross_entropy_ascend, cross_entropy_reference
from qvl_core.kernels.decode_attention import decode_attention_ascend, decode_attention_reference
from qvl_core.kernels.flat import (
    deal_ascend,
    deal_reference,
    join_ascend,
    join_reference,
    sum_of_squares_ascend,
    sum_of_squares_reference,
)
from qvl_core.kernels.linear import (
    embedding_ascend,
    embedding_reference,
    linear_ascend,
    linear_reference,
    patch_embed_ascend,
    patch_embed_reference,
)
from qvl_core.kernels.merge_tokens import merge_tokens_ascend, merge_tokens_reference
from qvl_core.kernels.rms_norm import rms_norm_ascend, rms_norm_reference
from qvl_core.kernels.rope import rope_ascend, rope_reference
from qvl_core.kernels.segments import Segments
from qvl_core.kernels.split_qkv import split_qkv_ascend, split_qkv_reference

Choice = Literal["auto", "reference", "ascend", "bsnd"]

KERNELS_VARIABLE = "QVL_KERNELS"


class LinearKernel(Protocol):
    """y = x W^T + b."""

    def __call__(self, x: Tensor, weight_OI: Tensor, bias: Tensor | None = None) -> Tensor: ...


class AttentionKernel(Protocol):
    """Attention inside segments."""

    def __call__(
        self, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, segments: Segments, *, causal: bool, scale: float
    ) -> Tensor: ...


class DecodeAttentionKernel(Protocol):
    """Attention of one new token per sequence over a cache."""

    def __call__(
        self, q_BNH: Tensor, keys_BKSH: Tensor, values_BKSH: Tensor, bias_BS: Tensor, *, scale: float
    ) -> Tensor: ...


class AdamWKernel(Protocol):
    """One AdamW update in place."""

    def __call__(
        self,
        parameter: Parameter,
        moment1: Parameter,
        moment2: Parameter,
        gradient: Tensor,
        *,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        step: int,
    ) -> None: ...


@dataclass(frozen=True, kw_only=True)
class KernelTable:
    """One function for each kernel; every table has the same signatures."""

    name: Literal["reference", "ascend"]
    embedding: Callable[[Tensor, Tensor], Tensor]
    linear: LinearKernel
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    swiglu: Callable[[Tensor, Tensor], Tensor]
    gelu: Callable[[Tensor], Tensor]
    split_qkv: Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]]
    rope: Callable[[Tensor, Tensor, Tensor], Tensor]
    attention: AttentionKernel
    decode_attention: DecodeAttentionKernel
    cross_entropy: Callable[[Tensor, Tensor], Tensor]
    patch_embed: Callable[[Tensor, Tensor], Tensor]
    merge_tokens: Callable[[Tensor, Tensor, Tensor], Tensor]
    adamw_update: AdamWKernel
    join: Callable[[Sequence[Tensor]], Tensor]
    deal: Callable[[Tensor, Sequence[Parameter]], None]
    sum_of_squares: Callable[[Sequence[Tensor]], float]


def use(choice: Choice = "auto", plain: Sequence[str] = ()) -> KernelTable:
    """Return the table of the choice, with the `plain` kernels in their reference form; "auto" is the device's own.

    "bsnd" is "ascend" with attention in its BSND form. Raises NotInstalledError for either on CPU.
    """
    reference = reference_table()
    return replace(_chosen(choice), **{name: getattr(reference, name) for name in plain})


def _chosen(choice: Choice) -> KernelTable:
    device = current_device()
    if choice == "auto":
        return ascend_table() if device == "ascend" else reference_table()
    if choice in ("ascend", "bsnd") and device != "ascend":
        raise NotInstalledError(
            f"the Ascend kernels need an Ascend device; this process runs on {device}\n"
            f"  fix: use the reference kernels ({KERNELS_VARIABLE}=reference), which run on both"
        )
    if choice == "bsnd":
        return bsnd_table()
    return ascend_table() if choice == "ascend" else reference_table()


def requested() -> tuple[Choice, tuple[str, ...]]:
    """Return the choice in the environment and its plain kernels; "auto" and none where nothing or blanks are set.

    Raises InputError for an unknown choice or kernel.
    """
    text = os.environ.get(KERNELS_VARIABLE, "").strip() or "auto"
    choice, colon, rest = text.partition(":")
    if text == "bsnd:attention":
        return "bsnd", ()
    if choice not in ("auto", "reference", "ascend") or (colon and choice != "reference"):
        raise _wrong(
            f"is {printable(text, 60)!r}", "set it to auto, reference, reference:KERNEL,..., bsnd:attention or ascend"
        )
    if not colon:
        return cast(Choice, choice), ()
    plain = tuple(name.strip() for name in rest.split(","))
    known = [field.name for field in fields(KernelTable) if field.name != "name"]
    if unknown := [name for name in plain if name not in known]:
        raise _wrong(f"names {printable(unknown[0], 60)!r}, which is no kernel", f"one of {', '.join(known)}")
    return "auto", plain


def _wrong(message: str, fix: str) -> InputError:
    return InputError(Problem(where=f"{KERNELS_VARIABLE} of this shell", message=message, fix=fix))


def reference_table() -> KernelTable:
    """Return the plain forms, which run on every device."""
    return KernelTable(
        name="reference",
        embedding=embedding_reference,
        linear=linear_reference,
        rms_norm=rms_norm_reference,
        swiglu=swiglu_reference,
        gelu=gelu_reference,
        split_qkv=split_qkv_reference,
        rope=rope_reference,
        attention=attention_reference,
        decode_attention=decode_attention_reference,
        cross_entropy=cross_entropy_reference,
        patch_embed=patch_embed_reference,
        merge_tokens=merge_tokens_reference,
        adamw_update=adamw_update_reference,
        join=join_reference,
        deal=deal_reference,
        sum_of_squares=sum_of_squares_reference,
    )


def ascend_table() -> KernelTable:
    """Return the fused forms, which run on Ascend only. Not verified on a device."""
    return KernelTable(
        name="ascend",
        embedding=embedding_ascend,
        linear=linear_ascend,
        rms_norm=rms_norm_ascend,
        swiglu=swiglu_ascend,
        gelu=gelu_ascend,
        split_qkv=split_qkv_ascend,
        rope=rope_ascend,
        attention=attention_ascend,
        decode_attention=decode_attention_ascend,
        cross_entropy=cross_entropy_ascend,
        patch_embed=patch_embed_ascend,
        merge_tokens=merge_tokens_ascend,
        adamw_update=adamw_update_ascend,
        join=join_ascend,
        deal=deal_ascend,
        sum_of_squares=sum_of_squares_ascend,
    )


def bsnd_table() -> KernelTable:
    """Return the fused forms with full attention by masks in the BSND layout. Not verified on a device."""
    return replace(ascend_table(), attention=attention_bsnd_ascend)
