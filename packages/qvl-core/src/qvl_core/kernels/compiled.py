"""Whether a kernel is being compiled by jit or run operation by operation."""

from __future__ import annotations

from mindspore.ops import constexpr


def _answer_of_the_compiler() -> bool:
    return True


class _IsCompiled(constexpr(_answer_of_the_compiler, get_instance=False)):  # type: ignore[misc]
    """jit asks the function while it compiles; a plain call comes here."""

    def __call__(self) -> bool:
        return False


is_compiled = _IsCompiled()
