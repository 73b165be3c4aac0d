"""Problems that people can fix, and the exit code that each kind of failure ends with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_WRONG_INPUT = 2
EXIT_NOT_INSTALLED = 3


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong with what the user gave us, and how to mend it.

    `where` is a file, with its line where one is known: `recipes/7b.toml:11`. `key` is the dotted recipe key,
    tensor name or record field. `message` states what is wrong with the numbers; `fix` can be pasted.
    """

    where: str
    message: str
    key: str = ""
    fix: str = ""
    severity: Literal["error", "warning"] = "error"

    def render(self) -> str:
        """Give the text form: a head line, the message, the fix, each on its own line."""
        mark = "" if self.severity == "error" else " (warning)"
        head = f"{self.where}: {self.key}{mark}" if self.key else f"{self.where}{mark}"
        lines = [head, *(f"  {line}" for line in self.message.splitlines())]
        if self.fix:
            first, *rest = self.fix.splitlines()
            lines += [f"  fix: {first}", *(f"       {line}" for line in rest)]
        return "\n".join(lines)


class QvlError(Exception):
    """A failure whose text is meant for people; `exit_code` is what the command ends with."""

    exit_code = EXIT_FAILED


class InputError(QvlError):
    """Wrong input: recipe, weights, data or output folder. Carries every problem that was found."""

    exit_code = EXIT_WRONG_INPUT

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(problem.render() for problem in self.problems))


class RecipeError(InputError):
    """A recipe, or a layout stated in one, that cannot be run."""


class WeightsError(InputError):
    """A weights folder or file that is missing, damaged, or does not fit the model."""


class DataError(InputError):
    """A data file, record or media file that cannot be used."""


class OutputError(InputError):
    """An output folder that cannot be written or that belongs to another run."""


class NotInstalledError(QvlError):
    """Something needed is not installed; the text says how to get it."""

    exit_code = EXIT_NOT_INSTALLED


class RunError(QvlError):
    """A run that started and failed."""


class DiskError(RunError):
    """A disk that is full or fails: what was being written is not there, what was there before is."""


class InputChangedError(RunError):
    """A file was written, replaced, shortened or removed while it was read: what was read of it is worth nothing."""
