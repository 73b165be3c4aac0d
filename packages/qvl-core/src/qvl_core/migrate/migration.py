"""The whole migration: read a folder, make the recipes, check each with the rules of `qvl check`, write them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from qvl_core.errors import InputError, OutputError, Problem
from qvl_core.input_file import printable
from qvl_core.migrate.accounts import account
from qvl_core.migrate.answering import fill_eval, fill_infer
from qvl_core.migrate.family import check_family
from qvl_core.migrate.folder import Folder, Kind, Launch, Sheet, read_folder, shortened
from qvl_core.migrate.job import Job
from qvl_core.migrate.ledger import Carried, Ledger, RecipeDraft, Setting, kept_back
from qvl_core.migrate.recipe_text import in_order, recipe_text
from qvl_core.migrate.sft import fill_sft
from qvl_core.migrate.shell_text import GAP

# What every text report has in its first lines.
SUMMARY = "without effect, "
TEXT_REPORT, JSON_REPORT = "migration.txt", "migration.json"
_TASKS: dict[Kind, str] = {"finetune": "sft", "inference": "infer", "evaluate": "eval"}


@dataclass(frozen=True, kw_only=True)
class Made:
    """One recipe: its values with their origin, its text, and what is wrong with it; written only if nothing is."""

    name: str
    task: str
    values: tuple[Carried, ...]
    text: str
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...] = ()

    @property
    def file(self) -> str:
        return f"{self.name}.toml"


@dataclass(frozen=True, kw_only=True)
class Migration:
    """What a folder gives. `broken` are files that cannot be read, `unread` those that are none of the stack's."""

    folder: str
    made: tuple[Made, ...]
    ledger: Ledger
    broken: tuple[Problem, ...]
    unread: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not self.broken and bool(self.made) and not any(one.problems for one in self.made)


def migrate(path: Path, out: Path) -> Migration:
    """Read the folder and make its recipes as they will lie in `out`; writes nothing there."""
    folder = read_folder(path)
    ledger = Ledger()
    for launch in folder.scripts.values():
        ledger.keep_back(launch.script.named_values())
    if folder.elsewhere:
        ledger.remark(str(folder.path), f"this folder is read; left alone: {shortened(folder.elsewhere)}")
    made = [_finish(job, folder, out) for job in _jobs(folder, ledger)]
    _compare_outputs(made, ledger)
    rows = [row for one in made for row in one.values]
    account(folder, ledger, rows, [problem for one in made for problem in one.problems])
    return Migration(
        folder=str(folder.path),
        made=tuple(made),
        ledger=ledger,
        broken=tuple(folder.broken.values()),
        unread=tuple(folder.unread),
    )


def _compare_outputs(made: list[Made], ledger: Ledger) -> None:
    """Tell where several recipes write to one folder: the shipped scripts all say save_dir."""
    into: dict[str, list[tuple[str, str]]] = {}
    for one in made:
        for row in one.values:
            if row.key == "output.dir":
                into.setdefault(str(row.value), []).append((row.where, one.file))
    for folder, rows in into.items():
        if len(rows) > 1:
            names = ", ".join(name for _, name in rows)
            text = f"{names} write to one folder, {folder}: give each its own output.dir"
            ledger.remark(next((where for where, _ in rows if where), rows[0][1]), text)


def write(migration: Migration, out: Path, reports: dict[str, str], *, overwrite: bool = False) -> list[Path]:
    """Write recipes and reports. Raises OutputError, before anything is written, where another file would be lost."""
    texts = {one.file: one.text for one in migration.made if not one.problems} | reports
    lost = [name for name in texts if _differs(out / name, texts[name]) and not (name in reports and _ours(out / name))]
    if lost and not overwrite:
        message = f"holds {', '.join(lost)} with other content"
        fix = "--out OTHER, or --overwrite to replace them"
        raise OutputError(Problem(where=printable(str(out)), message=message, fix=fix))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            temporary = out / f".{name}.tmp"
            try:
                temporary.write_text(text, encoding="utf-8")
                temporary.replace(out / name)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(Problem(where=printable(str(out)), message=f"cannot be written: {error.strerror}")) from None
    return [out / name for name in texts]


def _jobs(folder: Folder, ledger: Ledger) -> Iterator[Job]:
    for kind, task in _TASKS.items():
        scripts = {key: launch for (of, key), launch in folder.scripts.items() if of == kind}
        # A file that the script of another key names belongs to that script's recipe.
        named = {_stated_file(launch, "mm-model", "MM_MODEL")[1] for launch in scripts.values()}
        sheets = {key for (of, key), sheet in folder.sheets.items() if of == kind and sheet.file not in named}
        for key in sorted({*scripts, *sheets}, key=_by_size):
            draft = RecipeDraft(name=f"{key}_{task}", task=task)  # type: ignore[arg-type]
            job = Job(draft=draft, folder=folder, ledger=ledger, key=key, launch=folder.script(kind, key))
            _link(job, kind)
            for sheet in (job.data, job.model):
                if sheet is not None:
                    sheet.users.add(key)
            _fill(job, kind)
            yield job


def _link(job: Job, kind: Kind) -> None:
    """Find the JSON files that belong to a script: those that it names, else those of its size."""
    folder = job.folder
    if kind == "finetune":
        job.data = _named(job, "mm-data", "MM_DATA") or folder.sheet("data", job.key)
        job.model = _named(job, "mm-model", "MM_MODEL") or folder.sheet("model", job.key)
    else:
        own = folder.sheets.get((kind, job.key))
        if job.launch and (kind, job.key) not in folder.scripts and own:
            text = f"no {kind}_*.sh of its own: devices and variables are those of {job.launch.file}"
            job.ledger.remark(own.file, text)
            job.model = own
            return
        named = _named(job, "mm-model", "MM_MODEL")
        job.model = named or own
        if own and named and own is not named and job.launch:
            text = f"the script names {named.file}, not {own.file}: the named one is used"
            job.ledger.remark(job.launch.file, text)


def _named(job: Job, option: str, variable: str) -> Sheet | None:
    said, name = _stated_file(job.launch, option, variable)
    if said is None or not name:
        return None
    sheet = job.folder.named(name)
    if sheet is None:
        why = "cannot be read" if name in job.folder.broken else "is not in the folder"
        why = "holds records, not settings" if f"{name} (records)" in job.folder.unread else why
        job.ledger.remark(said.where, f"{said.said} names {name}, which {why}")
    return sheet


def _stated_file(launch: Launch | None, option: str, variable: str) -> tuple[Setting | None, str]:
    """Give where a script names a file, and the file's name; "" where that is not known."""
    said = (launch.option(option) or launch.variable(variable)) if launch else None
    name = said.text.rpartition("/")[2] if said and isinstance(said.value, str) else ""
    return said, "" if GAP in name else name


def _fill(job: Job, kind: Kind) -> None:
    if not check_family(job):
        return
    job.compare_pairs()
    if kind == "finetune":
        if job.model is None:
            text = "no model file: layers per stage are derived, vision and merger are frozen as in all shipped ones"
            job.ledger.remark(job.launch.file if job.launch else job.key, text)
        fill_sft(job)
        return
    if job.model is None:
        said = job.launch.file if job.launch else job.key
        fix = f"put {kind}_qwen2_5_vl_{job.key}.json beside the script"
        message = f"no {kind}_*.json: it names model, questions and generation"
        job.stuck.append(Problem(where=said, message=message, fix=fix))
        return
    if job.launch is None:
        text = f"no {kind}_*.sh: one device is taken for each stage, and no environment variables are set"
        job.ledger.remark(job.model.file, text)
    (fill_infer if kind == "inference" else fill_eval)(job)


def _finish(job: Job, folder: Folder, out: Path) -> Made:
    """Write the recipe's text and check it; problems name the old file where it states the value."""
    draft = job.draft
    text = recipe_text(draft, str(folder.path), str(out / f"{draft.name}.toml"))
    problems, warnings = list(job.stuck), list[Problem]()
    if not problems:
        found = _checked(text, draft.name)
        problems = [_at_home(problem, draft) for problem in found if problem.severity == "error"]
        warnings = [_at_home(problem, draft) for problem in found if problem.severity == "warning"]
    if job.launch and job.launch.file not in folder.foreign:
        for line, note in job.launch.script.notes:
            job.ledger.remark(job.launch.place(line), note)
        _tell_of_repeats(job.launch, job.ledger)
    return Made(
        name=draft.name,
        task=draft.task,
        values=in_order(draft.rows.values()),
        text=text,
        problems=tuple(problems),
        warnings=tuple(warnings),
    )


def _checked(text: str, name: str) -> tuple[Problem, ...]:
    """Run everything that `qvl check` runs; a weights folder that is there is looked at too."""
    from qvl_core.recipe import load_recipe
    from qvl_core.weights_fit import check_weights

    with tempfile.TemporaryDirectory(prefix="qvl-migrate-") as folder:
        path = Path(folder) / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        try:
            recipe = load_recipe(os.fspath(path))
        except InputError as error:
            return error.problems
        weights = [replace(problem, severity="warning") for problem in check_weights(recipe)]
        return (*recipe.warnings, *weights)


def _at_home(problem: Problem, draft: RecipeDraft) -> Problem:
    """Let a problem name the old file and line that its value comes from."""
    parts = problem.key.split(".")
    for end in range(len(parts), 0, -1):
        row = draft.rows.get(".".join(parts[:end]))
        if row is not None:
            return replace(problem, where=row.where or f"{draft.name}.toml")
    return replace(problem, where=f"{draft.name}.toml")


def _tell_of_repeats(launch: Launch, ledger: Ledger) -> None:
    for name, line, first, later, last in launch.script.repeated:
        text, new = kept_back(name, first), kept_back(name, last)
        places = [
            Setting(value=text, where=launch.place(line), said=name),
            Setting(value=new, where=launch.place(later), said=name),
        ]
        ledger.contradict(f"{name} is stated twice", places, f"the later one, {new[:80]}, as in the script")


def _ours(path: Path) -> bool:
    """Tell whether a report is one of an earlier migration, which the new one replaces."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return SUMMARY in text or all(f'"{key}"' in text for key in ("format", "recipes", "contradictions", "no_effect"))


def _differs(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") != text
    except (OSError, UnicodeDecodeError):
        return path.exists()


def _by_size(key: str) -> tuple[int, str]:
    digits = key[: len(key) - len(key.lstrip("0123456789"))]
    return int(digits or 0), key
