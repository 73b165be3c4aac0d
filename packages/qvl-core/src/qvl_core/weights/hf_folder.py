"""Open an HF checkpoint folder: its config, and where each tensor lies. No tensor is read, numpy is not needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import printable, readable
from qvl_core.json_file import read_json_object
from qvl_core.params import EMBEDDING, LM_HEAD, parameter_table
from qvl_core.specs.load import CONFIG_NAME, load_spec
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.weights.names import Naming, naming_of, to_classic
from qvl_core.weights.raw_bytes import first_difference
from qvl_core.weights.safetensors_header import DTYPE_BYTES, SafetensorsHeader, TensorEntry, read_header

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
WEIGHT_DTYPES = ("BF16", "F16", "F32")
SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class HFFolder:
    """An HF checkpoint. `tensors` maps the classic name to the tensor's place; its own name is in the entry."""

    path: Path
    spec: ModelSpec
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]
    headers: tuple[SafetensorsHeader, ...]
    naming: Naming


def open_hf_folder(path: str | Path) -> HFFolder:
    """Give the opened folder: `model.safetensors`, or the shards of `model.safetensors.index.json`.

    Headers are checked, tensors are not compared with the spec: `check_tensors` does that. Raises WeightsError.
    """
    folder = Path(path)
    with readable(folder):
        if not folder.is_dir():
            message = "is not a folder" if folder.exists() else "there is no such folder"
            fix = "give the checkpoint's folder"
            raise WeightsError(Problem(where=printable(str(folder)), message=message, fix=fix))
        spec = load_spec(folder)
        headers = tuple(_read_headers(folder))
    return HFFolder(
        path=folder,
        spec=spec,
        config=read_json_object(folder / CONFIG_NAME),
        tensors=_by_classic_name(headers),
        headers=headers,
        naming=naming_of([name for header in headers for name in header.tensors]),
    )


def check_tensors(folder: HFFolder, spec: ModelSpec) -> tuple[Problem, ...]:
    """List what keeps the folder's tensors from being this model: missing, extra, wrong shape, wrong dtype.

    A tied model may carry `lm_head.weight` as well, if it equals the embedding to the bit. Up to 10 of a kind are
    listed, with the count.
    """
    wanted = {parameter.name: parameter.shape for parameter in parameter_table(spec)}
    found = folder.tensors
    missing = [f"{name} {list(shape)}" for name, shape in wanted.items() if name not in found]
    tied_copy = spec.text.tie_word_embeddings and LM_HEAD in found
    extra = [entry.name for name, entry in found.items() if name not in wanted and not (tied_copy and name == LM_HEAD)]
    shared = [(name, found[name]) for name in wanted if name in found]
    shapes = [
        f"{entry.name} has shape {list(entry.shape)}, the model needs {list(wanted[name])}"
        for name, entry in shared
        if entry.shape != wanted[name]
    ]
    dtypes = [f"{entry.name} is {entry.dtype}" for _, entry in shared if entry.dtype not in WEIGHT_DTYPES]
    where = printable(str(folder.path))
    fix = f"is this folder a complete {spec.name}? compare its config.json and files with the source"
    problems = [
        *_listed(where, "tensors are missing", missing, fix),
        *_listed(where, "tensors are not part of the model", extra, fix),
        *_listed(where, "tensors have the wrong shape", shapes, fix),
        *_listed(where, f"tensors have a dtype other than {', '.join(WEIGHT_DTYPES)}", dtypes, fix),
    ]
    if tied_copy and EMBEDDING in found:
        problems += _tied_problems(where, found[EMBEDDING], found[LM_HEAD])
    return tuple(problems)


def require_tensors(folder: HFFolder, spec: ModelSpec) -> None:
    """Raise WeightsError unless the folder holds exactly the tensors of the model."""
    problems = check_tensors(folder, spec)
    if problems:
        raise WeightsError(problems)


def _read_headers(folder: Path) -> Iterator[SafetensorsHeader]:
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.exists() and index.exists():
        message = f"holds both {SINGLE_FILE} and {INDEX_FILE}; it is not clear which is meant"
        raise WeightsError(Problem(where=printable(str(folder)), message=message, fix="remove the one that is stale"))
    if single.exists():
        yield read_header(single)
    elif index.exists():
        yield from _indexed_headers(folder, index)
    else:
        raise WeightsError(_nothing_to_read(folder))


def _indexed_headers(folder: Path, index: Path) -> Iterator[SafetensorsHeader]:
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(
            Problem(where=printable(str(index)), key="weight_map", message="is missing, empty or not an object")
        )
    # Names are judged before any file is touched: an index must not make us open a file outside its folder.
    wrong = [
        Problem(
            where=printable(str(index)),
            key=f"weight_map.{printable(tensor, 80)}",
            message=f"{printable(repr(name), 80)} is not the plain name of a .safetensors file in this folder",
            fix="download the index again from where the weights came from",
        )
        for tensor, name in weight_map.items()
        if not is_plain_name(name, ".safetensors")
    ]
    if wrong:
        raise WeightsError(wrong[:SHOWN])
    names = sorted(set(weight_map.values()))
    absent = [name for name in names if not (folder / name).exists()]
    if absent:
        raise WeightsError(
            _listed(printable(str(index)), "shards of the index are not there", absent, "download these files")
        )
    headers = [read_header(folder / name) for name in names]
    problems = _index_problems(index, weight_map, headers)
    if problems:
        raise WeightsError(problems)
    yield from headers


def _index_problems(index: Path, weight_map: Mapping[str, str], headers: list[SafetensorsHeader]) -> list[Problem]:
    homes: dict[str, list[str]] = {}
    for header in headers:
        for name in header.tensors:
            homes.setdefault(name, []).append(header.file.name)
    twice = [f"{name}: {' and '.join(files)}" for name, files in homes.items() if len(files) > 1]
    absent = [f"{name}, listed in {file}" for name, file in weight_map.items() if name not in homes]
    elsewhere = [
        f"{name}: the index says {file}, it is in {homes[name][0]}"
        for name, file in weight_map.items()
        if len(homes.get(name, ())) == 1 and homes[name] != [file]
    ]
    unlisted = [f"{name} in {files[0]}" for name, files in homes.items() if name not in weight_map]
    where, fix = printable(str(index)), "download the index and the shards again, from one revision"
    return [
        *_listed(where, "tensors are in two shards", twice, fix),
        *_listed(where, "tensors of the index are in no shard", absent, fix),
        *_listed(where, "tensors are in another shard than the index says", elsewhere, fix),
        *_listed(where, "tensors of the shards are not in the index", unlisted, fix),
    ]


def _by_classic_name(headers: tuple[SafetensorsHeader, ...]) -> dict[str, TensorEntry]:
    tensors: dict[str, TensorEntry] = {}
    for header in headers:
        for name, entry in header.tensors.items():
            classic = to_classic(name)
            if classic in tensors:
                raise WeightsError(
                    Problem(
                        where=printable(str(entry.file)),
                        key=name,
                        message=f"is the same tensor as {tensors[classic].name} in {tensors[classic].file.name}",
                        fix="keep one of the two",
                    )
                )
            tensors[classic] = entry
    return tensors


def _tied_problems(where: str, embedding: TensorEntry, head: TensorEntry) -> list[Problem]:
    if (embedding.dtype, embedding.shape) != (head.dtype, head.shape):
        differs = f"{head.dtype} {list(head.shape)} against {embedding.dtype} {list(embedding.shape)}"
    elif (at := first_difference(embedding, head)) is not None:
        element = at // DTYPE_BYTES[head.dtype]
        differs = f"the first difference is at [{element // head.shape[1]}, {element % head.shape[1]}]"
    else:
        return []
    return [
        Problem(
            where=where,
            key=head.name,
            message=f"config.json says tie_word_embeddings, but {head.name} differs from {embedding.name}: {differs}",
            fix='set "tie_word_embeddings": false in config.json if the two were trained apart, else remove the tensor',
        )
    ]


def _nothing_to_read(folder: Path) -> Problem:
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        return Problem(where=printable(str(folder)), message="is empty", fix="download the checkpoint into it")
    shards = [name for name in names if name.endswith(".safetensors")]
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]
    if shards:
        message = f"holds {len(shards)} safetensors files ({printable(shards[0], 80)} ...) but no {INDEX_FILE}"
        return Problem(where=printable(str(folder)), message=message, fix=f"download {INDEX_FILE} as well")
    if pickles:
        message = f"holds no safetensors file; {printable(pickles[0], 80)} may be a pickle, which qvl never loads"
        fix = "save the model again where you have torch: model.save_pretrained(dir, safe_serialization=True)"
        return Problem(where=printable(str(folder)), message=message, fix=fix)
    return Problem(
        where=printable(str(folder)),
        message=f"holds neither {SINGLE_FILE} nor {INDEX_FILE}",
        fix="download the checkpoint's weights into it",
    )


def is_plain_name(name: object, suffix: str = "") -> bool:
    """Tell whether this is a file name without any folder: nothing that leads out of where it is used."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= 255
        and name.isprintable()
        and name.endswith(suffix)
        and not name.startswith(".")
        and not set("/\\:") & set(name)
    )


def _listed(where: str, what: str, items: list[str], fix: str) -> list[Problem]:
    if not items:
        return []
    shown = [printable(item) for item in items[:SHOWN]]
    more = [f"... and {len(items) - SHOWN} more"] if len(items) > SHOWN else []
    if len(items) == 1:
        for many, one in (("tensors ", "tensor "), ("shards of the index", "shard of the index"), (" are ", " is ")):
            what = what.replace(many, one, 1)
        what = what.replace(" have ", " has ", 1)
    return [Problem(where=where, message="\n".join([f"{len(items)} {what}:", *shown, *more]), fix=fix)]
