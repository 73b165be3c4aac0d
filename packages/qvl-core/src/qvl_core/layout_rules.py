"""The rules of a parallel layout, one named check each, and the stage lists for layouts that state none.

Every check gives Problems with the numbers and a fix that can be pasted; `where` is empty, the caller knows the file.
The order of work is vision first, then text: a stage may hold both, but no vision layer may come after a text layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import gcd

from qvl_core import multiplications
from qvl_core.errors import Problem
from qvl_core.layout import Layout
from qvl_core.specs.model_spec import ModelSpec

# Patches that the vision tower sees per token of text: half the tokens of a typical sample stand for images, and the
# merger makes one token of four patches. Only derived stage lists depend on it.
PATCHES_PER_TOKEN = 2
# What [launch] allows: no machine has more.
DEVICES_PER_NODE_LIMIT = 1024
_TAKE_BACK = "--set layout.vision_stages= --set layout.text_stages="


def check_layout(spec: ModelSpec, layout: Layout, *, inference: bool = False) -> list[Problem]:
    """Give every broken rule of a complete layout; none means that `parameter_table` may be called."""
    problems = [*check_tensor_degree(spec, layout.tp), *check_pipeline_degree(spec, layout.pp)]
    problems += check_stages(spec, layout.pp, layout.vision_stages, layout.text_stages, inference=inference)
    return problems


def check_stages(
    spec: ModelSpec, pp: int, vision_stages: Sequence[int], text_stages: Sequence[int], *, inference: bool = False
) -> list[Problem]:
    """Give every broken rule of the two stage lists. Rules on their order need lists of the right length."""
    problems = [
        *check_stage_counts(spec, pp, vision_stages, text_stages),
        *check_stage_sums(spec, pp, vision_stages, text_stages),
    ]
    if len(vision_stages) == len(text_stages) == pp:
        problems += check_vision_before_text(spec, vision_stages, text_stages)
        problems += check_no_empty_stage(spec, vision_stages, text_stages)
        if inference:
            problems += check_vision_on_first_stage(spec, vision_stages)
    return problems


def check_tensor_degree(spec: ModelSpec, tp: int) -> Iterator[Problem]:
    """Refuse a tensor parallel degree that does not divide everything that is cut."""
    indivisible = [f"{size} {name}" for name, size in _cut_sizes(spec) if size % tp]
    if indivisible:
        legal = ", ".join(map(str, legal_tensor_degrees(spec)))
        yield Problem(
            where="",
            key="layout.tp",
            message=f"is {tp}, which does not divide the {_join(indivisible)} of {spec.name}; legal are {legal}",
            fix=f"tp = {nearest_degrees(spec, tp, 1)[0]}",
        )


def check_pipeline_degree(spec: ModelSpec, pp: int) -> Iterator[Problem]:
    """Refuse more stages than layers."""
    vision, text = spec.vision.depth, spec.text.num_layers
    if pp > vision + text:
        yield Problem(
            where="",
            key="layout.pp",
            message=f"is {pp}, but {spec.name} has {vision} vision and {text} text layers: "
            f"{vision + text} stages at most",
            fix=f"pp = {nearest_degrees(spec, 1, pp)[1]}",
        )


def check_stage_counts(
    spec: ModelSpec, pp: int, vision_stages: Sequence[int], text_stages: Sequence[int]
) -> Iterator[Problem]:
    """Refuse a stage list that has not one entry per stage."""
    for kind, stages, depth in _lists(spec, vision_stages, text_stages):
        if len(stages) != pp:
            yield Problem(
                where="",
                key=f"layout.{kind}_stages",
                message=f"has {_count(len(stages), 'entry', 'entries')}; layout.pp is {pp}, so it needs {pp}",
                fix=f"{_proposed(spec, pp, kind, depth)}\nor leave both lists out to have them derived: {_TAKE_BACK}",
            )


def check_stage_sums(
    spec: ModelSpec, pp: int, vision_stages: Sequence[int], text_stages: Sequence[int]
) -> Iterator[Problem]:
    """Refuse a stage list that does not add up to the layers of the model."""
    for kind, stages, depth in _lists(spec, vision_stages, text_stages):
        total = sum(stages)
        if total != depth:
            corrected = _corrected(stages, depth) if len(stages) == pp else None
            numbers = _count(len(stages) if corrected else pp, "number", "numbers")
            example = f"for example {corrected}" if corrected else f"for example {_proposed(spec, pp, kind, depth)}"
            yield Problem(
                where="",
                key=f"layout.{kind}_stages",
                message=f"adds up to {total}; {spec.name} has {depth} {kind} layers",
                fix=f"make the {numbers} add up to {depth}, {example}",
            )


def check_text_covers_stages(spec: ModelSpec, vision_stages: Sequence[int]) -> Iterator[Problem]:
    """Refuse a vision list that leaves more stages to text than text has layers: no text list can be derived."""
    last_vision = max((stage for stage, count in enumerate(vision_stages) if count), default=-1)
    bare = sum(not count for count in vision_stages[: last_vision + 1])
    needed = len(vision_stages) - last_vision - 1
    if needed > spec.text.num_layers or bare:
        vision, _ = derive_stages(spec, len(vision_stages))
        reason = (
            f"stages without a layer: {bare} before the last vision layer"
            if bare
            else (f"{needed} stages to text, but {spec.name} has {spec.text.num_layers} text layers")
        )
        yield Problem(
            where="",
            key="layout.vision_stages",
            message=f"is {list(vision_stages)}, which leaves {reason}",
            fix=f"vision_stages = {list(vision)}",
        )


def check_vision_before_text(
    spec: ModelSpec, vision_stages: Sequence[int], text_stages: Sequence[int]
) -> Iterator[Problem]:
    """Refuse vision layers on a stage after the first that has text layers: data flows one way."""
    last_vision = max((stage for stage, count in enumerate(vision_stages) if count), default=0)
    first_text = next((stage for stage, count in enumerate(text_stages) if count), len(text_stages))
    if last_vision > first_text:
        fixed = [0] * len(vision_stages)
        fixed[:first_text] = vision_stages[:first_text]
        fixed[first_text] = sum(vision_stages[first_text:])
        yield Problem(
            where="",
            key="layout.vision_stages",
            message=f"puts {vision_stages[last_vision]} vision layers on stage {last_vision}, after stage "
            f"{first_text}, which has text layers already",
            fix=f"vision_stages = {fixed}",
        )


def check_no_empty_stage(
    spec: ModelSpec, vision_stages: Sequence[int], text_stages: Sequence[int]
) -> Iterator[Problem]:
    """Refuse a stage without a layer: its device would wait for the whole run."""
    empty = [stage for stage, pair in enumerate(zip(vision_stages, text_stages, strict=True)) if not any(pair)]
    if empty:
        pp = len(text_stages)
        words = f"stage {empty[0]} has" if len(empty) == 1 else f"stages {_join(list(map(str, empty)))} have"
        vision, text = derive_stages(spec, pp)
        yield Problem(
            where="",
            key="layout.text_stages",
            message=f"{words} neither a vision nor a text layer",
            fix=f"vision_stages = {list(vision)}\ntext_stages = {list(text)}",
        )


def check_vision_on_first_stage(spec: ModelSpec, vision_stages: Sequence[int]) -> Iterator[Problem]:
    """Refuse a cut vision tower for inference: there the first stage alone sees the images."""
    if any(vision_stages[1:]):
        fixed = [sum(vision_stages), *[0] * (len(vision_stages) - 1)]
        yield Problem(
            where="",
            key="layout.vision_stages",
            message=f"is {list(vision_stages)}; inference and evaluation need all {spec.vision.depth} vision layers on "
            "the first stage",
            fix=f"vision_stages = {fixed}",
        )


def check_world(
    tp: int, pp: int, dp: int, nodes: int, devices_per_node: int, *, legal: tuple[int, int] | None = None
) -> Iterator[Problem]:
    """Refuse degrees whose product is not the number of devices; the fix uses the tp and pp of `legal`, if given."""
    world, devices = tp * pp * dp, nodes * devices_per_node
    if world == devices:
        return
    message = (
        f"tp * pp * dp = {tp} * {pp} * {dp} = {world}, but launch.nodes * launch.devices_per_node = "
        f"{nodes} * {devices_per_node} = {devices}"
    )
    yield Problem(where="", key="layout.dp", message=message, fix=_world_fix((tp, pp), legal, dp, devices, nodes))


def check_devices_divide(
    tp: int, pp: int, nodes: int, devices_per_node: int, *, legal: tuple[int, int] | None = None
) -> Iterator[Problem]:
    """Refuse a number of devices that no dp makes tp * pp * dp; the fix uses the tp and pp of `legal`, if given."""
    devices = nodes * devices_per_node
    if devices % (tp * pp):
        yield Problem(
            where="",
            key="layout.dp",
            message=f"cannot be derived: {nodes} * {devices_per_node} = {devices} devices (launch.nodes * "
            f"launch.devices_per_node) are not a multiple of tp * pp = {tp} * {pp} = {tp * pp}",
            fix=_world_fix((tp, pp), legal, None, devices, nodes),
        )


def check_global_batch(
    global_batch: int, micro_batch: int, dp: int, *, mended_dp: int | None = None
) -> Iterator[Problem]:
    """Refuse a global batch that is not a whole number of micro batches on every replica.

    `mended_dp` is what a dp that does not fit the devices has to become: the fix, and whether one is needed, follow it.
    """
    unit, mended = micro_batch * dp, micro_batch * (mended_dp or dp)
    if global_batch % unit and global_batch % mended:
        near = max(mended, round(global_batch / mended) * mended)
        yield Problem(
            where="",
            key="train.global_batch",
            message=f"is {global_batch}, not a multiple of micro_batch * dp = {micro_batch} * {dp} = {unit}",
            fix=f"global_batch = {near}",
        )


def check_zero1(zero1: bool, dp: int) -> Iterator[Problem]:
    """Warn where there are no replicas to split the optimizer over."""
    if zero1 and dp == 1:
        yield Problem(
            where="",
            key="layout.zero1",
            message="is true, but dp is 1: there are no replicas to split the optimizer over, nothing is saved",
            fix="zero1 = false",
            severity="warning",
        )


def legal_tensor_degrees(spec: ModelSpec) -> tuple[int, ...]:
    """List the tensor parallel degrees that divide heads, KV heads, FFN sizes and vocabulary."""
    sizes = [size for _, size in _cut_sizes(spec)]
    return tuple(degree for degree in range(1, min(sizes) + 1) if not any(size % degree for size in sizes))


def nearest_degrees(spec: ModelSpec, tp: int, pp: int) -> tuple[int, int]:
    """Give the largest legal tensor degree up to tp, and pp, or one stage per text layer where it is too large."""
    layers = spec.vision.depth + spec.text.num_layers
    legal_tp = max(degree for degree in legal_tensor_degrees(spec) if degree <= tp)
    return legal_tp, pp if pp <= layers else spec.text.num_layers


def derive_stages(
    spec: ModelSpec,
    pp: int,
    *,
    vision_stages: Sequence[int] | None = None,
    text_stages: Sequence[int] | None = None,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give both stage lists; a stated one is kept. Vision goes to the first stage, text is balanced by cost.

    `pp` is at most the number of layers. Only where text has fewer layers than stages that need one is vision spread.
    """
    if vision_stages is None:
        free = _leading_zeros(text_stages) if text_stages is not None else pp - spec.text.num_layers
        vision_stages = _spread(spec.vision.depth, max(1, free), pp)
    if text_stages is None:
        text_stages = _balanced_text(spec, tuple(vision_stages))
    return tuple(vision_stages), tuple(text_stages)


def _balanced_text(spec: ModelSpec, vision_stages: tuple[int, ...]) -> tuple[int, ...]:
    """Deal text layers out, each to the stage that is cheapest with it: best possible, as all layers cost the same."""
    pp = len(vision_stages)
    layer, head, vision_layer = _costs(spec)
    first_text = max((stage for stage, count in enumerate(vision_stages) if count), default=0)
    costs = [count * vision_layer for count in vision_stages]
    costs[-1] += head
    counts = [0] * pp
    # Every stage needs a layer; one with vision layers has some.
    for stage in range(first_text, pp):
        if not vision_stages[stage]:
            counts[stage] = 1
    # The last stage holds the output head, which comes after a text layer.
    counts[-1] = max(counts[-1], 1)
    for _ in range(spec.text.num_layers - sum(counts)):
        cheapest = min(range(first_text, pp), key=lambda stage: (costs[stage] + (counts[stage] + 1) * layer, stage))
        counts[cheapest] += 1
    return tuple(counts)


def _costs(spec: ModelSpec) -> tuple[float, float, float]:
    """Estimate multiplications per token of a text layer, of the output head and of a vision layer: their weights."""
    vision_layer = PATCHES_PER_TOKEN * multiplications.vision_layer(spec.vision)
    layer, head = multiplications.text_layer(spec.text), multiplications.output_head(spec.text)
    return float(layer), float(head), float(vision_layer)


def _cut_sizes(spec: ModelSpec) -> tuple[tuple[str, int], ...]:
    return (
        ("query heads", spec.text.num_heads),
        ("KV heads", spec.text.num_kv_heads),
        ("text FFN columns", spec.text.intermediate_size),
        ("vocabulary entries", spec.text.vocab_size),
        ("vision heads", spec.vision.num_heads),
        ("vision FFN columns", spec.vision.intermediate_size),
    )


def _lists(
    spec: ModelSpec, vision_stages: Sequence[int], text_stages: Sequence[int]
) -> tuple[tuple[str, Sequence[int], int], ...]:
    return (("vision", vision_stages, spec.vision.depth), ("text", text_stages, spec.text.num_layers))


def _proposed(spec: ModelSpec, pp: int, kind: str, depth: int) -> str:
    if not 1 <= pp <= spec.vision.depth + spec.text.num_layers:
        return f"{kind}_stages with {pp} numbers that add up to {depth}"
    vision, text = derive_stages(spec, pp)
    return f"{kind}_stages = {list(vision if kind == 'vision' else text)}"


def _corrected(stages: Sequence[int], depth: int) -> list[int] | None:
    """Change as few entries as possible, from the last on, until the list adds up; None where that leaves nothing."""
    if not any(stages):
        return None
    corrected = list(stages)
    missing = depth - sum(corrected)
    for stage in reversed(range(len(corrected))):
        # A zero states that a stage has no layer of this kind: left alone where another entry can change.
        if corrected[stage] == 0:
            continue
        change = max(missing, 1 - corrected[stage]) if missing < 0 else missing
        corrected[stage] += change
        missing -= change
        if not missing:
            return corrected
    return None


def _spread(depth: int, parts: int, pp: int) -> tuple[int, ...]:
    """Spread layers evenly over the first stages."""
    return tuple(depth // parts + (stage < depth % parts) if stage < parts else 0 for stage in range(pp))


def _leading_zeros(stages: Sequence[int]) -> int:
    return next((stage for stage, count in enumerate(stages) if count), len(stages))


def _world_fix(
    degrees: tuple[int, int], legal: tuple[int, int] | None, dp: int | None, devices: int, nodes: int
) -> str:
    """Write the smallest change that makes the product right: of the degrees that are wrong anyway, then of dp."""
    tp, pp = legal or degrees
    lines = [f"{name} = {new}" for name, old, new in zip(("tp", "pp"), degrees, (tp, pp), strict=True) if new != old]
    unit, world = tp * pp, tp * pp * (dp or 1)
    if world == devices or (dp is None and devices % unit == 0):
        return "\n".join(lines)
    options = []
    if dp is not None and devices % unit == 0:
        options.append(f"dp = {devices // unit}")
    if world % nodes == 0 and world // nodes <= DEVICES_PER_NODE_LIMIT:
        options.append(f"devices_per_node = {world // nodes} under [launch]")
    if not options:
        # Neither number alone can be right: the fewest devices a machine with which dp is whole.
        per_node = unit // gcd(unit, nodes)
        lines += [f"dp = {nodes * per_node // unit}"] if dp is not None else []
        options = [f"devices_per_node = {per_node} under [launch]"]
    return "\n".join([*lines, "\nor ".join(options)])


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
