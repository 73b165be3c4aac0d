"""What is known of a launch script once it has been read: variables, options, and what is to be told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from qvl_core.migrate.shell_text import GAP, LINES_OF_A_FILE, Text


@dataclass(frozen=True, kw_only=True)
class Option:
    """`--name value ...` of the started program. `line` is the option's, `value_lines` where its values are stated."""

    name: str
    values: tuple[str, ...]
    line: int
    value_lines: tuple[int, ...]

    @property
    def known(self) -> bool:
        return GAP not in "".join(self.values)


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A variable's texts (several for an array) and the line that assigns it."""

    texts: tuple[Text, ...]
    line: int
    exported: bool = False

    @property
    def text(self) -> str:
        return " ".join(text.chars for text in self.texts)

    @property
    def known(self) -> bool:
        return all(text.known for text in self.texts)


@dataclass(kw_only=True)
class Script:
    """One script. `notes` are (line, remark); `repeated` options and variables are told with both places.

    Lines of the n-th file that the script sources are counted from n * 1,000,000; `file_of` tells them apart.
    """

    variables: dict[str, Variable] = field(default_factory=dict)
    options: dict[str, Option] = field(default_factory=dict)
    program: str = ""
    sources: list[tuple[int, str]] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)
    repeated: list[tuple[str, int, str, int, str]] = field(default_factory=list)
    sourced: list[str] = field(default_factory=list)
    # Files beside the script of which it takes lines or their number.
    counted: list[str] = field(default_factory=list)

    def named_values(self) -> Iterator[tuple[str, str]]:
        """Give (name, value) of all variables and options, former ones too."""
        yield from ((name, variable.text) for name, variable in self.variables.items())
        yield from ((option.name, " ".join(option.values)) for option in self.options.values())
        for name, _, former, _, later in self.repeated:
            yield from ((name, former), (name, later))

    def place(self, line: int, file: str) -> str:
        """Give file:line of a line number of this script; `file` is the script's own name."""
        number, line = divmod(line, LINES_OF_A_FILE)
        return f"{self.sourced[number - 1] if number else file}:{line}"
