"""A training recipe out of finetune_*.sh, data_*.json and model_*.json."""

from __future__ import annotations

from qvl_core.layout import Layout
from qvl_core.migrate.data_part import put_data
from qvl_core.migrate.fates import NO_COUNTERPART_OPTIONS, NO_EFFECT_OPTIONS, RECOMPUTE
from qvl_core.migrate.job import Job, clean_path
from qvl_core.migrate.ledger import Setting
from qvl_core.migrate.model_part import (
    put_environment,
    put_freeze,
    put_launch,
    put_layout,
    put_model,
    put_weights,
)

# Megatron's own defaults, where a script states nothing (core_r0.8.0, arguments.py).
_MEGATRON = "not stated: Megatron's default"
# Their fused projection -> ours, by component.
_TARGETS: dict[str, dict[str, tuple[str, ...]]] = {
    "text": {
        "linear_qkv": ("q_proj", "k_proj", "v_proj"),
        "linear_proj": ("o_proj",),
        "linear_fc1": ("gate_proj", "up_proj"),
        "linear_fc2": ("down_proj",),
    },
    "vision": {
        "linear_qkv": ("qkv",),
        "linear_proj": ("proj",),
        "linear_fc1": ("gate_proj", "up_proj"),
        "linear_fc2": ("down_proj",),
    },
    "merger": {"linear_fc1": ("mlp.0",), "linear_fc2": ("mlp.2",)},
}


def fill_sft(job: Job) -> None:
    """Fill the draft of a training recipe; the script is there."""
    hf_folder = job.data.get("preprocess_parameters", "model_name_or_path") if job.data else None
    spec = put_model(job, hf_folder)
    put_freeze(job)
    _put_precision(job)
    tp, pp = put_layout(job, spec, inference=False)
    layout = put_launch(job, tp, pp)
    zero = job.option("use-distributed-optimizer")
    job.draft.put("layout.dp", layout.dp, note="devices / (tp * pp)")
    alone = layout.dp == 1
    if alone:
        job.leave("no_effect", zero, "one replica: there is nobody to split the optimizer with")
    note = "one replica: nothing to split" if alone and zero else ""
    job.draft.put("layout.zero1", zero is not None and not alone, zero, note)
    _put_recompute(job)
    put_weights(job, hf_folder)
    put_data(job)
    _put_batches(job, layout)
    _put_optimizer(job)
    _put_lora(job)
    _put_saving(job)
    put_environment(job)
    job.leave_options("no_effect", NO_EFFECT_OPTIONS)
    job.leave_options("no_counterpart", NO_COUNTERPART_OPTIONS)


def _put_precision(job: Job) -> None:
    half, said = job.option("fp16"), job.option("bf16")
    job.leave("no_counterpart", half, "qvl trains in bfloat16 on Ascend")
    note = "" if said else f"{half.where} says --fp16" if half else "not stated: all shipped scripts say --bf16"
    job.draft.put("model.dtype", "bfloat16", said, note)


def _put_recompute(job: Job) -> None:
    """State layout.recompute: the parts for which the model file has a granularity."""
    found: dict[str, Setting] = {}
    for component, table in (("vision", "vision_encoder"), ("text", "text_decoder")):
        setting, *rest = (job.model.get(table, name) if job.model else None for name in RECOMPUTE)
        if setting and setting.value:
            found[component] = setting
            if setting.value != "full":
                job.leave("no_counterpart", setting, "layout.recompute recomputes whole layers: it saves more memory")
        for part in (part for part in rest if part and part.value is not None):
            if component in found:
                job.leave("no_counterpart", part, "layout.recompute recomputes every layer of the part, one by one")
            else:
                job.leave("no_effect", part, "without recompute_granularity nothing is recomputed")
    for name in ("recompute-granularity", "recompute-activations", "recompute-method", "recompute-num-layers"):
        job.leave("no_effect", job.option(name), "recomputation is read from the model file")
    places = list(found.values())
    note = "not stated: the model file recomputes nothing" if job.model else "not stated"
    if places:
        note = "".join(f"and {one.where} {one.said}" for one in places[1:])
    job.draft.put("layout.recompute", list(found) or "none", places[0] if places else None, note)


def _put_batches(job: Job, layout: Layout) -> None:
    steps_said = job.option("train-iters")
    steps = job.whole(steps_said, least=1)
    micro_said = job.option("micro-batch-size") or job.variable("MBS")
    micro = job.whole(micro_said, least=1) or 1
    batch_said = job.option("global-batch-size") or job.variable("GBS")
    batch = job.whole(batch_said, least=1)
    job.require_known("micro-batch-size", "MBS")
    note = _check_accumulation(job, micro, batch, batch_said, layout)
    if batch is None:
        batch, batch_said, note = _derived_batch(job, micro, layout)
    samples_said = job.option("train-samples")
    samples = job.whole(samples_said, least=1)
    if steps is None and samples:
        steps, steps_said = max(1, samples // batch), samples_said
    if steps is None and not steps_said and not samples_said:
        option = "train-samples" if job.unknown("train-samples") and not job.unknown("train-iters") else "train-iters"
        _not_stated(job, option, "train.steps", "no file says how long training is (--train-iters)")
    elif steps is not None:
        job.draft.put("train.steps", steps, steps_said)
    job.draft.put("train.micro_batch", micro, micro_said)
    job.draft.put("train.global_batch", batch, batch_said, note)
    seed = job.option("seed")
    stated = job.whole(seed)
    job.draft.put("train.seed", 1234 if stated is None else stated, seed, _default(job, "seed"))
    if seed:
        job.ledger.remark(seed.where, "--seed did not change the order of samples there; train.seed does")
    token = job.option("calculate-per-token-loss")
    sample = job.option("calculate-per-sample-loss")
    if token and sample:
        job.ledger.contradict("the loss is per token and per sample", [token, sample], 'loss_reduction = "token"')
    reduction = "token" if token else "sample" if sample else "micro_batch"
    note = "" if token or sample else "the reference's; qvl's own recipes use token, which no batch size changes"
    job.draft.put("train.loss_reduction", reduction, token or sample, note)


def _derived_batch(job: Job, micro: int, layout: Layout) -> tuple[int, Setting | None, str]:
    """Give the global batch that no file states as a number, where it comes from, and how."""
    if job.unknown("global-batch-size", "GBS") is None:
        return micro * layout.dp, None, "not stated: micro batch times replicas, as Megatron has it"
    said = job.variable("GRAD_ACC_STEP")
    accumulation = job.whole(said, least=1)
    if accumulation is None:
        job.require_known("global-batch-size", "GBS")
        return micro * layout.dp, None, ""
    note = f"{micro} x {accumulation} x {layout.dp} replicas: the script makes it of the number of devices"
    return micro * accumulation * layout.dp, said, note


def _check_accumulation(job: Job, micro: int, batch: int | None, said: Setting | None, layout: Layout) -> str:
    """Tell where micro batch, accumulation and replicas do not make the global batch that is stated.

    Give a note where they do with context parallelism, which made fewer replicas there.
    """
    accumulation_said = job.variable("GRAD_ACC_STEP")
    accumulation = job.whole(accumulation_said, least=1)
    if not accumulation or not batch or not said or not accumulation_said:
        return ""
    split = job.whole(job.option("context-parallel-size") or job.variable("CP"), least=1) or 1
    replicas = max(1, layout.dp // split)
    product = micro * accumulation * replicas
    if product != batch:
        text = f"{micro} x {accumulation} x {replicas} replicas make {product} samples, not {batch}"
        job.ledger.contradict(text, [accumulation_said, said], f"train.global_batch = {batch}")
    elif replicas != layout.dp:
        return f"{accumulation} micro batches on {replicas} of {layout.dp} replicas there, fewer on each here"
    return ""


def _put_optimizer(job: Job) -> None:
    rate_said = job.option("lr")
    rate = job.number(rate_said)
    if rate is None and not rate_said:
        _not_stated(job, "lr", "train.optimizer.lr", "no file states the learning rate (--lr)")
    table = "train.optimizer"
    optimizer = job.option("optimizer")
    if optimizer and optimizer.text.strip() != "adam":
        job.leave("no_counterpart", optimizer, "qvl trains with AdamW, which is written: lr was chosen for another one")
        optimizer = None
    job.draft.put(f"{table}.name", "adamw", optimizer, "" if optimizer else "Megatron's Adam, which decays weights so")
    job.draft.put(f"{table}.lr", rate or 0.0, rate_said)
    first, second = job.option("adam-beta1"), job.option("adam-beta2")
    low, high = job.number(first), job.number(second)
    both = ("adam-beta1", "adam-beta2")
    made = [name for name in both if job.unknown(name)]
    note = f"and {second.where} {second.said}" if first and second else _default(job, *(made or both))
    betas = [0.9 if low is None else low, 0.999 if high is None else high]
    job.draft.put(f"{table}.betas", betas, first or second, note)
    defaults = (("eps", "adam-eps", 1e-8), ("weight_decay", "weight-decay", 0.01), ("clip_norm", "clip-grad", 1.0))
    for key, name, default in defaults:
        said = job.option(name)
        value = job.number(said)
        job.draft.put(f"{table}.{key}", default if value is None else value, said, _default(job, name))
    style_said = job.option("lr-decay-style")
    style = str(style_said.value) if style_said else "linear"
    table, note = "train.schedule", _default(job, "lr-decay-style")
    if style not in ("cosine", "linear", "constant"):
        job.leave("no_counterpart", style_said, "qvl has cosine, linear and constant; cosine is written")
        style, note = "cosine", f"{style} there, which qvl has not"
    job.draft.put(f"{table}.name", style, style_said, note)
    _put_warmup(job)
    lowest_said = job.option("min-lr")
    lowest = job.number(lowest_said)
    job.draft.put(f"{table}.min_lr", lowest or 0.0, lowest_said, _default(job, "min-lr"))


def _put_warmup(job: Job) -> None:
    fraction_said, steps_said = job.option("lr-warmup-fraction"), job.option("lr-warmup-iters")
    fraction, steps = job.number(fraction_said), job.number(steps_said)
    total = job.draft.value("train.steps") or 0
    if fraction is not None and steps:
        settings = [setting for setting in (fraction_said, steps_said) if setting]
        job.ledger.contradict("warm-up is stated twice", settings, f"warmup = {fraction}")
    samples_said = job.option("lr-warmup-samples")
    samples, batch = job.number(samples_said), job.draft.value("train.global_batch") or 0
    if fraction is None and not steps and samples and batch:
        steps, steps_said = samples / batch, samples_said
    elif samples:
        job.leave("no_effect", samples_said, "the warm-up is stated in another way too, which is used")
    if fraction is None and steps and total:
        fraction, fraction_said = round(steps / total, 6), steps_said
    note = "" if fraction_said else _default(job, "lr-warmup-fraction", "lr-warmup-iters", "lr-warmup-samples")
    job.draft.put("train.schedule.warmup", fraction or 0.0, fraction_said, note)


def _put_lora(job: Job) -> None:
    rank_said, targets_said = job.option("lora-r"), job.option("lora-target-modules")
    alpha_said, dropout_said = job.option("lora-alpha"), job.option("lora-dropout")
    if rank_said is None and targets_said is None:
        for setting in (alpha_said, dropout_said):
            job.leave("no_effect", setting, "without --lora-target-modules nothing is adapted")
        return
    names = str(targets_said.value).split() if targets_said else ["linear_qkv", "linear_proj"]
    frozen = job.draft.value("model.freeze", [])
    adapted = {
        component: [target for name in names for target in table.get(name, ())]
        for component, table in _TARGETS.items()
        if component not in frozen
    }
    components = [component for component, found in adapted.items() if found]
    targets = list(dict.fromkeys(target for found in adapted.values() for target in found))
    strange = [name for name in names if name not in _TARGETS["text"]]
    if strange and targets_said:
        job.leave("no_counterpart", targets_said, f"qvl does not know {', '.join(strange)}")
    table = "train.lora"
    job.draft.put(f"{table}.rank", job.whole(rank_said, least=1) or 8, rank_said)
    alpha = job.number(alpha_said)
    job.draft.put(f"{table}.alpha", 16 if alpha is None else alpha, alpha_said)
    job.draft.put(f"{table}.dropout", job.number(dropout_said) or 0.0, dropout_said)
    if len(components) > 1:
        note = "parts that the model file does not freeze got adapters there too"
        job.draft.put(f"{table}.components", components, targets_said, note)
    note = "the reference adapts fused projections, qvl HF's: q, k, v and gate, up apart"
    job.draft.put(f"{table}.targets", targets or ["q_proj", "k_proj", "v_proj", "o_proj"], targets_said, note)


def _not_stated(job: Job, option: str, key: str, what: str) -> None:
    """Keep the recipe from being written; tell a number that a command makes from one that stands nowhere."""
    said = job.unknown(option)
    made = f"--{option} is made by a command or by the shell that starts the script; nothing is executed here"
    fix = "write the number into the script" if said else "state it in the script"
    job.missing(made if said else what, key, fix, said)


def _default(job: Job, *options: str) -> str:
    """Give the note of a value for which none of these options is known: "" where one of them is."""
    if any(job.option(name) for name in options):
        return ""
    said = next(filter(None, map(job.unknown, options)), None)
    return f"{said.where} {said.said} is not known: Megatron's default" if said else _MEGATRON


def _put_saving(job: Job) -> None:
    every = job.option("save-interval")
    skipped = job.option("no-save-optim")
    unknown = job.unknown("save-interval")
    note = (
        "" if every else f"{unknown.where} {unknown.said} is not known: qvl's default" if unknown else "qvl's default"
    )
    job.draft.put("train.save.every", job.whole(every, least=1) or 500, every, note)
    note = "a run that was interrupted starts anew; true keeps what it needs to go on"
    note = note if skipped else "the script has no --no-save-optim"
    job.draft.put("train.save.optimizer", skipped is None, skipped, note)
    log = job.option("log-interval")
    job.draft.put("train.log.every", job.whole(log, least=1) or 100, log, _default(job, "log-interval"))
    every = job.option("eval-interval")
    if job.draft.value("data.validation"):
        count = job.whole(every, least=1) or 1000
        job.draft.put("train.log.validate_every", count, every, _default(job, "eval-interval"))
    else:
        job.leave("no_effect", every, "no validation data are stated")
    folder = job.option("save") or job.variable("SAVE_PATH", "CKPT_SAVE_DIR")
    default = f"runs/{job.draft.name}"
    path = clean_path(folder.text) if folder and isinstance(folder.value, str) else default
    unknown = job.unknown("save", "SAVE_PATH")
    note = "" if path != default else f"{unknown.where} {unknown.said} is not known" if unknown else "qvl's default"
    job.draft.put("output.dir", path, folder if path != default else None, note)
