"""The error boundary: whatever a command raises ends here as a short text on stderr and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import typer

from qvl_core.errors import EXIT_FAILED, InputError, NotInstalledError, QvlError, RunError

# 128 + SIGINT, as shells and job systems expect it.
EXIT_INTERRUPTED = 130

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
    except BrokenPipeError:
        return _quiet_stdout()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else EXIT_FAILED if error.code else 0
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted", EXIT_INTERRUPTED, debug)
    except typer.Exit as error:
        return error.exit_code
    except QvlError as error:
        return _say(_text(error), error.exit_code, debug)
    except OSError as error:
        return _say(_system_text(error), EXIT_FAILED, debug)
    except MemoryError:
        return _say("qvl: out of memory on this machine", EXIT_FAILED, debug)
    except _CLICK_ERROR as error:
        error.show()  # type: ignore[attr-defined]
        return int(getattr(error, "exit_code", EXIT_FAILED))
    except Exception as error:  # the last resort: a person gets a sentence, not a stack
        return _say(_bug_text(error), EXIT_FAILED, debug)
    return code


def _say(text: str, code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    print(text, file=sys.stderr)
    return code


def _text(error: QvlError) -> str:
    if isinstance(error, InputError) and len(error.problems) > 1:
        return f"{error}\n\n{len(error.problems)} problems"
    if isinstance(error, (NotInstalledError, RunError)):
        return f"qvl: {error}"
    return str(error)


def _system_text(error: OSError) -> str:
    what = error.strerror or str(error) or type(error).__name__
    return f"qvl: {error.filename}: {what}" if error.filename else f"qvl: {what}"


def _bug_text(error: Exception) -> str:
    first = next(iter(str(error).splitlines()), "")
    return (
        f"qvl: {type(error).__name__}: {first[:500]}\n"
        "  this is a bug in qvl, not in your recipe\n"
        "  fix: run the command again with --debug, and report its output together with that of `qvl doctor`"
    )


def _quiet_stdout() -> int:
    # What is still buffered would be written at exit and fail again, with a message of the interpreter's own.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return EXIT_FAILED
