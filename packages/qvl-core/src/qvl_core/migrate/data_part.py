"""[data] of a training recipe: files, their format, media bounds, labels and validation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qvl_core.migrate.fates import NO_COUNTERPART_DATA, NO_EFFECT_DATA
from qvl_core.migrate.folder import Sheet
from qvl_core.migrate.job import Job, clean_path
from qvl_core.migrate.ledger import Fate, Setting
from qvl_core.migrate.media_root import settle_media_roots

VIDEO_TOKEN = 151656
IMAGE_TOKEN = 151655
# What the processor makes one token of, and the least that it makes of a medium.
_TOKEN_PIXELS = 28 * 28
_LEAST_PIXELS = 4 * _TOKEN_PIXELS
# The recipe's default of data.video.min_frames.
_MIN_FRAMES = 4
_STREAMING_SAMPLER = "stateful_distributed_sampler"
# Names of columns and roles: the reference's defaults, which are LLaVA's.
_DEFAULTS = {
    "messages": "conversations",
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
    "observation_tag": "observation",
    "function_tag": "function_call",
}
_FORMATS: dict[str, dict[str, str]] = {
    "sharegpt": {
        "messages": "messages",
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "images": "images",
        "videos": "videos",
    },
    "llava": {
        "messages": "conversations",
        "role_tag": "from",
        "content_tag": "value",
        "user_tag": "human",
        "assistant_tag": "gpt",
        "images": "image",
        "videos": "video",
    },
}


def put_data(job: Job) -> None:
    """State [data] from data_*.json. Raises nothing: what is missing goes to job.stuck."""
    sheet = job.data
    if sheet is None:
        broken = [name for name in job.folder.broken if name.startswith("data_")]
        fix = f"put data_{job.key}.json beside the script, or write data.sources yourself"
        what = "the data file is not there, and nothing else names the training data"
        if broken:
            what, fix = f"{', '.join(broken)} cannot be read", "correct the file, see above"
        job.missing(what, "data.sources", fix)
        _put_length(job)
        return
    streaming = sheet.get("basic_parameters", "streaming")
    streams = job.switch(streaming)
    _put_sources(job, sheet, streams=bool(streams))
    _put_length(job)
    if streams is not None:
        job.draft.put("data.streaming", streams, streaming)
    if streams and streaming:
        _compare_streaming(job, sheet, streaming)
    _put_labels(job, sheet)
    _put_media(job, sheet)
    _put_validation(job, sheet)
    settle_media_roots(job, sheet)
    in_file = sheet.get("dataloader_param", "num_workers")
    job.leave("no_effect", in_file, "was always replaced by the command line's --num-workers, or its default")
    _compare_loader(job, sheet)
    cache = sheet.get("basic_parameters", "cache_dir")
    if cache and isinstance(cache.value, str) and cache.value.strip():
        note = "on a local disk of each machine, never a shared one"
        job.draft.put("data.cache_dir", clean_path(cache.text), cache, note)
    _leave_rest(job, sheet)


def _compare_streaming(job: Job, sheet: Sheet, streaming: Setting) -> None:
    """Tell what does not go with streaming there: another sampler, and workers."""
    sampler = sheet.get("dataloader_param", "sampler_type")
    if sampler and sampler.value not in (None, _STREAMING_SAMPLER):
        text = f"streaming needs sampler_type {_STREAMING_SAMPLER} there"
        job.ledger.contradict(text, [streaming, sampler], "streaming; qvl has one order for each of its ways to read")
    workers = job.draft.rows.get("data.workers")
    if workers and workers.value:
        job.draft.rows["data.workers"] = replace(workers, note="0 there, whatever was stated, as data were streamed")


def _compare_loader(job: Job, sheet: Sheet) -> None:
    """Tell where the data file states otherwise what the script's options always replaced."""
    for name, option in (("batch_size", "micro-batch-size"), ("num_workers", "num-workers"), ("seed", "seed")):
        stated, flag = sheet.get("dataloader_param", name), job.option(option)
        if stated and flag and stated.value is not None and flag.text != stated.text:
            what = f"the data file's {name} is not the script's --{option}"
            job.ledger.contradict(what, [stated, flag], "the script's, as there")


def _put_length(job: Job) -> None:
    """State what the script says of the data: the length of samples, and how many workers make them."""
    seen = job.option("seq-length") or job.variable("SEQ_LEN", "SEQ_LENGTH")
    job.require_known("seq-length", "SEQ_LEN", "SEQ_LENGTH")
    length = job.whole(seen, least=1)
    job.draft.put("data.sequence_length", length or 1024, seen, "" if seen else "not stated: the reference recipes'")
    job.draft.put("data.too_long", "drop", note="the reference cuts longer samples, even inside an image")
    workers = job.option("num-workers")
    number = job.whole(workers)
    if number is not None:
        job.draft.put("data.workers", number, workers)


def _put_sources(job: Job, sheet: Sheet, *, streams: bool) -> None:
    stated = sheet.get("basic_parameters", "dataset")
    if stated and isinstance(stated.value, list) and all(isinstance(path, str) for path in stated.value):
        stated = replace(stated, value=",".join(stated.value))
    root, limit = (sheet.get("basic_parameters", name) for name in ("dataset_dir", "max_samples"))
    if stated is None or not isinstance(stated.value, str) or not stated.value.strip(" ,"):
        job.missing(f"{sheet.file} names no dataset", "data.sources", "write data.sources yourself", stated)
        return
    media_root = clean_path(root.text) or "." if root and isinstance(root.value, str) else "data"
    source: dict[str, Any] = {"format": "", "media_root": media_root}
    source["format"], tags = _format(job, sheet)
    if tags:
        source["tags"] = tags
    paths = [clean_path(part) for part in stated.value.split(",") if part.strip()]
    if " " in stated.value.replace(", ", ","):
        job.ledger.remark(stated.where, "a file name holds a space: the reference stack splits at commas only")
    sources = [{"path": path, **source} for path in paths]
    if limit is not None and limit.value is not None:
        _limit(job, limit, sources, streams)
    job.draft.put("data.sources", sources, stated)


def _limit(job: Job, limit: Setting, sources: list[dict[str, Any]], streams: bool) -> None:
    number = job.whole(limit, least=1)
    if streams:
        job.leave("no_effect", limit, "was ignored with streaming")
    elif number and len(sources) == 1:
        sources[0]["max_samples"] = number
    elif number:
        why = "counted over all files together; qvl counts for each file: set max_samples of each source"
        job.leave("no_counterpart", limit, why)
        text = f"max_samples = {number} is not in the recipe, which takes all samples of {len(sources)} files"
        job.ledger.remark(limit.where, f"{text}: set max_samples of each source")


def _format(job: Job, sheet: Sheet) -> tuple[str, dict[str, str]]:
    """Give the record format that the attr names spell, and the names that differ from it."""
    stated = {name: sheet.get("attr", name) for name in (*_DEFAULTS, "images", "videos", "system")}
    for setting in stated.values():
        if setting and setting.value is not None and not isinstance(setting.value, str):
            job.leave("unknown", setting, "has to be the name of a column or a role, or null; taken as not stated")
    named = {
        name: setting.value if setting and isinstance(setting.value, str) else default
        for name, default in _DEFAULTS.items()
        for setting in [stated[name]]
    }
    for name in ("images", "videos", "system"):
        setting = stated[name]
        if setting is not None and isinstance(setting.value, str):
            named[name] = setting.value
    score = {kind: sum(named.get(name) == value for name, value in names.items()) for kind, names in _FORMATS.items()}
    kind = max(score, key=lambda name: score[name])
    usual = {**_DEFAULTS, **_FORMATS[kind]}
    return kind, {name: value for name, value in named.items() if value != usual.get(name)}


def _put_labels(job: Job, sheet: Sheet) -> None:
    everything, last = (sheet.get("basic_parameters", name) for name in ("train_on_prompt", "mask_history"))
    learns_all, learns_last = job.switch(everything), job.switch(last)
    if learns_all and learns_last:
        on = [setting for setting in (everything, last) if setting]
        job.ledger.contradict("the prompt is learned, and the history is not", on, 'loss_on = "last_answer"')
    if learns_last:
        job.draft.put("data.loss_on", "last_answer", last)
    elif learns_all:
        job.draft.put("data.loss_on", "all", everything)
    else:
        job.draft.put("data.loss_on", "answers", everything or last)


def _put_media(job: Job, sheet: Sheet) -> None:
    low, high = (sheet.get("preprocess_parameters", f"image_{side}_pixels") for side in ("min", "max"))
    _put_pixels(job, "data.image", low, high, _LEAST_PIXELS, 589_824)
    videos = sheet.get("attr", "videos")
    reads_videos = bool(videos and videos.value)
    images = sheet.get("attr", "images")
    if reads_videos and videos and images and images.value:
        text = "attr.images and attr.videos are both set: there the videos of a batch took the place of its images"
        job.ledger.remark(videos.where, f"{text}; qvl reads both")
    names = ("video_fps", "video_maxlen", "video_min_pixels", "video_max_pixels")
    fps, frames, low, high = (sheet.get("preprocess_parameters", name) for name in names)
    if reads_videos:
        note = "the reference's rule; qwen is what the model was trained with"
        job.draft.put("data.video.sampling", "mindspeed", videos, note)
        job.draft.put("data.video.fps", job.number(fps) or 2.0, fps)
        most = max(2, job.whole(frames, least=1) or 128)
        job.draft.put("data.video.max_frames", most, frames)
        if most < _MIN_FRAMES:
            job.draft.put("data.video.min_frames", most, frames, f"{_MIN_FRAMES} where video_maxlen allows it")
        _put_pixels(job, "data.video", low, high, 12_544, 65_536)
    else:
        for setting in (fps, frames, low, high):
            job.leave("no_effect", setting, "attr.videos is null: no record has a video")
    _check_token(job, videos, reads_videos)


def _put_pixels(job: Job, table: str, low: Setting | None, high: Setting | None, least: int, most: int) -> None:
    """State the bounds; `least` where none or 0 is stated. Fewer than 4 tokens are never made."""
    maximum = job.whole(high, least=1) or most
    minimum = job.whole(low)
    note = ""
    if not minimum or minimum < _LEAST_PIXELS:
        stated = f"{minimum} there; " if minimum is not None else ""
        minimum = min(_LEAST_PIXELS if minimum else least, maximum)
        note = f"{stated}smaller media are enlarged to {max(1, minimum // _TOKEN_PIXELS)} tokens"
        note += " a pair of frames" if table == "data.video" else " instead of failing"
    job.draft.put(f"{table}.min_pixels", minimum, low, note)
    job.draft.put(f"{table}.max_pixels", maximum, high, "" if high else "not stated: the reference's default")


def _check_token(job: Job, videos: Setting | None, reads_videos: bool) -> None:
    token = job.model.get("img_context_token_id") if job.model else None
    if token is None or videos is None:
        return
    expected = VIDEO_TOKEN if reads_videos else IMAGE_TOKEN
    if token.value in (IMAGE_TOKEN, VIDEO_TOKEN) and token.value != expected:
        what = "videos" if reads_videos else "images"
        stated = "image" if reads_videos else "video"
        text = f"the data file reads {what}, the model file marks the places of {stated} tokens"
        job.ledger.contradict(text, [videos, token], "neither: qvl finds the places token by token")


def _put_validation(job: Job, sheet: Sheet) -> None:
    path, rate = (sheet.get("basic_parameters", name) for name in ("val_dataset", "val_rate"))
    if path and isinstance(path.value, list) and path.value:
        job.leave("no_counterpart", path, "data.validation takes one file: the first of the list is written")
        path = replace(path, value=path.value[0])
    has_path = bool(path and isinstance(path.value, str) and path.value.strip())
    fraction = job.number(rate)
    if has_path and rate and rate.value is not None:
        job.ledger.contradict(
            "a validation file and a fraction are both stated", [s for s in (path, rate) if s], "the file, as there"
        )
    note = "pretrain_vlm.py of that version ignored it; qvl validates"
    if has_path and path:
        sources = job.draft.value("data.sources") or [{}]
        kept = {key: sources[0][key] for key in ("format", "media_root", "tags") if key in sources[0]}
        job.draft.put("data.validation", {"path": clean_path(path.text), **kept}, path, note)
    elif rate and fraction and job.draft.value("data.streaming"):
        job.leave("no_effect", rate, "streaming takes val_dataset only")
    elif rate and fraction and 0 < fraction < 1:
        job.draft.put("data.validation", {"fraction": fraction}, rate, note)
    elif rate and rate.value not in (None, 0):
        job.leave("no_effect", rate, "is no fraction between 0 and 1: no validation")
    for setting in (path, rate):
        if setting is not None and setting.value not in (None, 0, "") and job.draft.value("data.validation"):
            job.leave("no_effect", setting, "pretrain_vlm.py of that version ignored it (written: qvl validates)")


def _leave_rest(job: Job, sheet: Sheet) -> None:
    job.leave("no_effect", sheet.get("cutoff_len"), "was refused there; --seq-length is the cutoff")
    for setting in sheet.under("attr"):
        name = setting.said.rpartition(".")[2]
        if name in NO_EFFECT_DATA and setting.value:
            job.leave("no_effect", setting, NO_EFFECT_DATA[name])
    formatting = sheet.get("attr", "formatting")
    if formatting and formatting.value not in (None, "sharegpt"):
        why = "raised an error there, only sharegpt was read; data.sources.format is what the attr names spell"
        job.leave("no_effect", formatting, why)
    in_map = sheet.get("basic_parameters", "num_workers")
    job.leave("no_counterpart", in_map, "processes of the pre-computed map, which qvl does not have")
    tables: tuple[tuple[Fate, dict[str, str]], ...] = (
        ("no_effect", NO_EFFECT_DATA),
        ("no_counterpart", NO_COUNTERPART_DATA),
    )
    for fate, table in tables:
        for name, why in table.items():
            found = sheet.get(name)
            if found is not None and found.value is not None:
                job.leave(fate, found, why)
