"""How programs of this package are started: as modules that nothing in the working directory can stand in for."""

from __future__ import annotations

import sys

# `python -m` and `python -c` look for modules in the working directory first, and -P exists from Python 3.11 on only.
_START = "import sys; sys.path[:1] = sys.path[:1] if sys.path[0] else []; from {module} import main; sys.exit(main())"


def child_command(module: str, *arguments: str) -> tuple[str, ...]:
    """Give the command that runs `main()` of a module in a new interpreter; `sys.argv` has the arguments."""
    return (sys.executable, "-c", _START.format(module=module), *arguments)
