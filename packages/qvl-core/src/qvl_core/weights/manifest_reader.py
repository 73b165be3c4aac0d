"""Read a manifest strictly: version, spec, layout, and that its tables are the ones the layout asks for."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import printable
from qvl_core.json_file import read_json_object
from qvl_core.layout import Layout
from qvl_core.layout_rules import check_layout
from qvl_core.lora_table import COMPONENTS, TARGETS, Lora, weight_table
from qvl_core.params import Parameter
from qvl_core.specs.hf_config import spec_from_hf_config
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.weights.hf_folder import SHOWN, WEIGHT_DTYPES, is_plain_name
from qvl_core.weights.manifest import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST_NAME,
    PLAIN_FORMAT_VERSION,
    FileRecord,
    Manifest,
    TensorRecord,
    rank_file_name,
)
from qvl_core.weights.optimizer_state import OPTIMIZER_KINDS, optimizer_file_name, split_name

_AGAIN = "copy the folder again from where it was written"
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}")
_KEYS = {"format", "format_version", "spec", "layout", "dtype", "tied", "source_revision", "files", "tensors"}
_OPTIONAL_KEYS = {"optimizer", "lora"}
_LORA_KEYS = {"rank", "alpha", "dropout", "components", "targets"}
# As in recipes.
_LARGEST_LORA_RANK = 4096
Word = TypeVar("Word", bound=str)
_RANK_FILE = re.compile(r"(rank|optimizer)-pp\d+-tt\d+\.safetensors")


def read_manifest(folder: Path) -> Manifest:
    """Give the folder's manifest, once every file that it lists is there with its size.

    Raises WeightsError: no manifest, a newer version, a damaged one, files missing or of another size.
    """
    path = folder / MANIFEST_NAME
    if not path.exists():
        raise WeightsError(
            Problem(
                where=printable(str(folder)),
                message=f"has no {MANIFEST_NAME}: not a sharded weights folder, or one whose writing was interrupted",
                fix="give a complete folder",
            )
        )
    value = read_json_object(path, fix=_AGAIN)
    manifest = _Reader(path).manifest(value)
    problems = list(_file_problems(folder, manifest))
    if problems:
        raise WeightsError(problems[:SHOWN])
    return manifest


def check_manifest_layout(manifest: Manifest, layout: Layout, *, folder: Path) -> tuple[Problem, ...]:
    """Compare a folder's layout with the one to be run; the problem's fix is the exact reshard command."""
    differences = [
        f"{name} is {_shown(found)} in the folder, {_shown(wanted)} in the recipe"
        for name in ("tp", "pp", "vision_stages", "text_stages")
        if (found := getattr(manifest.layout, name)) != (wanted := getattr(layout, name))
    ]
    if not differences:
        return ()
    return (
        Problem(
            where=printable(str(folder)),
            key="layout",
            message="\n".join(["the weights are cut for another layout:", *differences]),
            fix=reshard_command(folder, layout),
        ),
    )


def reshard_command(folder: Path, layout: Layout) -> str:
    """Give the command that cuts a sharded folder for a layout."""
    out = resharded_folder(folder, layout)
    return " ".join(
        (
            f"qvl convert reshard --sharded {shlex.quote(str(folder))} --out {shlex.quote(out)}",
            f"--tp {layout.tp} --pp {layout.pp}",
            f"--vision-stages {_shown(layout.vision_stages)} --text-stages {_shown(layout.text_stages)}",
        )
    )


def resharded_folder(folder: Path, layout: Layout) -> str:
    """Give the path at which that command leaves the folder for a layout."""
    return f"{str(folder).rstrip('/')}-tp{layout.tp}-pp{layout.pp}"


class _Reader:
    """Reads one manifest; every method raises WeightsError naming the file and the key."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def manifest(self, value: Mapping[str, Any]) -> Manifest:
        self._check_version(value)
        missing, unknown = sorted(_KEYS - set(value)), sorted(set(value) - _KEYS - _OPTIONAL_KEYS)
        if missing or unknown:
            self._fail((missing or unknown)[0], "is missing" if missing else "is not a key of this version")
        spec = self._spec(value["spec"])
        layout = self._layout(value["layout"], spec)
        manifest = Manifest(
            spec=spec,
            layout=layout,
            dtype=self._text(value["dtype"], "dtype"),
            tied=value["tied"],
            source_revision=self._text(value["source_revision"], "source_revision"),
            tensors=self._tensors(value["tensors"], "tensors"),
            files={name: self._file(name, item) for name, item in self._table(value["files"], "files")},
            optimizer=self._tensors(value.get("optimizer", {}), "optimizer"),
            lora=self._lora(value["lora"]) if "lora" in value else None,
        )
        self._check_files(manifest, has_table="optimizer" in value)
        self._check_tensors(manifest)
        self._check_optimizer(manifest)
        return manifest

    def _check_version(self, value: Mapping[str, Any]) -> None:
        if value.get("format") != FORMAT:
            self._fail("format", f"is {_short(value.get('format'))}, not {FORMAT!r}")
        version = value.get("format_version")
        if type(version) is not int or version < 1:
            self._fail("format_version", f"is {_short(version)}, not a version number")
        if version > FORMAT_VERSION:
            message = f"is {version}; this qvl-core reads versions up to {FORMAT_VERSION}"
            self._fail("format_version", message, fix="pip install -U qvl-core")
        if "lora" in value and version == PLAIN_FORMAT_VERSION:
            self._fail("lora", "is not a key of this version")

    def _spec(self, value: Any) -> ModelSpec:
        if not isinstance(value, dict) or set(value) != {"name", "config"} or not isinstance(value["config"], dict):
            self._fail("spec", "has to be an object of name and config")
        return spec_from_hf_config(value["config"], where=str(self._path), name=self._text(value["name"], "spec.name"))

    def _layout(self, value: Any, spec: ModelSpec) -> Layout:
        if not isinstance(value, dict) or set(value) != {"tp", "pp", "vision_stages", "text_stages"}:
            self._fail("layout", "has to be an object of tp, pp, vision_stages and text_stages")
        tp, pp = value["tp"], value["pp"]
        for key, degree in (("tp", tp), ("pp", pp)):
            if type(degree) is not int or not 1 <= degree <= 1024:
                self._fail(f"layout.{key}", f"is {_short(degree)}, not a parallel degree")
        stages: dict[str, tuple[int, ...]] = {}
        for key, depth in (("vision_stages", spec.vision.depth), ("text_stages", spec.text.num_layers)):
            counts = value[key]
            if not isinstance(counts, list) or not all(_is_count(count) for count in counts):
                self._fail(f"layout.{key}", "has to be a list of whole numbers")
            if len(counts) != pp or sum(counts) != depth:
                self._fail(f"layout.{key}", f"has {len(counts)} numbers, sum {sum(counts)}; pp is {pp}, depth {depth}")
            stages[key] = tuple(counts)
        layout = Layout(tp=tp, pp=pp, vision_stages=stages["vision_stages"], text_stages=stages["text_stages"])
        # Parts of a layout that does not divide the tensors would leave rows of the whole unwritten.
        for problem in check_layout(spec, layout):
            self._fail(problem.key, problem.message)
        return layout

    def _lora(self, value: Any) -> Lora:
        if not isinstance(value, dict) or set(value) != _LORA_KEYS:
            self._fail("lora", f"has to be an object of {', '.join(sorted(_LORA_KEYS))}")
        rank, alpha, dropout = value["rank"], value["alpha"], value["dropout"]
        if not _is_count(rank) or not 1 <= rank <= _LARGEST_LORA_RANK:
            self._fail("lora.rank", f"is {_short(rank)}, not a whole number from 1 to {_LARGEST_LORA_RANK}")
        for key, number, most in (("alpha", alpha, 1e6), ("dropout", dropout, 1.0)):
            if not isinstance(number, int | float) or isinstance(number, bool) or not 0 <= number <= most:
                self._fail(f"lora.{key}", f"is {_short(number)}, not a number from 0 to {most:g}")
        targets = [target for names in TARGETS.values() for target in names]
        return Lora(
            rank=rank,
            alpha=float(alpha),
            dropout=float(dropout),
            components=self._some(value["components"], "lora.components", COMPONENTS),
            targets=self._some(value["targets"], "lora.targets", targets),
        )

    def _some(self, value: Any, key: str, known: Collection[Word]) -> tuple[Word, ...]:
        """Read a list of at least one of these words."""
        if not isinstance(value, list) or not value or any(word not in known for word in value):
            self._fail(key, f"is {_short(value)}, not a list of some of {', '.join(known)}")
        return tuple(value)

    def _tensors(self, value: Any, table: str) -> dict[str, TensorRecord]:
        return {name: self._tensor(f"{table}.{printable(name, 80)}", item) for name, item in self._table(value, table)}

    def _tensor(self, key: str, value: Any) -> TensorRecord:
        if not isinstance(value, dict) or set(value) != {"shape", "dtype", "parts"}:
            self._fail(key, "has to be an object of shape, dtype and parts")
        if not isinstance(value["shape"], list) or not all(_is_count(extent) for extent in value["shape"]):
            self._fail(key, "has a shape that is not a list of whole numbers")
        if value["dtype"] not in WEIGHT_DTYPES:
            self._fail(key, f"has dtype {_short(value['dtype'])}, not one of {', '.join(WEIGHT_DTYPES)}")
        parts = dict(self._table(value["parts"], f"{key}.parts"))
        if not all(isinstance(checksum, str) and _CHECKSUM.fullmatch(checksum) for checksum in parts.values()):
            self._fail(key, "has a checksum that is not sha256: and 64 hexadecimal digits")
        return TensorRecord(shape=tuple(value["shape"]), dtype=value["dtype"], parts=parts)

    def _file(self, name: str, value: Any) -> FileRecord:
        key = f"files.{printable(name, 80)}"
        if not is_plain_name(name):
            self._fail(key, "is not a plain file name")
        if not isinstance(value, dict) or set(value) != {"size", "checksum"} or not _is_count(value["size"]):
            self._fail(key, "has to be an object of size (bytes) and checksum")
        checksum = value["checksum"]
        if checksum is not None and not (isinstance(checksum, str) and _CHECKSUM.fullmatch(checksum)):
            self._fail(key, "has a checksum that is not null or sha256: and 64 hexadecimal digits")
        return FileRecord(size=value["size"], checksum=checksum)

    def _check_files(self, manifest: Manifest, *, has_table: bool) -> None:
        """Check that the files of all ranks are listed, and no others: optimizer files with their table, or neither."""
        ranks = [(pp, tp) for pp in range(manifest.layout.pp) for tp in range(manifest.layout.tp)]
        optimizer_files = [name for name in manifest.files if name.startswith("optimizer-")]
        if optimizer_files and not has_table:
            message = (
                f"is missing, but {printable(min(optimizer_files), 80)} is listed: nothing says what it has to hold"
            )
            self._fail("optimizer", message)
        wanted = [rank_file_name(*rank) for rank in ranks]
        wanted += [optimizer_file_name(*rank) for rank in ranks] if has_table else []
        for name in wanted:
            if name not in manifest.files:
                self._fail(f"files.{name}", "is missing")
        for name in sorted(set(manifest.files) - set(wanted)):
            if _RANK_FILE.fullmatch(name):
                self._fail(f"files.{name}", "is the file of a rank that the layout does not have")

    def _check_tensors(self, manifest: Manifest) -> None:
        """Check that the table is the one of this spec and layout."""
        table = weight_table(manifest.spec, manifest.lora, manifest.layout)
        if manifest.tied is not manifest.spec.text.tie_word_embeddings:
            self._fail("tied", f"is {_short(manifest.tied)}, the spec says {manifest.spec.text.tie_word_embeddings}")
        for parameter in table:
            key, record = f"tensors.{parameter.name}", manifest.tensors.get(parameter.name)
            if record is None:
                self._fail(key, "is missing")
            self._check_record(key, record, parameter, manifest.layout, rank_file_name)
        extra = set(manifest.tensors) - {parameter.name for parameter in table}
        if extra:
            self._fail(f"tensors.{printable(min(extra), 80)}", "is not part of the model")

    def _check_optimizer(self, manifest: Manifest) -> None:
        """Check that every tensor of the optimizer is a known kind of state of a parameter, cut like the parameter."""
        rows = weight_table(manifest.spec, manifest.lora, manifest.layout)
        table = {parameter.name: parameter for parameter in rows}
        for name, record in manifest.optimizer.items():
            key, (parameter, kind) = f"optimizer.{printable(name, 80)}", split_name(name)
            if kind not in OPTIMIZER_KINDS:
                self._fail(key, f"is not the name of a parameter, '.' and one of {', '.join(OPTIMIZER_KINDS)}")
            if parameter not in table:
                self._fail(key, f"belongs to {printable(parameter, 80)}, which is not part of the model")
            self._check_record(key, record, table[parameter], manifest.layout, optimizer_file_name)

    def _check_record(
        self,
        key: str,
        record: TensorRecord,
        parameter: Parameter,
        layout: Layout,
        file_name: Callable[[int, int], str],
    ) -> None:
        if record.shape != parameter.shape:
            self._fail(key, f"has shape {list(record.shape)}, the spec gives {list(parameter.shape)}")
        homes = {file_name(pp, tp) for pp in parameter.stages for tp in range(layout.tp)}
        if set(record.parts) != homes:
            self._fail(f"{key}.parts", f"have to be the files {', '.join(sorted(homes))}")

    def _table(self, value: Any, key: str) -> Iterator[tuple[str, Any]]:
        if not isinstance(value, dict):
            self._fail(key, "has to be an object")
        yield from value.items()

    def _text(self, value: Any, key: str) -> str:
        if not isinstance(value, str) or len(value) > 1000:
            self._fail(key, "has to be text")
        return str(value)

    def _fail(self, key: str, message: str, fix: str = _AGAIN) -> NoReturn:
        raise WeightsError(Problem(where=printable(str(self._path)), key=key, message=message, fix=fix))


def _file_problems(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    for name, record in manifest.files.items():
        path = folder / name
        if not path.is_file():
            message = "is listed in the manifest and not there" if not path.exists() else "is not a regular file"
        elif (size := path.stat().st_size) != record.size:
            message = f"has {size:,} bytes, the manifest says {record.size:,}"
        else:
            continue
        yield Problem(where=printable(str(path)), message=message, fix=_AGAIN)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _shown(value: int | tuple[int, ...]) -> str:
    return str(value) if isinstance(value, int) else ",".join(map(str, value))


def _short(value: object) -> str:
    return printable(repr(value), 60)
