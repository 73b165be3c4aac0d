"""Inference and evaluation recipes out of inference_*.json/.sh and evaluate_*.json/.sh."""

from __future__ import annotations

from qvl_core.migrate.data_part import IMAGE_TOKEN, VIDEO_TOKEN
from qvl_core.migrate.fates import (
    NEUTRAL_GENERATION,
    NO_COUNTERPART_ANSWERS,
    NO_COUNTERPART_MODEL,
    NO_COUNTERPART_OPTIONS,
    NO_EFFECT_ANSWER_OPTIONS,
    NO_EFFECT_ANSWERS,
    NO_EFFECT_OPTIONS,
)
from qvl_core.migrate.folder import Kind, Sheet
from qvl_core.migrate.job import Job, as_list, clean_path
from qvl_core.migrate.ledger import Setting
from qvl_core.migrate.model_part import put_environment, put_launch, put_layout, put_model, put_weights

_BENCHMARKS = ("ai2d_test", "chartqa_test", "docvqa_val", "mmmu_dev_val")
_PIXELS = (1_003_520, 12_845_056)
_PROMPT = "Describe the image in at most 100 words."
# Generation defaults of the reference's code.
_DEFAULTS = {"max_new_tokens": 256, "temperature": 0.1, "top_k": 1, "top_p": 0.001, "repetition_penalty": 1.05}


def fill_infer(job: Job) -> None:
    """Fill the draft of an inference recipe; `job.model` is inference_*.json."""
    _fill_common(job)
    sheet = job.model
    assert sheet is not None
    prompt = sheet.get("prompts") or sheet.get("prompt")
    texts = [text for text in as_list(prompt.value) if isinstance(text, str)] if prompt else []
    job.draft.put("infer.prompt", texts[0] if texts else _PROMPT, prompt, "" if texts else "not stated")
    if len(texts) > 1:
        job.leave("no_counterpart", prompt, "only the first was asked; infer.input takes a file of questions")
    for name, key in (("image_path", "infer.images"), ("video_path", "infer.videos")):
        setting = sheet.get(name)
        paths = [path for path in as_list(setting.value) if isinstance(path, str) and path] if setting else []
        if paths:
            job.draft.put(key, [clean_path(paths[0])], setting)
        if len(paths) > 1:
            job.leave("no_effect", setting, "only the first of the list was ever read")
    _check_token(job, sheet)
    both = [setting for setting in (sheet.get("image_path"), sheet.get("video_path")) if setting and setting.value]
    if len(both) == 2:
        job.ledger.contradict("an image and a video are stated; only one was read", both, "both: qvl takes both")
    for name in ("min_pixels", "max_pixels"):
        setting = sheet.get(name)
        job.leave("no_effect", setting, "plain inference ignored it (written: qvl keeps to it)")
    if any(path.startswith("infer.videos") for path in job.draft.rows):
        job.ledger.remark(
            sheet.file, "positions of videos differed between training and inference there; qvl has one rule"
        )
    job.draft.put("output.dir", f"runs/{job.draft.name}", note="not stated: qvl's default")
    _leave_rest(job)


def fill_eval(job: Job) -> None:
    """Fill the draft of an evaluation recipe; `job.model` is evaluate_*.json."""
    _fill_common(job)
    sheet = job.model
    assert sheet is not None
    name, path = sheet.get("evaluation_dataset"), sheet.get("dataset_path")
    benchmark = name.text.strip().lower() if name and isinstance(name.value, str) else ""
    if benchmark not in _BENCHMARKS:
        what = f"evaluation_dataset is {benchmark or 'not stated'}; qvl knows {', '.join(_BENCHMARKS)}"
        job.missing(what, "eval.benchmark", "state one of them in evaluate_*.json", name)
    else:
        job.draft.put("eval.benchmark", benchmark, name)
    if path is None or not isinstance(path.value, str) or not path.value.strip():
        job.missing("no dataset_path is stated", "eval.data", "state the benchmark's TSV file in evaluate_*.json", path)
    else:
        job.draft.put("eval.data", clean_path(path.text), path)
        _check_pair(job, benchmark, name, path)
    note = "the headline is comparable with published scores; mindspeed is what the reference reports, faults included"
    job.draft.put("eval.rules", ["vlmevalkit-2025-09", "mindspeed"], note=note)
    custom = sheet.get("use_custom_prompt")
    prompts = "default" if job.switch(custom) is False else "custom"
    job.draft.put("eval.prompts", prompts, custom, "" if custom else "not stated: the reference's default")
    job.draft.put("eval.batch", 1, note="one question at a time, as there; more is faster")
    out = sheet.get("result_output_path")
    if out and isinstance(out.value, str) and out.value.strip():
        job.draft.put("output.dir", clean_path(out.text), out)
    else:
        job.draft.put("output.dir", f"runs/{job.draft.name}", note="not stated: qvl's default")
    _leave_rest(job)


def _fill_common(job: Job) -> None:
    sheet = job.model
    assert sheet is not None
    hf_folder = sheet.get("tokenizer", "from_pretrained") or sheet.get("from_pretrained")
    _compare_folders(job, hf_folder)
    spec = put_model(job, hf_folder)
    job.draft.put("model.dtype", "bfloat16", sheet.get("dtype") or job.option("bf16"))
    tp, pp = put_layout(job, spec, inference=True)
    layout = put_launch(job, tp, pp)
    if job.draft.task == "infer" and layout.dp > 1:
        said = job.variable("NPUS_PER_NODE")
        text = f"{layout.dp * tp * pp} devices are started for a layout of {tp * pp}: one prompt needs {tp * pp}"
        job.ledger.remark(said.where if said else sheet.file, text)
        job.draft.put("launch.devices_per_node", max(1, tp * pp), said, "tp * pp")
        job.draft.put("launch.nodes", 1, note="one prompt needs one layout")
    else:
        job.draft.put("layout.dp", layout.dp, note="devices / (tp * pp)")
    put_weights(job, hf_folder)
    low, high = (job.whole(sheet.get(name)) for name in ("min_pixels", "max_pixels"))
    job.draft.put("data.image.min_pixels", low or _PIXELS[0], sheet.get("min_pixels"))
    job.draft.put("data.image.max_pixels", high or _PIXELS[1], sheet.get("max_pixels"))
    _put_generation(job)
    put_environment(job)
    _load_twice(job)


def _compare_folders(job: Job, hf_folder: Setting | None) -> None:
    """Tell where this task and another one of the same size name different HF folders."""
    data = job.folder.training_data(job.key)
    theirs = data.get("preprocess_parameters", "model_name_or_path") if data else None
    if theirs is None and job.draft.task == "eval" and (other := job.folder.sheet("inference", job.key)):
        theirs = other.get("tokenizer", "from_pretrained") or other.get("from_pretrained")
    if hf_folder is None or theirs is None or clean_path(hf_folder.text) == clean_path(theirs.text):
        return
    used = "each recipe has the folder of its own file"
    job.ledger.contradict("two HF folders for one model", [theirs, hf_folder], used)


def _check_token(job: Job, sheet: Sheet) -> None:
    """Tell where the file's one token id is not that of the image or video that it asks about."""
    token, image, video = (sheet.get(name) for name in ("img_context_token_id", "image_path", "video_path"))
    if token is None or bool(image and image.value) == bool(video and video.value):
        return
    read, what, other = (video, "a video", "image") if video and video.value else (image, "an image", "video")
    if read and token.value == {"image": IMAGE_TOKEN, "video": VIDEO_TOKEN}[other]:
        text = f"{what} is asked about, img_context_token_id marks the places of {other} tokens"
        job.ledger.contradict(text, [read, token], "neither: qvl finds the places token by token")


def _put_generation(job: Job) -> None:
    sheet = job.model
    assert sheet is not None
    values = {}
    for name, default in _DEFAULTS.items():
        setting = sheet.get("generation_config", name)
        number = job.number(setting)
        values[name] = (default if number is None else number, setting)
    temperature, temperature_said = values["temperature"]
    top_k, _ = values["top_k"]
    if temperature > 0 and top_k == 1:
        note = "top_k = 1 takes the likeliest token: greedy in effect, stated as such"
        values["temperature"] = (0.0, temperature_said)
        values["top_p"] = (1.0, values["top_p"][1])
    else:
        note = ""
    for name, (value, setting) in values.items():
        whole = name in ("max_new_tokens", "top_k")
        job.draft.put(
            f"generation.{name}",
            int(value) if whole else float(value),
            setting,
            note if name in ("temperature", "top_p") else "" if setting else "not stated: the reference's default",
        )
    if seed := job.option("seed"):
        note = "draws are qvl's own: the same number, not the same draws"
        job.draft.put("generation.seed", job.whole(seed) or 0, seed, note)
    _name_neutral(job, sheet)
    beams = sheet.get("generation_config", "num_beams")
    if beams and (job.whole(beams) or 1) > 1:
        job.leave("no_counterpart", beams, "beam search raised an error there; qvl has greedy and sampling")


def _name_neutral(job: Job, sheet: Sheet) -> None:
    """Tell the keys of generation_config that change nothing from those that would."""
    for name, why in NO_COUNTERPART_MODEL.items():
        job.leave("no_counterpart", sheet.get("generation_config", name), why)
    for name, default in NEUTRAL_GENERATION.items():
        setting = sheet.get("generation_config", name)
        if setting is None or setting.value is None:
            continue
        if setting.value == default:
            job.leave("in_accord", setting, "changes nothing at this value")
        elif name != "num_beams":
            job.leave("no_counterpart", setting, "qvl has temperature, top_k, top_p and repetition_penalty")


def _check_pair(job: Job, benchmark: str, name: Setting | None, path: Setting) -> None:
    """Tell where the file's name is that of another benchmark."""
    squeezed = path.text.lower().replace("-", "").replace("_", "")
    of_path = [known for known in _BENCHMARKS if known.split("_")[0] in squeezed]
    if name and benchmark in _BENCHMARKS and of_path and benchmark not in of_path:
        text = f"evaluation_dataset is {benchmark}, the file is that of {of_path[0]}"
        job.ledger.contradict(text, [name, path], f"eval.benchmark = {benchmark}, with that file")


def _load_twice(job: Job) -> None:
    """Tell where another script and this one load the same converted folder with different cuts."""
    ours = job.option("load") or job.variable("LOAD_PATH")
    if ours is None or job.launch is None:
        return
    before: tuple[Kind, ...] = ("finetune", "inference") if job.draft.task == "eval" else ("finetune",)
    for other in (job.folder.scripts.get((kind, job.key)) for kind in before):
        theirs = other.option("load") or other.variable("LOAD_PATH") if other else None
        if other is None or theirs is None or clean_path(theirs.text) != clean_path(ours.text):
            continue
        for option, variable in (("pipeline-model-parallel-size", "PP"), ("tensor-model-parallel-size", "TP")):
            first = other.option(option) or other.variable(variable)
            second = job.launch.option(option) or job.launch.variable(variable)
            if first and second and first.text != second.text:
                text = (
                    f"one converted folder, {clean_path(ours.text)}, is loaded with two cuts: one of them cannot load"
                )
                job.ledger.contradict(text, [first, second, ours], "both: qvl loads the HF folder into any layout")


def _leave_rest(job: Job) -> None:
    sheet = job.model
    assert sheet is not None
    for name, why in NO_EFFECT_ANSWERS.items():
        job.leave("no_effect", sheet.get(name), why)
    for name, why in NO_COUNTERPART_ANSWERS.items():
        setting = sheet.get(name)
        if name != "dtype":
            job.leave("no_counterpart", setting, why)
    job.leave_options("no_effect", NO_EFFECT_OPTIONS)
    job.leave_options("no_effect", NO_EFFECT_ANSWER_OPTIONS)
    job.leave_options("no_counterpart", NO_COUNTERPART_OPTIONS)
