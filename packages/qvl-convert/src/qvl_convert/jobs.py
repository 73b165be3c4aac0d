"""From what a command line says to a job, and from a job to its result on the screen."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from qvl_core.errors import Problem, RecipeError, RunError, WeightsError
from qvl_core.input_file import printable
from qvl_core.layout import Layout
from qvl_core.specs.load import CONFIG_NAME, load_spec
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.weights.fingerprint import fingerprint
from qvl_core.weights.hf_folder import open_hf_folder
from qvl_core.weights.manifest import layout_to_json
from qvl_core.weights.names import Naming
from qvl_core.weights.whole_tensors import WholeTensors

from qvl_convert.forecast import forecast, forecast_json, forecast_text
from qvl_convert.plan_hf import plan_hf
from qvl_convert.plan_peft import plan_peft
from qvl_convert.plan_sharded import plan_sharded
from qvl_convert.progress import byte_progress, counted, duration, gigabytes
from qvl_convert.run_job import Summary, run_job
from qvl_convert.sources import open_hf, open_sharded, require_model, source_of
from qvl_convert.target import require_target
from qvl_convert.transfer import Job
from qvl_convert.wanted_layout import layout_of_flags, layout_text
from qvl_convert.working_folder import working_path

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe

# What a job can say of itself when it is done: lines for people, and the same as JSON.
Report = Callable[[], tuple[list[str], dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Flags:
    """The flags that name a layout, as they were given."""

    tp: int | None
    pp: int | None
    vision_stages: str | None
    text_stages: str | None

    def given(self) -> dict[str, object]:
        """Map each flag to its value, None where it was left out."""
        return {f"--{name.replace('_', '-')}": value for name, value in asdict(self).items()}

    def layout(self, spec: ModelSpec) -> Layout:
        """Give the layout. Raises RecipeError."""
        return layout_of_flags(spec, self.tp, self.pp, self.vision_stages, self.text_stages)


def exactly_one(choices: Mapping[str, object]) -> str:
    """Give the name of the one choice that was given. Raises RecipeError if it is not one."""
    given = [name for name, value in choices.items() if value is not None]
    if len(given) != 1:
        message = f"{' and '.join(given)} exclude each other" if given else f"needs one of {', '.join(choices)}"
        raise RecipeError(Problem(where="command line", message=message, fix="see --help"))
    return given[0]


def needed(flag: str, value: Path | None) -> Path:
    """Give the value of a flag. Raises RecipeError if it was left out."""
    if value is None:
        raise RecipeError(Problem(where="command line", key=flag, message="is needed here", fix=f"{flag} DIR"))
    return value


def refuse(flags: Mapping[str, object], why: str) -> None:
    """Raise RecipeError if one of the flags was given."""
    given = [name for name, value in flags.items() if value is not None]
    if given:
        raise RecipeError(Problem(where="command line", key=given[0], message=f"has no place here: {why}"))


def import_hf(recipe: Recipe | None, hf: Path | None, flags: Flags) -> tuple[Job, Path | None]:
    """Give the job that cuts an HF folder, and where it goes by default (with a recipe)."""
    path = source_of(recipe) if recipe is not None else needed("--hf", hf)
    source = open_hf(path)
    layout = recipe.parallel if recipe is not None else flags.layout(source.spec)
    job = plan_sharded(source, layout, kind="import", source_revision=fingerprint(open_hf_folder(path)))
    return job, _default_out(path, layout) if recipe is not None else None


def reshard(recipe: Recipe | None, sharded: Path | None, flags: Flags) -> tuple[Job, Path]:
    """Give the job that cuts a sharded folder anew, and where it goes by default."""
    if recipe is None and not any(value is not None for value in flags.given().values()):
        message = "needs the new layout: a RECIPE, or --tp and --pp"
        raise RecipeError(Problem(where="command line", message=message, fix="see --help"))
    path = sharded or (source_of(recipe) if recipe is not None else needed("--sharded", sharded))
    source = open_sharded(path)
    if recipe is not None:
        require_model(recipe, source)
    layout = recipe.parallel if recipe is not None else flags.layout(source.spec)
    job = plan_sharded(source, layout, kind="reshard", source_revision=source.source_revision)
    return job, _default_out(path, layout)


def export_hf(
    source: Path,
    hf_files: Path,
    *,
    sharded: bool,
    naming: Naming,
    max_shard_bytes: int,
    stated: Mapping[str, object],
) -> Job:
    """Give the job that writes an HF folder; of a checkpoint that holds adapters, a PEFT folder.

    `stated` are the flags of an HF folder's form as they were given.
    """
    tensors = _opened(source, sharded=sharded)
    if tensors.lora is not None:
        refuse(stated, "the checkpoint holds adapters; PEFT has its own names, and one file")
        return plan_peft(tensors, base=None if hf_files == source else hf_files)
    if hf_files == source and not (source / CONFIG_NAME).exists():
        message = f"has no {CONFIG_NAME}; an HF folder needs it, and tokenizer and processor files"
        fix = "--hf-files DIR, the folder of the model that the weights were made from"
        raise WeightsError(Problem(where=printable(str(source)), message=message, fix=fix))
    return plan_hf(tensors, hf_files, kind="export", naming=naming, max_shard_bytes=max_shard_bytes)


def import_mindspeed(folder: Path, hf_files: Path, *, naming: Naming, max_shard_bytes: int) -> tuple[Job, Report]:
    """Give the job that writes a MindSpeed-MM folder as an HF folder, and what it can say afterwards."""
    from qvl_convert.mindspeed.folder import open_mindspeed_folder
    from qvl_convert.mindspeed.source import whole_tensors_of_mindspeed
    from qvl_convert.mindspeed.storage_checks import with_storage_checks

    found = open_mindspeed_folder(folder)
    source = whole_tensors_of_mindspeed(folder, found, load_spec(hf_files))
    job = plan_hf(source, hf_files, kind="import from MindSpeed-MM", naming=naming, max_shard_bytes=max_shard_bytes)

    def report() -> tuple[list[str], dict[str, Any]]:
        lines = [f"left out: {', '.join(found.left_out)}"] if found.left_out else []
        return lines, {"left_out": list(found.left_out)}

    return with_storage_checks(job, found), report


def export_mindspeed(path: Path, flags: Flags, *, sharded: bool) -> Job:
    """Give the job that writes a MindSpeed-MM folder."""
    from qvl_convert.mindspeed.plan import plan_mindspeed

    source = _opened(path, sharded=sharded)
    if source.lora is not None:
        message = "holds adapters, which MindSpeed-MM folders of this kind do not have"
        fix = f"qvl convert export --sharded {shlex.quote(str(path))} --out ADAPTER, merge it, export the merged folder"
        raise WeightsError(Problem(where=printable(str(path)), message=message, fix=fix))
    stated = any(value is not None for value in flags.given().values())
    layout = source.layout if source.layout is not None and not stated else flags.layout(source.spec)
    return plan_mindspeed(source, layout)


def merge(base: Path, adapter: Path, *, naming: Naming, max_shard_bytes: int) -> tuple[Job, Report]:
    """Give the job that merges an adapter, and what it can say afterwards."""
    from qvl_convert.lora.plan import plan_merge

    return plan_merge(open_hf(base, "export --sharded"), base, adapter, naming=naming, max_shard_bytes=max_shard_bytes)


def carry_out(job: Job, out: Path, *, plan: bool, as_json: bool, overwrite: bool, report: Report | None = None) -> None:
    """Do the job, or show its plan, and print the result."""
    if plan:
        require_target(out, job, overwrite=overwrite)
        found = forecast(job, out)
        typer.echo(json.dumps(forecast_json(found)) if as_json else forecast_text(found))
        return
    try:
        with byte_progress("writing", sum(task.size for task in job.tasks)) as advance:
            summary = run_job(job, out, overwrite=overwrite, advance=advance)
    except (RunError, KeyboardInterrupt):
        _say_kept(out)
        raise
    lines, fields = report() if report is not None else ([], {})
    if as_json:
        typer.echo(json.dumps({**_json(summary), **fields}))
    else:
        typer.echo("\n".join([*_text(summary), *lines]))


def _opened(path: Path, *, sharded: bool) -> WholeTensors:
    return open_sharded(path, "export --hf") if sharded else open_hf(path, "export --sharded")


def _default_out(path: Path, layout: Layout) -> Path:
    named = path.resolve() if path.name in ("", "..") else path
    return named.with_name(f"{named.name}-tp{layout.tp}-pp{layout.pp}")


def _say_kept(out: Path) -> None:
    working = working_path(out)
    if working.exists():
        typer.echo(
            f"note: finished files are kept in {shlex.quote(str(working))}; the same command goes on from them, or "
            "remove that folder",
            err=True,
        )


def _text(summary: Summary) -> list[str]:
    what = f"{counted(summary.tensors, 'tensor')}, {summary.bytes_written:,} bytes in {counted(summary.files, 'file')}"
    speed = f"{duration(summary.seconds)}, {gigabytes(summary.bytes_per_s)}/s"
    lines = [f"wrote {summary.out}: {what}, {speed}"]
    if summary.layout:
        lines.append(f"layout: {layout_text(summary.layout)}")
    if summary.reused_files:
        reused = f"{counted(summary.reused_files, 'file')} ({summary.reused_bytes:,} bytes)"
        lines.append(f"kept {reused} of an earlier try, checksums compared")
    return lines


def _json(summary: Summary) -> dict[str, object]:
    return {
        **asdict(summary),
        "out": str(summary.out),
        "layout": layout_to_json(summary.layout) if summary.layout is not None else None,
        "bytes_per_s": summary.bytes_per_s,
    }
