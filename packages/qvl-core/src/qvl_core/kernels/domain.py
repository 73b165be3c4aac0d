"""Where each fused operation may be called: the declared domains of the Ascend forms.

A domain is what the documentation of MindSpore and CANN allows and our calls need, whichever is narrower. Outside of it
the Ascend table runs the reference form and says so once. The sources are named at each entry; docs/ascend.md has them
as a table. Nothing here has been tried on a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from mindspore.ops import constexpr

from qvl_core.kernels.announce import warn_once

HALF = ("float16", "bfloat16")
FLOATS = (*HALF, "float32")
INDICES = ("int32", "int64")
UNLIMITED = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A size of the call: between `least` and `most`, both included, and a multiple of `multiple`."""

    name: str
    least: int = 1
    most: int = UNLIMITED
    multiple: int = 1

    def holds(self, size: int) -> bool:
        """Tell whether the size is inside."""
        return self.least <= size <= self.most and size % self.multiple == 0

    def describe(self) -> str:
        """Give the limit in words: "head size 16 to 512, a multiple of 16"."""
        span = f"of at least {self.least}" if self.most == UNLIMITED else f"{self.least} to {self.most}"
        return f"{self.name} {span}" + (f", a multiple of {self.multiple}" if self.multiple > 1 else "")


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What one fused operation takes. All its float inputs are of one dtype, one of `dtypes`.

    `limits` are in the order in which the kernel states its sizes; `indices` are the dtypes of its integer input.
    """

    kernel: str
    operation: str
    dtypes: tuple[str, ...]
    limits: tuple[Limit, ...]
    source: str
    indices: tuple[str, ...] = ()

    def refuse(self, dtypes: Sequence[Any], sizes: Sequence[int], indices: Sequence[Any] = ()) -> str:
        """Say why the operation cannot take these dtypes and sizes, "" where it can. No number of the call is in it."""
        names, index_names = [dtype_name(x) for x in dtypes], [dtype_name(x) for x in indices]
        if any(name not in self.dtypes for name in names):
            return self._sentence(f"takes {_listed(self.dtypes)} only")
        if len(set(names)) > 1:
            return self._sentence("wants inputs of one dtype")
        if any(name not in self.indices for name in index_names):
            return self._sentence(f"takes {_listed(self.indices)} indices only")
        broken = [x for x, size in zip(self.limits, sizes, strict=True) if not x.holds(size)]
        return self._sentence(f"wants a {broken[0].describe()}") if broken else ""

    def _sentence(self, what: str) -> str:
        return f"{self.kernel}: the fused form ({self.operation}) {what}; running the slower reference"


_DOMAINS = (
    # MindSpore: head size, heads, length of a sequence. CANN's aclnnFlashAttentionVarLenScore: heads, tokens of a call
    # (`Segments.fused_batches` splits by those and by MindSpore's 1024 sequences).
    Domain(
        kernel="attention", operation="ops.flash_attention_score", dtypes=HALF,
        limits=(
            Limit(name="head size", least=16, most=512, multiple=16), Limit(name="number of heads", most=256),
            Limit(name="longest segment", most=512 * 1024),
        ),
        source="mindspore.ops.flash_attention_score; CANN aclnnFlashAttentionVarLenScore",
    ),
    Domain(
        kernel="rms_norm", operation="ops.rms_norm", dtypes=FLOATS,
        limits=(Limit(name="number of rows"), Limit(name="width"), Limit(name="number of dims", most=8)),
        source="mindspore.ops.rms_norm; CANN aclnnRmsNorm",
    ),
    Domain(
        kernel="swiglu", operation="ops.swiglu", dtypes=FLOATS,
        limits=(Limit(name="number of rows"), Limit(name="width")), source="mindspore.ops.swiglu",
    ),
    # "D < 896 and D is even; B, N < 1000"; B is 1 here.
    Domain(
        kernel="rope", operation="ops.rotary_position_embedding", dtypes=FLOATS,
        limits=(
            Limit(name="number of tokens"), Limit(name="number of heads", most=999),
            Limit(name="head size", least=2, most=894, multiple=2),
        ),
        source="mindspore.ops.rotary_position_embedding",
    ),
    Domain(
        kernel="cross_entropy", operation="mint.nn.functional.cross_entropy", dtypes=FLOATS, indices=INDICES,
        limits=(Limit(name="number of tokens"), Limit(name="vocabulary")),
        source="mindspore.mint.nn.functional.cross_entropy",
    ),
    Domain(
        kernel="patch_embed", operation="mint.nn.functional.linear", dtypes=FLOATS,
        limits=(Limit(name="number of patches"), Limit(name="width")), source="mindspore.mint.nn.functional.linear",
    ),
    # ops.Adam takes float16 too, in which no training of ours keeps moments.
    Domain(
        kernel="adamw_update", operation="ops.Adam", dtypes=("float32",), limits=(Limit(name="number of elements"),),
        source="mindspore.ops.Adam",
    ),
)  # fmt: skip

DOMAINS = MappingProxyType({domain.kernel: domain for domain in _DOMAINS})

# Forms that are only run where they are asked for. The BSND layout has no other limits than TND; a call of it holds one
# segment of any length without a mask, or several in at most 2048 rows with one.
OTHER_FORMS = MappingProxyType(
    {
        "attention_bsnd": replace(
            DOMAINS["attention"], kernel="attention_bsnd", source="mindspore.ops.flash_attention_score, layout BSND"
        )
    }
)


# constexpr: jit asks while it compiles, dtypes and shapes being constants to it.
@constexpr
def _refusal(kernel: str, dtypes: tuple[Any, ...], sizes: tuple[int, ...], indices: tuple[Any, ...]) -> str:
    domain = DOMAINS[kernel] if kernel in DOMAINS else OTHER_FORMS[kernel]
    return domain.refuse(dtypes, sizes, indices)


def is_outside(kernel: str, dtypes: tuple[Any, ...], sizes: tuple[int, ...], indices: tuple[Any, ...] = ()) -> bool:
    """Tell whether the call is outside of the kernel's domain; the first time that it is, say so in the log."""
    refusal = _refusal(kernel, dtypes, sizes, indices)
    if refusal:
        warn_once(refusal)
        return True
    return False


def dtype_name(dtype: Any) -> str:
    """Give the name of a MindSpore dtype as numpy spells it: "float16"."""
    return str(dtype).lower().removeprefix("mindspore.")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
