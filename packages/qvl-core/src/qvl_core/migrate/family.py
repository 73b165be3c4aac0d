"""Whether files are those of Qwen2.5-VL: the reference stack has folders of other models that look alike."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath

from qvl_core.errors import Problem
from qvl_core.migrate.folder import Sheet
from qvl_core.migrate.job import Job
from qvl_core.migrate.ledger import Setting

# As names are squeezed: small letters and digits only. The first that is found counts.
_OURS = re.compile(r"qwen25vl|qwen25lm|qwen25vit")
_OTHERS = re.compile(
    r"qwen2vl(?!pipeline)|qwen2lm|qwen3|qwen25omni|qwen2omni|qwen2audio|internvl|internlm|internllm|llava|deepseek|"
    r"minicpm|glm4|janus|llama|vicuna|opensora|cogvideo|hunyuan|whisper"
)
# Qwen2-VL's vision encoder has no windows.
_WINDOWED = ("fullatt_block_indexes", "window_attn_size", "window_size")


def is_ours(name: str) -> bool | None:
    """Tell whether a name is one of Qwen2.5-VL (True), of another model (False), or says nothing (None)."""
    squeezed = re.sub(r"[^a-z0-9]", "", name.lower())
    if _OURS.search(squeezed):
        return True
    return False if _OTHERS.search(squeezed) else None


def check_family(job: Job) -> bool:
    """Tell whether the files may be those of Qwen2.5-VL; where not, the job is stuck with one problem."""
    named = list(_named(job))
    ours = [setting for setting in named if is_ours(_last(setting))]
    others = [setting for setting in named if is_ours(_last(setting)) is False]
    windowed = job.model is not None and any(job.model.get("vision_encoder", key) for key in _WINDOWED)
    if not others and not named and not windowed:
        others = list(_by_place(job))
    if others and not ours and (not windowed or len(others) > 1):
        first = others[0]
        message = f"is {first.text[:120]!r}: a file of another model; qvl has Qwen2.5-VL, of 3B, 7B, 32B and 72B"
        fix = "qvl migrate the folder of Qwen2.5-VL, examples/mindspore/qwen2.5vl; correct it there if it is that one"
        job.stuck.append(Problem(where=first.where, key=first.said, message=message, fix=fix))
        job.folder.foreign |= {one.file for one in (job.launch, job.data, job.model) if one is not None}
        return False
    if others:
        used = "Qwen2.5-VL: a wrong folder of weights is refused when the run starts"
        job.ledger.contradict("the files speak of another model too", [*ours[:1], *others], used)
    return True


def _named(job: Job) -> Iterator[Setting]:
    """Give what the files say of the model."""
    sheets: list[tuple[Sheet | None, tuple[str, ...]]] = [
        (job.model, ("text_decoder", "model_id")),
        (job.data, ("preprocess_parameters", "model_name_or_path")),
        (job.model, ("tokenizer", "from_pretrained")),
    ]
    if job.model is not None and job.model.source.values.get("model_id") is not None:
        sheets.append((job.model, ("model_id",)))
    for sheet, path in sheets:
        setting = sheet.get(*path) if sheet else None
        if setting is not None and isinstance(setting.value, str) and is_ours(_last(setting)) is not None:
            yield setting


def _by_place(job: Job) -> Iterator[Setting]:
    """Give the names of the script and its folder, where the files say nothing of the model."""
    file = job.launch.file if job.launch else job.model.file if job.model else ""
    names = [("file", file), ("folder", job.folder.path.absolute().name)]
    known = [(said, name) for said, name in names if is_ours(name) is not None]
    if not any(is_ours(name) for _, name in known):
        yield from (Setting(value=name, where=file, said=said) for said, name in known)


def _last(setting: Setting) -> str:
    """Give the last part of a path: folders above may have any name."""
    return PurePath(setting.text.strip()).name
