"""The files of the reference stack in a folder: which are there, what each holds, and which belong together."""

from __future__ import annotations

import re
import shlex
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path, PurePath
from typing import Any, Literal

from qvl_core.errors import InputError, Problem, RecipeError
from qvl_core.input_file import open_regular_file, printable, read_regular_file, readable
from qvl_core.migrate.json_source import JsonSource, JsonSourceError, read_json_source
from qvl_core.migrate.ledger import Setting, kept_back
from qvl_core.migrate.script_facts import Script
from qvl_core.migrate.shell_script import read_script

Kind = Literal["data", "model", "finetune", "inference", "evaluate"]

# The shipped files have a few KB; reading is quadratic in the length of a quoted text.
_LIMIT = 256 * 1024
# Faults of one file that are told after the first.
_SHOWN = 8
# Folders that are looked into for the one that was meant.
_SEARCHED = 5000
# Names of files that a line of the report has at most.
_NAMED = 40
_NAME = re.compile(r"(data|model|finetune|inference|evaluate)_(.+)\.(json|sh)")
_FAMILY = re.compile(r"^qwen2(?:[._]?5)?[._-]?vl[._-]?", re.IGNORECASE)
_ALLOWED = {"data": "json", "model": "json", "finetune": "sh"}
_PROGRAM = re.compile(r"\b(?:pretrain|inference|evaluate)\w*_vlm\.py")


@dataclass(kw_only=True)
class Sheet:
    """One JSON file. `taken` are the paths that a rule has looked at: what is left over is unknown.

    `users` are the keys of the recipes that are made of it; a file without any was at most compared.
    """

    file: str
    source: JsonSource
    taken: set[tuple[str, ...]] = field(default_factory=set)
    users: set[str] = field(default_factory=set)

    def get(self, *path: str) -> Setting | None:
        """Give the value whose path ends so, the shallowest first; None where there is none."""
        for at, value in self._all(self.source.values, ()):
            if at[-len(path) :] == path:
                return self._setting(at, value)
        return None

    def rest(self) -> Iterator[Setting]:
        """Yield what no rule has looked at."""
        for at, value in self.source.leaves():
            if not any(at[: len(end)] in self.taken for end in (at[:size] for size in range(1, len(at) + 1))):
                yield self._setting(at, value)

    def every(self) -> Iterator[Setting]:
        """Yield every leaf, without looking at it."""
        for at, value in self.source.leaves():
            yield Setting(value=value, where=f"{self.file}:{self.source.lines.get(at, 1)}", said=".".join(at))

    def under(self, *path: str) -> list[Setting]:
        """Give every leaf below a path."""
        found = [(at, value) for at, value in self.source.leaves() if _holds(at, path)]
        return [self._setting(at, value) for at, value in found]

    def _setting(self, at: tuple[str, ...], value: Any) -> Setting:
        self.taken.add(at)
        return Setting(value=value, where=f"{self.file}:{self.source.lines.get(at, 1)}", said=".".join(at))

    def _all(self, value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        if isinstance(value, dict):
            yield from (((*path, key), inner) for key, inner in value.items())
            for key, inner in value.items():
                yield from self._all(inner, (*path, key))


@dataclass(kw_only=True)
class Launch:
    """One shell script, with what rules have looked at."""

    file: str
    script: Script
    taken: set[str] = field(default_factory=set)

    def option(self, *names: str) -> Setting | None:
        """Give the first of these options that is there; its value is a text, True for one without value."""
        for name in names:
            found = self.script.options.get(name)
            self.taken.add(f"--{name}")
            if found is not None:
                line = found.value_lines[0] if found.value_lines else found.line
                value = kept_back(name, " ".join(found.values)) if found.values else True
                return Setting(value=value, where=self.place(line), said=f"--{name}")
        return None

    def variable(self, *names: str) -> Setting | None:
        """Give the first of these variables that is set."""
        for name in names:
            found = self.script.variables.get(name)
            self.taken.add(name)
            if found is not None:
                return Setting(value=kept_back(name, found.text), where=self.place(found.line), said=name)
        return None

    def place(self, line: int) -> str:
        """Give file:line; lines of files that the script sources have numbers of their own."""
        return self.script.place(line, self.file)


@dataclass(kw_only=True)
class Folder:
    """What was found. Keys are what follows the kind in a file's name, without the family: `7b`, `72b_lora`."""

    path: Path
    sheets: dict[tuple[Kind, str], Sheet] = field(default_factory=dict)
    scripts: dict[tuple[Kind, str], Launch] = field(default_factory=dict)
    broken: dict[str, Problem] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    # Files of other models: nothing is said of their settings.
    foreign: set[str] = field(default_factory=set)
    # Scripts that are not UTF-8, and what they were read as.
    recoded: dict[str, str] = field(default_factory=dict)
    # Scripts of other names that start a program of the reference stack.
    starting: list[str] = field(default_factory=list)
    # Folders beside this one in a checkout.
    elsewhere: list[str] = field(default_factory=list)

    def sheet(self, kind: Kind, key: str) -> Sheet | None:
        """Give the JSON file of a kind for a key; of `72b_lora` that of `72b` will do."""
        bare = _FAMILY.sub("", key)
        for wanted in (key, *_shorter(key), bare, *_shorter(bare)):
            if (kind, wanted) in self.sheets:
                return self.sheets[kind, wanted]
        return None

    def training_data(self, key: str) -> Sheet | None:
        """Give the data file of a training recipe of a key's size; None where no training recipe is made of one."""
        data = [sheet for (kind, _), sheet in self.sheets.items() if kind == "data"]
        used = {_FAMILY.sub("", user): sheet for sheet in data for user in sorted(sheet.users)}
        bare = _FAMILY.sub("", key)
        for wanted in (bare, *_shorter(bare)):
            variants = (user for user in used if wanted in _shorter(user))
            user = wanted if wanted in used else next(variants, None)
            if user is not None:
                return used[user]
        return None

    def script(self, kind: Kind, key: str) -> Launch | None:
        """Give the script of a key; of inference and evaluation that of the size, or the only one, will do."""
        if kind == "finetune":
            return self.scripts.get((kind, key))
        for wanted in (key, *_shorter(key)):
            if (kind, wanted) in self.scripts:
                return self.scripts[kind, wanted]
        others = [(of, name) for of, name in self.scripts if of == kind]
        sizes = {size[0] for name in (key, *(name for _, name in others)) if (size := re.search(r"\d+b", name))}
        return self.scripts[others[0]] if len(others) == 1 and len(sizes) < 2 else None

    def named(self, path: str) -> Sheet | None:
        """Give the JSON file that a script names; only its last part counts, the scripts run elsewhere."""
        name = PurePath(path).name
        return next((sheet for sheet in self.sheets.values() if sheet.file == name), None)


def read_folder(path: Path) -> Folder:
    """Read every file that is one of the reference stack's; of a checkout, those of the folder of Qwen2.5-VL.

    Raises RecipeError for a folder with none, or no folder.
    """
    with readable(path, error_type=RecipeError):
        if not path.is_dir():
            message = "is not a folder" if path.exists() else "there is no such folder"
            fix = "qvl migrate DIR, with the folder of data_*.json, model_*.json and finetune_*.sh"
            if path.is_file() and _NAME.fullmatch(path.name):
                fix = f"qvl migrate {printable(str(path.parent))}"
            raise RecipeError(Problem(where=printable(str(path)), message=message, fix=fix))
        entries = sorted(path.iterdir())
    folder = Folder(path=path)
    if not any(_NAME.fullmatch(entry.name) for entry in entries):
        folder = _below(path)
        entries = sorted(folder.path.iterdir())
    for entry in entries:
        _read(entry, folder)
    _read_named(folder)
    _leave_out_sourced(folder)
    folder.starting = [name for name in folder.unread if name.endswith(".sh") and _starts(folder.path / name)]
    if not (folder.sheets or folder.scripts or folder.broken):
        raise RecipeError(_nothing(path, []))
    return folder


def _nothing(path: Path, found: list[Path]) -> Problem:
    """Say that there is nothing to migrate here, and where there is."""
    message = "holds none of data_*.json, model_*.json, finetune_*.sh, inference_*.json/.sh, evaluate_*.json/.sh"
    message += f"; {shortened([str(one.relative_to(path)) for one in found])} hold some" if found else ""
    wanted = found[0] if len(found) == 1 else "MindSpeed-MM/examples/mindspore/qwen2.5vl"
    return Problem(where=printable(str(path)), message=message, fix=f"qvl migrate {printable(str(wanted))}")


def _below(path: Path) -> Folder:
    """Give the folder of Qwen2.5-VL below, MindSpore's before others; `elsewhere` has what is left alone."""
    found = list(_folders_below(path))
    ours = [one for one in found if _is_qwen(one.name)]
    if not ours:
        raise RecipeError(_nothing(path, found))
    chosen = min(ours, key=lambda one: ("mindspore" not in one.parts, len(one.parts), str(one)))
    left = [one for one in found if one != chosen]
    told = [f"{one.relative_to(path)} ({'Qwen2.5-VL too' if one in ours else 'another model'})" for one in left]
    return Folder(path=chosen, elsewhere=[printable(one) for one in told])


def _folders_below(path: Path) -> Iterator[Path]:
    """Yield folders with files of these names, the nearest first; links and hidden folders are not followed."""
    waiting = [path]
    for _ in range(_SEARCHED):
        if not waiting:
            return
        folder = waiting.pop(0)
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            continue
        if any(_NAME.fullmatch(entry.name) and not _is_folder(entry) for entry in entries):
            yield folder
        waiting += [entry for entry in entries if _is_folder(entry) and not _is_passed(entry)]


def _is_passed(entry: Path) -> bool:
    return entry.is_symlink() or entry.name.startswith(".")


def _is_qwen(name: str) -> bool:
    return "qwen25vl" in re.sub(r"[^a-z0-9]", "", name.lower())


def shortened(names: Sequence[str]) -> str:
    """Give names in a line; of many the first, and how many more there are."""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _leave_out_sourced(folder: Folder) -> None:
    """Count a file that another script sources as a part of that one, unless it starts a program itself."""
    parts = {name for launch in folder.scripts.values() for name in launch.script.sourced if name != launch.file}
    counted = {name for launch in folder.scripts.values() for name in launch.script.counted}
    folder.unread = [name for name in folder.unread if name not in parts | counted]
    folder.scripts = {
        key: launch for key, launch in folder.scripts.items() if launch.script.program or launch.file not in parts
    }


def _read(entry: Path, folder: Folder) -> None:
    match = _NAME.fullmatch(entry.name)
    if match is None or _ALLOWED.get(match[1], match[3]) != match[3]:
        folder.unread.append(entry.name + ("/" if _is_folder(entry) else ""))
        return
    kind: Any = match[1]
    _read_as(entry, kind, match[2], folder)


def _read_named(folder: Folder) -> None:
    """Read the JSON files that scripts name, whatever they are called."""
    for (kind, key), launch in list(folder.scripts.items()):
        kinds: tuple[tuple[str, str, Kind], ...] = (("mm-data", "MM_DATA", "data"), ("mm-model", "MM_MODEL", "model"))
        for option, variable, of in kinds if kind == "finetune" else (("mm-model", "MM_MODEL", kind),):
            said = launch.option(option) or launch.variable(variable)
            name = PurePath(said.text).name if said and isinstance(said.value, str) else ""
            if name.endswith(".json") and name in folder.unread:
                folder.unread.remove(name)
                _read_as(folder.path / name, of, key, folder)


def _starts(path: Path) -> bool:
    try:
        return _PROGRAM.search(_script_text(path)[0]) is not None
    except (InputError, UnicodeDecodeError):
        return False


def _read_as(entry: Path, kind: Kind, name: str, folder: Folder) -> None:
    """Read a file as one of a kind; what is wrong with it goes to `folder.broken`."""
    if kind == "data" and _holds_records(entry):
        folder.unread.append(f"{entry.name} (records)")
        return
    try:
        if entry.suffix == ".sh":
            text, encoding = _script_text(entry)
            if encoding != "UTF-8":
                folder.recoded[entry.name] = encoding
            script = read_script(text, lambda other: _beside(entry, other))
            folder.scripts[kind, _free_key(name, kind, folder.scripts)] = Launch(file=entry.name, script=script)
        else:
            source = read_json_source(_text(entry))
            folder.sheets[kind, _free_key(name, kind, folder.sheets)] = Sheet(file=entry.name, source=source)
    except InputError as error:
        folder.broken[entry.name] = error.problems[0]
    except UnicodeDecodeError as error:
        folder.broken[entry.name] = _not_utf8(entry.name, error)
    except JsonSourceError as error:
        faults = [*error.before, (error.line, str(error))]
        (line, first), *more = faults
        message = "; ".join([first, *(f"line {number}: {text}" for number, text in more[:_SHOWN])])
        message += f"; and {len(more) - _SHOWN} more" if len(more) > _SHOWN else ""
        folder.broken[entry.name] = Problem(where=f"{entry.name}:{line}", message=message, fix=error.fix)


def _holds_records(path: Path) -> bool:
    """Tell whether a file holds training records, a JSON list: people call those data_*.json too."""
    try:
        with open_regular_file(path, error_type=RecipeError) as file:
            return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    except InputError:
        return False


def _text(path: Path) -> str:
    return read_regular_file(path, limit=_LIMIT, error_type=RecipeError).decode("utf-8")


def _script_text(path: Path) -> tuple[str, str]:
    """Give a script's text and its encoding: bash takes comments in any that has ASCII's letters, such as GBK."""
    raw = read_regular_file(path, limit=_LIMIT, error_type=RecipeError)
    for encoding in ("UTF-8", "GB18030", "ISO-8859-1"):
        try:
            return raw.decode(encoding), encoding
        except UnicodeDecodeError:
            if b"\0" in raw:
                # UTF-16, or no text at all: nothing that bash reads.
                raise
    raise AssertionError


def _not_utf8(name: str, error: UnicodeDecodeError) -> Problem:
    """Say what a file is that is not UTF-8, and how it becomes that."""
    raw, said = error.object, f"byte {error.object[error.start]:#04x} at position {error.start}"
    encoding = "UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "GB18030"
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return Problem(where=name, message=f"is not UTF-8 text: {said}", fix="convert the file to UTF-8")
    likely = (
        "is UTF-16 text, which is not read there either" if encoding == "UTF-16" else "is not UTF-8 text, perhaps GBK"
    )
    fix = f"iconv -f {encoding} -t UTF-8 {shlex.quote(name)} > new, and take the new file"
    return Problem(where=name, message=f"{likely}: {said}", fix=fix)


def _beside(script: Path, name: str) -> str | None:
    """Give the text of a file beside a script; None where there is none that can be read."""
    try:
        return _script_text(script.with_name(name))[0]
    except (InputError, UnicodeDecodeError, ValueError):
        return None


def _free_key(name: str, kind: Kind, taken: Container[tuple[Kind, str]]) -> str:
    """Give `7b` for `qwen2_5_vl_7b`, or the whole name where another file has that key already."""
    whole = name.lower()
    key = _FAMILY.sub("", whole) or whole
    free = chain((key, whole, name), (f"{name}_{number}" for number in count(2)))
    return next(one for one in free if (kind, one) not in taken)


def _is_folder(entry: Path) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _shorter(key: str) -> Iterator[str]:
    """Yield `72b` for `72b_lora`: variants of a script share the data and model files of their size."""
    while "_" in key:
        key = key.rpartition("_")[0]
        yield key


def _holds(at: tuple[str, ...], path: tuple[str, ...]) -> bool:
    return any(at[start : start + len(path)] == path for start in range(len(at) - len(path)))
