"""Every setting of the files that were read is accounted for: what no rule knows, and what agrees with the recipe."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from qvl_core.errors import Problem
from qvl_core.migrate.fates import AGREES, AGREES_OF_MODEL, DOCUMENTED, LAUNCH_VARIABLES, SHELL_VARIABLES
from qvl_core.migrate.folder import Folder, Launch, Sheet
from qvl_core.migrate.ledger import Carried, Ledger, Setting, kept_back
from qvl_core.migrate.shell_text import GAP

_UNKNOWN = "qvl migrate does not know it"
_NOTED = re.compile(r"\band (\S+:\d+) (\S+)")
_STRUCTURE = ("image_encoder", "text_decoder")


def account(folder: Folder, ledger: Ledger, rows: Iterable[Carried], problems: Iterable[Problem]) -> None:
    """Tell what became of each setting of which no rule has told anything.

    `rows` are the values of all recipes, `problems` what keeps them from being written.
    """
    for name in folder.starting:
        text = "starts a program of the reference stack, and is not read: only finetune_*.sh, inference_*.sh and "
        ledger.remark(name, f"{text}evaluate_*.sh are")
    for name, encoding in folder.recoded.items():
        ledger.remark(name, f"is not UTF-8, and read as {encoding}: paths that are not ASCII may be wrong")
    told = {*_told(ledger, rows), *((problem.where, problem.key) for problem in problems)}
    _tell_of_unused(folder, ledger)
    sheets = [sheet for sheet in folder.sheets.values() if sheet.users and sheet.file not in folder.foreign]
    launches = [launch for launch in folder.scripts.values() if launch.file not in folder.foreign]
    for sheet in sheets:
        _tell_of_repeats(sheet, ledger)
        names = _names(sheet)
        for setting in sheet.rest():
            if _states_something(setting):
                ledger.leave("unknown", setting, f"{_UNKNOWN}{probably(setting.said, names)}")
                told.add((setting.where, setting.said))
        for setting in sheet.every():
            if _states_something(setting) and (setting.where, setting.said) not in told:
                ledger.leave("in_accord", setting, _reason(setting, ledger))
    for launch in launches:
        for setting, known in _stated(launch):
            if (setting.where, setting.said) in told or _is_remarked(setting, folder):
                continue
            if setting.said in SHELL_VARIABLES:
                ledger.leave("no_counterpart", setting, "of the shell that starts qvl: set it there if it is needed")
            elif known:
                ledger.leave("in_accord", setting, _of_script(setting))
            else:
                ledger.leave("unknown", setting, f"{_UNKNOWN}{probably(setting.said, launch.taken)}")


def _tell_of_unused(folder: Folder, ledger: Ledger) -> None:
    trained = any(kind == "finetune" for kind, _ in folder.scripts)
    for (kind, key), sheet in folder.sheets.items():
        if kind == "data" and not trained:
            text = f"no finetune_*.sh for {key}: without it steps, batch and learning rate are unknown; no recipe"
            ledger.remark(sheet.file, text)
        elif not sheet.users and sheet.file not in folder.foreign:
            ledger.remark(sheet.file, "no script uses it")


def probably(said: str, names: Iterable[str]) -> str:
    """Give a hint where a name is nearly one that is known; "" where it is not, and where it is one itself."""
    name, known = said.rpartition(".")[2], set(names)
    close = [] if name in known else get_close_matches(name, known, n=1, cutoff=0.85)
    return f"; {close[0]} was probably meant" if close else ""


def _names(sheet: Sheet) -> set[str]:
    """Give the names that the documentation has for a file of this kind."""
    return {*DOCUMENTED, *(name for path in sheet.taken for name in path)}


def _told(ledger: Ledger, rows: Iterable[Carried]) -> Iterator[tuple[str, str]]:
    """Yield place and name of every setting that the report has already."""
    for row in rows:
        yield row.where, row.said
        yield from _NOTED.findall(row.note)
    for left in ledger.left:
        yield left.where, left.said
    for contradiction in ledger.contradictions:
        for where, text in contradiction.places:
            yield where, text.partition(" = ")[0]


def _states_something(setting: Setting) -> bool:
    return setting.value not in (None, "", [], {})


def _is_remarked(setting: Setting, folder: Folder) -> bool:
    """Tell whether a remark has it: options that a command makes, and files that are not there."""
    if setting.said in ("--mm-data", "--mm-model"):
        return folder.named(setting.text) is None
    return setting.said.startswith("--") and GAP in setting.text


def _reason(setting: Setting, ledger: Ledger) -> str:
    name = setting.said.rpartition(".")[2]
    if (setting.where, setting.said) in ledger.published:
        return "as in the published model"
    if setting.said.startswith(_STRUCTURE):
        return AGREES_OF_MODEL.get(name, "no published model is known to compare it with")
    if ".attr." in f".{setting.said}":
        return "data.sources has the format that these names spell"
    return AGREES.get(name, "agrees with the recipe")


def _of_script(setting: Setting) -> str:
    if setting.said in LAUNCH_VARIABLES:
        return "qvl's own launcher sets it"
    return AGREES.get(setting.said.removeprefix("--"), "agrees with the recipe")


def _stated(launch: Launch) -> Iterator[tuple[Setting, bool]]:
    """Yield the options and the exported launch variables of a script, and whether a rule knows them."""
    for option in launch.script.options.values():
        line = option.value_lines[0] if option.value_lines else option.line
        said = f"--{option.name}"
        value = kept_back(option.name, " ".join(option.values)) or "(set)"
        known = said in launch.taken or option.name in AGREES
        yield Setting(value=value, where=launch.place(line if known else option.line), said=said), known
    for name, variable in launch.script.variables.items():
        if variable.exported and name in LAUNCH_VARIABLES:
            yield Setting(value=variable.text, where=launch.place(variable.line), said=name), True


def _tell_of_repeats(sheet: Sheet, ledger: Ledger) -> None:
    for path, *stated in sheet.source.repeated:
        said = ".".join(path)
        places = [Setting(value=value, where=f"{sheet.file}:{line}", said=said) for line, value in stated]
        ledger.contradict(f"{path[-1]} stands twice in one object", places, "the last one, as in the reference")
