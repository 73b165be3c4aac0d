"""What people are told about an error, and the exit code that goes with it: the same on a terminal and in a worker."""

from __future__ import annotations

from qvl_core.errors import EXIT_FAILED, InputError, NotInstalledError, QvlError, RunError

# 128 + SIGINT, as shells and job systems expect it.
EXIT_INTERRUPTED = 130
INTERRUPTED = "interrupted"


def explain(error: BaseException) -> tuple[str, int]:
    """Give the text and the exit code of an error; one that is no `QvlError` and not the system's is called a bug."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, EXIT_INTERRUPTED
    if isinstance(error, QvlError):
        return _text(error), error.exit_code
    if isinstance(error, OSError):
        return _system_text(error), EXIT_FAILED
    if isinstance(error, MemoryError):
        return "qvl: out of memory on this machine", EXIT_FAILED
    return _bug_text(error), EXIT_FAILED


def _text(error: QvlError) -> str:
    if isinstance(error, InputError) and len(error.problems) > 1:
        return f"{error}\n\n{len(error.problems)} problems"
    if isinstance(error, (NotInstalledError, RunError)):
        return f"qvl: {error}"
    return str(error)


def _system_text(error: OSError) -> str:
    what = error.strerror or str(error) or type(error).__name__
    return f"qvl: {error.filename}: {what}" if error.filename else f"qvl: {what}"


def _bug_text(error: BaseException) -> str:
    first = next(iter(str(error).splitlines()), "")
    return (
        f"qvl: {type(error).__name__}: {first[:500]}\n"
        "  this is a bug in qvl, not in your recipe\n"
        "  fix: run the command again with --debug, and report its output together with that of `qvl doctor`"
    )
