"""The error boundary: whatever a command raises ends here as a short text on stderr and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import typer

from qvl_core.error_text import EXIT_INTERRUPTED, INTERRUPTED, explain
from qvl_core.errors import EXIT_FAILED, QvlError

# Usage errors. typer has carried its own copy of click since 0.26: the class is found from one that both export.
_CLICK_ERROR: type[Exception] = typer.BadParameter.__mro__[2]


def guarded(action: Callable[[], int], *, debug: bool = False) -> int:
    """Give the action's exit code, or that of its error after saying on stderr what happened.

    With `debug` the traceback is printed too. A closed pipe (`qvl show | head`) is quiet, exit 1.
    """
    try:
        code = action()
        # None: closed by whoever started us.
        if sys.stdout is not None:
            sys.stdout.flush()
        if code == EXIT_INTERRUPTED:
            # typer turns Ctrl-C into this exit code before it gets here, and says nothing.
            print(INTERRUPTED, file=sys.stderr)
    except BrokenPipeError:
        return _quiet_stdout()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else EXIT_FAILED if error.code else 0
    except typer.Abort:
        return _say(KeyboardInterrupt(), debug)
    except typer.Exit as error:
        return error.exit_code
    except _CLICK_ERROR as error:
        error.show()  # type: ignore[attr-defined]
        return int(getattr(error, "exit_code", EXIT_FAILED))
    except (Exception, KeyboardInterrupt) as error:  # the last resort: a person gets a sentence, not a stack
        # Ctrl-C in the middle of taking a lock surfaces as an error about the lock.
        return _say(KeyboardInterrupt() if _came_from_interrupt(error) else error, debug)
    return code


def _came_from_interrupt(error: BaseException | None) -> bool:
    """Tell whether an error that nobody raised on purpose came up while a KeyboardInterrupt was on its way."""
    if isinstance(error, QvlError):
        return False
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _say(error: BaseException, debug: bool) -> int:
    text, code = explain(error)
    if debug:
        import traceback

        traceback.print_exc()
    print(text, file=sys.stderr)
    return code


def _quiet_stdout() -> int:
    # What is still buffered would be written at exit and fail again, with a message of the interpreter's own.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return EXIT_FAILED
