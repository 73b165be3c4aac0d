"""Saying aloud, once, that a kernel does something slower or different than asked."""

from __future__ import annotations

import logging
import threading
from functools import cache

from mindspore.ops import constexpr

_LOG = logging.getLogger(__name__)
# A cached function is called twice where two threads come at once.
_ONE_AT_A_TIME = threading.RLock()


@cache
def _warn(text: str) -> bool:
    _LOG.warning(text)
    return True


# constexpr: jit runs it while compiling, where it cannot call a logger.
@constexpr
def warn_once(text: str) -> bool:
    """Write the warning to the log, the first time that this text comes to this process; works inside jit too."""
    with _ONE_AT_A_TIME:
        return _warn(text)
