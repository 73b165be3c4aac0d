"""Saying aloud, once, that a kernel does something slower or different than asked."""

from __future__ import annotations

import logging
from functools import cache

from mindspore.ops import constexpr

_LOG = logging.getLogger(__name__)


@cache
def _warn(text: str) -> bool:
    _LOG.warning(text)
    return True


# constexpr: jit runs it while compiling, where it cannot call a logger.
@constexpr
def warn_once(text: str) -> bool:
    """Write the warning to the log, the first time that this text comes; works inside jit too."""
    return _warn(text)
