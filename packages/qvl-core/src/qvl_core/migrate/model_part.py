"""Which model, how it is cut, and on which devices: [model], [layout], [weights], [launch], [env]."""

from __future__ import annotations

import re
from dataclasses import replace
from math import gcd
from typing import Any

from qvl_core.errors import Problem
from qvl_core.layout import Layout
from qvl_core.layout_rules import check_stages, check_tensor_degree
from qvl_core.migrate.fates import LAUNCH_VARIABLES, NO_COUNTERPART_MODEL
from qvl_core.migrate.job import Job, clean_path
from qvl_core.migrate.ledger import Setting
from qvl_core.migrate.structure import compare_structure, name_by_sizes
from qvl_core.recipe.environment_rules import FAMILIES, INSTEAD, TORCH_ONLY, closest_variable
from qvl_core.recipe.environment_text import VariableError, value_of_text
from qvl_core.recipe.sections import EnvSection
from qvl_core.specs import load_spec
from qvl_core.specs.model_spec import ModelSpec

_SIZE = re.compile(r"(?<![\d.])(3|7|32|72)[_-]?b(?![a-z])", re.IGNORECASE)
_DEFAULT_PORT = 29501
# Devices that a machine has at least.
_DEVICES = 8
_FROM_LISTS = "from the length of the stage lists"


def put_model(job: Job, hf_folder: Setting | None) -> ModelSpec | None:
    """State model.name, found by the sizes of the model file, the name of the HF folder, and the files' names."""
    by_shape = name_by_sizes(job.model) if job.model else None
    by_path = _by_name(hf_folder.text) if hf_folder else None
    by_key = _by_name(job.key)
    name = by_shape or by_path or by_key
    said = job.model.get("text_decoder", "num_layers") if job.model and by_shape else hf_folder
    if name is None:
        fix = "name the files after their size (data_7b.json), or write model.config with the path of an HF config.json"
        job.missing("which model this is can be read off neither the model file nor a name", "model.name", fix)
        return None
    places = [(by_shape, said), (by_path, hf_folder)]
    other = [setting for found, setting in places if found not in (None, name) and setting]
    if other and said:
        job.ledger.contradict("the files speak of different models", [said, *other], f"model.name = {name}")
    if by_key not in (None, name) and said:
        text = f"the file names say {by_key}; {said.said} says {name}, which is used"
        job.ledger.remark(said.where, text)
    note = "" if by_shape or by_path else f"read off the files' names: {job.key}"
    job.draft.put("model.name", name, said if by_shape or by_path else None, note)
    job.draft.model = name
    spec = load_spec(name)
    if job.model:
        compare_structure(job, job.model, spec)
        for key, why in NO_COUNTERPART_MODEL.items():
            job.leave("no_counterpart", job.model.get(key), why)
    return spec


def put_freeze(job: Job) -> None:
    """State model.freeze from the two `freeze` switches; where they are absent, the reference's own defaults hold."""
    frozen: list[str] = []
    said = None
    more = ""
    parts = (("vision", "vision_encoder", True), ("merger", "vision_projector", False))
    for component, table, default in parts:
        setting = job.model.get(table, "freeze") if job.model else None
        if setting and not isinstance(setting.value, bool | None):
            message = f"is {setting.text[:80]!r}; it has to be true or false, without quotes"
            job.stuck.append(Problem(where=setting.where, key=setting.said, message=message, fix="correct it there"))
            continue
        more = f"and {setting.where} {setting.said}" if said and setting else more
        said = said or setting
        # Without a model file all shipped sizes are meant, and those freeze both.
        if setting.value if setting else default or job.model is None:
            frozen.append(component)
    text = job.model.get("text_decoder", "freeze") if job.model else None
    job.leave("no_effect", text, "nothing read it: the text part was always trained")
    note = "not stated: the reference's default" if job.model else "not stated: all shipped model files freeze both"
    job.draft.put("model.freeze", frozen, said, more if said else note)


def put_layout(job: Job, spec: ModelSpec | None, *, inference: bool) -> tuple[int, int]:
    """State tp, pp and the stage lists; lists that contradict each other, or pp, are left out and derived."""
    tp_said = job.option("tensor-model-parallel-size") or job.variable("TP")
    pp_said = job.option("pipeline-model-parallel-size") or job.variable("PP")
    job.require_known("tensor-model-parallel-size", "TP")
    job.require_known("pipeline-model-parallel-size", "PP")
    tp, stated = job.whole(tp_said, least=1) or 1, job.whole(pp_said, least=1)
    lists = [_stages(job, table) for table in ("vision_encoder", "text_decoder")]
    known = [(stages, setting) for stages, setting in lists if stages is not None and setting]
    pp = stated or (len(known[0][0]) if known else 1)
    job.draft.put("layout.tp", tp, tp_said, "" if tp_said else _one(job, "tensor-model-parallel-size", "TP"))
    one = _one(job, "pipeline-model-parallel-size", "PP")
    job.draft.put("layout.pp", pp, pp_said, "" if pp_said else _FROM_LISTS if known else one)
    if spec and tp_said:
        # Told here, with its line: a wrong degree makes a nonsense of the batch too, which is told first otherwise.
        job.stuck += [replace(problem, where=tp_said.where) for problem in check_tensor_degree(spec, tp)]
    cp = job.option("context-parallel-size") or job.variable("CP")
    if cp and (job.whole(cp, least=1) or 1) > 1:
        job.leave("no_counterpart", cp, "qvl has no context parallelism; its devices become replicas")
    virtual = job.option("virtual-pipeline-model-parallel-size") or job.variable("VP_SIZE")
    job.leave("no_counterpart", virtual, "qvl's pipeline is not interleaved")
    if len(known) == 2 and spec:
        _put_stages(job, spec, pp, pp_said, known, inference)
    return tp, pp


def _one(job: Job, option: str, variable: str) -> str:
    """Say why a degree is 1 that no file gives as a number."""
    return "not known: 1 is taken" if job.unknown(option, variable) else "not stated: 1, as there"


def _put_stages(job: Job, spec: ModelSpec, pp: int, pp_said: Setting | None, known: list[Any], inference: bool) -> None:
    (vision, vision_said), (text, text_said) = known
    if pp == 1 and len(vision) == len(text) > 1:
        used = "pp = 1, which ignores the lists, as in the reference stack"
        job.ledger.contradict(
            f"the stage lists are for {len(text)} stages, the script starts 1",
            [vision_said, text_said, *([pp_said] if pp_said else [])],
            used,
        )
        return
    problems = check_stages(spec, pp, vision, text, inference=inference)
    if problems:
        settings = [vision_said, text_said, *([pp_said] if pp_said else [])]
        faults = "; ".join(f"{problem.key.rpartition('.')[2]} {problem.message}" for problem in problems)
        job.ledger.contradict(faults, settings, f"pp = {pp}; the lists are left out, and qvl derives legal ones")
        return
    job.draft.put("layout.vision_stages", list(vision), vision_said)
    job.draft.put("layout.text_stages", list(text), text_said)


def put_launch(job: Job, tp: int, pp: int) -> Layout:
    """State [launch]; give the layout with the replicas that the devices make."""
    if job.launch and not job.launch.script.options:
        remark = "no options of a command that starts the program were found (msrun, torchrun or python)"
        job.ledger.remark(job.launch.file, remark)
    per_said = job.option("local-worker-num", "nproc-per-node", "nproc_per_node") or job.variable("NPUS_PER_NODE")
    per_node, note = job.whole(per_said, least=1), ""
    visible = job.variable("ASCEND_RT_VISIBLE_DEVICES")
    if per_node is None and visible:
        per_node = len(visible.text.split(","))
        per_said = visible
        note = f"{visible.said} names so many"
    nodes_said = job.option("nnodes") or job.variable("NNODES")
    nodes = job.whole(nodes_said, least=1)
    world_said = job.option("worker-num") or job.variable("WORLD_SIZE")
    world = job.whole(world_said, least=1)
    if world and per_node and nodes and world != per_node * nodes:
        product = f"{per_node} devices x {nodes} nodes = {per_node * nodes}"
        settings = [setting for setting in (world_said, per_said, nodes_said) if setting]
        job.ledger.contradict(f"the number of processes is {world}, but {product}", settings, product)
    if per_node is None:
        note = "not known, see the remarks" if job.launch else "not stated: one for each stage"
        per_node = _devices_per_node(job, world, nodes, tp * pp)
    if nodes is None:
        nodes = _nodes(job, world, per_node, tp, pp)
    job.draft.put("launch.device", "ascend", note="the reference stack's")
    job.draft.put("launch.devices_per_node", per_node, per_said, note)
    note = "not known: as few as the layout needs; write the real number" if job.unknown("nnodes", "NNODES") else ""
    note = note or ("" if nodes_said else "not stated: one machine")
    job.draft.put("launch.nodes", nodes, nodes_said, note)
    _put_master(job)
    rank = (job.launch.option("node-rank", "node_rank") or job.launch.variable("NODE_RANK")) if job.launch else None
    job.leave("no_counterpart", rank, "not in the recipe: `qvl run RECIPE --node-rank N` on each machine")
    job.variable("GRAD_ACC_STEP", "DP")
    devices = per_node * nodes
    if devices < tp * pp and per_said:
        message = f"makes {devices} devices in all; tp {tp} x pp {pp} needs {tp * pp}"
        more = f"NPUS_PER_NODE={tp * pp}" if tp * pp <= _DEVICES else f"NNODES={-(-tp * pp // per_node)}"
        fix = f"{more}, or a smaller layout"
        job.stuck.append(Problem(where=per_said.where, key=per_said.said, message=message, fix=fix))
    elif devices % (tp * pp) and per_said:
        message = f"makes {devices} devices in all, no multiple of tp {tp} x pp {pp} = {tp * pp}"
        fix = f"{devices - devices % (tp * pp)} devices in all, or a layout that divides {devices}"
        job.stuck.append(Problem(where=per_said.where, key=per_said.said, message=message, fix=fix))
    dp = max(1, devices // (tp * pp))
    return Layout(tp=tp, pp=pp, dp=dp, vision_stages=(), text_stages=())


def _devices_per_node(job: Job, world: int | None, nodes: int | None, needed: int) -> int:
    """Give the devices of one machine, which no file states as a number, and tell what was taken."""
    several = nodes or 1
    count = max(1, world // several) if world else needed // gcd(several, needed)
    said = job.unknown("local-worker-num", "NPUS_PER_NODE") or job.unknown("nproc-per-node")
    if said is None:
        where = job.launch.file if job.launch else job.model.file if job.model else job.key
        job.ledger.remark(where, f"no device count is stated: launch.devices_per_node = {count} is taken")
        return count
    text = f"{said.said} is not known: launch.devices_per_node = {count} is taken; replicas and batch follow from it"
    job.ledger.remark(said.where, f"{text}; write the real number, and layout.dp and train.global_batch with it")
    return count


def _nodes(job: Job, world: int | None, per_node: int, tp: int, pp: int) -> int:
    """Give the number of machines where no file states it as a number: as few as the layout needs, and say so."""
    said = job.unknown("nnodes", "NNODES")
    if said is None:
        return 1
    count = -(-world // per_node) if world else tp * pp // gcd(per_node, tp * pp)
    why = f"{world} processes" if world else f"tp {tp} x pp {pp}, the fewest"
    text = f"{said.said} is not known: launch.nodes = {count} is taken for {why}; replicas and batch follow from it"
    job.ledger.remark(said.where, f"{text}; write the real number, and layout.dp and train.global_batch with it")
    return count


def _put_master(job: Job) -> None:
    host_said = job.option("master-addr", "master_addr") or job.variable("MASTER_ADDR")
    port_said = job.option("master-port", "master_port") or job.variable("MASTER_PORT")
    host = host_said.text.strip() if host_said and host_said.text.strip() else "localhost"
    port = job.whole(port_said, least=1) or _DEFAULT_PORT
    both = f"and {port_said.where} {port_said.said}" if host_said and port_said else ""
    both = both if host_said or port_said else "not stated: this machine"
    job.draft.put("launch.master", f"{host}:{port}", host_said or port_said, both)
    if unknown := job.unknown("master-addr", "MASTER_ADDR"):
        text = f"{unknown.said} is not known: launch.master = {host}:{port} is taken, right on one machine only"
        job.ledger.remark(unknown.where, f"{text}; write the first machine's address")


def put_environment(job: Job) -> None:
    """State [env] from what the script exports: known names in their ranges; tell the others."""
    if job.launch is None:
        return
    for line, path in job.launch.script.sources:
        sourced = Setting(value=path, where=job.launch.place(line), said="source")
        job.leave("no_counterpart", sourced, "source it in the shell that starts qvl")
    for name, variable in job.launch.script.variables.items():
        ours = name in EnvSection.model_fields
        if name in LAUNCH_VARIABLES or not (variable.exported or ours or name in TORCH_ONLY):
            continue
        setting = job.variable(name)
        if setting is None:
            continue
        if name in TORCH_ONLY:
            why = f"read by the PyTorch adapter only. {INSTEAD.get(name, '')}".strip()
            job.leave("no_effect", setting, why)
        elif not variable.exported:
            job.leave("no_effect", setting, f"was not exported: the program never saw it. Under [env]: {name}")
        elif ours:
            _put_variable(job, name, setting)
        elif name.startswith(FAMILIES) and (meant := closest_variable(name)):
            job.leave("no_effect", setting, f"no variable of this name is known; {meant} was probably meant")
        else:
            why = "not among qvl's variables: set it in the shell that starts qvl, if it is needed"
            job.leave("no_counterpart", setting, why)


def _put_variable(job: Job, name: str, setting: Setting) -> None:
    try:
        value = value_of_text(name, setting.text)
    except VariableError as error:
        text = f"{name} = {setting.text[:60]} is outside its range ({error}); it is left out"
        job.ledger.remark(setting.where, text)
        return
    job.draft.put(f"env.{name}", value, setting)


def put_weights(job: Job, hf_folder: Setting | None) -> None:
    """State weights.source: the HF folder, which qvl loads into any layout; tell what LOAD_PATH holds."""
    loaded = job.option("load") or job.variable("LOAD_PATH", "CKPT_LOAD_DIR")
    unknown = job.unknown("load", "LOAD_PATH")
    why = "converted weights are not needed: qvl loads the HF folder into any layout"
    if job.draft.task == "sft" and job.data is None:
        # The missing data file is the one problem to tell.
        job.leave("no_counterpart", loaded, f"{why}, which the data file names")
        return
    if hf_folder is None or not isinstance(hf_folder.value, str) or not hf_folder.value.strip():
        fix = "state weights.source yourself: the folder of the HF checkpoint"
        job.missing("no file names the HF folder (model_name_or_path, from_pretrained)", "weights.source", fix)
        job.leave("no_counterpart", loaded, why)
        return
    source = clean_path(hf_folder.text)
    job.draft.put("weights.source", source, hf_folder)
    job.leave("no_counterpart", unknown, why)
    if loaded is None:
        return
    path = clean_path(loaded.text)
    if path == source:
        return
    model = job.draft.model.removeprefix("qwen2.5-vl-")
    command = f"qvl convert import --mindspeed {path} --hf-files {source} --out ckpt/{model}_imported"
    why += f". Where {path} holds weights that you trained: {command}, then weights.source = that folder"
    job.leave("no_counterpart", loaded, why)


def _by_name(text: str) -> str | None:
    sizes = {f"qwen2.5-vl-{match[1]}b" for match in _SIZE.finditer(text)}
    return sizes.pop() if len(sizes) == 1 else None


def _stages(job: Job, table: str) -> tuple[list[int] | None, Setting | None]:
    """Give a stage list; `[[a, b]]` is one list, several inner lists are chunks of an interleaved pipeline."""
    setting = job.model.get(table, "pipeline_num_layers") if job.model else None
    if setting is None or setting.value is None:
        return None, None
    value = setting.value
    if isinstance(value, list) and value and all(isinstance(inner, list) for inner in value):
        if len(value) > 1:
            job.leave("no_counterpart", setting, "qvl's pipeline is not interleaved; it derives lists of its own")
            return None, None
        value = value[0]
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(item, int) and not isinstance(item, bool) for item in value):
        job.ledger.remark(setting.where, f"{setting.said} is no list of layer counts; qvl derives one")
        return None, None
    return value, setting
