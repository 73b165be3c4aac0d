"""What it means that two runs differ in something: which numbers can be others because of it, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Effect(str, Enum):
    """What a difference does, the gravest first."""

    TENSORS = "other tensors"
    NUMBERS = "other numbers"
    PERHAPS = "perhaps other numbers"
    ROUNDING = "rounding only"
    ANSWERS = "other answers"
    SPEED = "time and memory only"
    FILES = "files only"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """An effect and the sentence that says why."""

    effect: Effect
    text: str


def _all(effect: Effect, **texts: str) -> dict[str, Meaning]:
    return {key.replace("__", "."): Meaning(effect=effect, text=text) for key, text in texts.items()}


# By dotted recipe key; what stands below a table has the table's meaning unless it has one of its own.
RECIPE_MEANINGS: dict[str, Meaning] = {
    **_all(
        Effect.TENSORS,
        task="another kind of run; only settings can be compared",
        model__name="another model: other shapes, losses cannot be compared",
        model__config="another model: other shapes, losses cannot be compared",
        model__dtype="numbers are kept with another precision; checkpoints too",
        model__freeze="other parts of the model learn",
        train__lora="adapters on other layers, or of another size: other parameters learn",
        train__optimizer__name="another rule of updating, with other state in checkpoints",
    ),
    **_all(
        Effect.NUMBERS,
        schema="the recipe's format has other rules",
        weights="training starts from other weights",
        data__sources="other samples, or the same in other shares",
        data__validation="validation losses are of other samples; what is held out is not learned",
        data__sequence_length="other samples are too long, and packs are longer",
        data__too_long="other samples are left out or shrunk",
        data__packing="batches hold packs instead of samples: other steps, other number of tokens in each",
        data__balance="samples come in another order",
        data__streaming="samples come in another order",
        data__shuffle_buffer="samples come in another order where data are streamed",
        data__image="pictures have another size: other numbers of tokens, other detail",
        data__video="videos have other frames or another size: other tokens",
        data__loss_on="other tokens are learned; losses are means over other tokens",
        data__grounding="coordinates in the answers are other ones",
        train__steps="another length, over which the learning rate is spread: it differs from the first step on",
        train__epochs="another length, over which the learning rate is spread: it differs from the first step on",
        train__global_batch="a step takes another number of samples; steps cannot be compared, samples seen can",
        train__seed="another order of samples, and other random numbers in dropout and in weights that are drawn",
        train__loss_reduction="token losses are weighted differently: losses and gradients are other ones",
        train__optimizer="updates have another size",
        train__schedule="the learning rate takes another course",
    ),
    **_all(
        Effect.PERHAPS,
        data__on_bad_sample="other batches once a sample cannot be used, none before",
        data__max_bad_samples="when a run with bad samples ends",
        data__media_check="which bad media are found before the run; the others are met in it",
        data__sample_timeout_s="a sample that takes longer counts as bad",
        data__video__timeout_s="a video that takes longer counts as bad",
        train__micro_batch="the same samples in smaller or larger parts: rounding, and losses themselves with "
        'loss_reduction = "micro_batch"',
        launch__device="another device computes: other kernels, other rounding, other speed",
    ),
    **_all(
        Effect.ROUNDING,
        layout="the same samples and sums, cut differently: rounding, time and memory",
        data__vision_cache="features of frozen parts are stored instead of computed again",
        env__HCCL_DETERMINISTIC="sums over devices in a fixed order, or in any",
        env__ASCEND_RT_VISIBLE_DEVICES="other devices of the machine",
    ),
    **_all(
        Effect.ANSWERS,
        eval="another benchmark, other rules or other moments of evaluating: scores of evaluations, not the training",
        generation="answers are drawn differently: scores of evaluations and answers, not the training",
        infer="another question",
    ),
    **_all(
        Effect.SPEED,
        layout__recompute="activations are kept or computed again: memory against time",
        data__workers="how fast samples are made",
        data__cache_dir="where what was found out about the data is kept",
        launch="other machines or another way to find them: time",
        env="settings of the runtime: speed, waiting times and messages",
        eval__batch="how many questions are answered at a time",
        eval__held_tokens="how much memory answers may take",
    ),
    **_all(
        Effect.FILES,
        train__save="when checkpoints are written, and which are kept",
        train__log="which numbers are told, and when",
        output="where the run writes",
    ),
}

# Of a table that only one of the runs has, as an evaluation has no [train]. What stands below it is not covered: a key
# that a newer version has there is unknown.
TABLE_MEANINGS = _all(Effect.TENSORS, model="only one of the runs says which model it has") | _all(
    Effect.NUMBERS,
    data="only one of the runs has samples to learn from",
    train="only one of the runs trains",
)

# By distribution; `python` and `platform` are named like that in `run.json`.
VERSION_MEANINGS: dict[str, Meaning] = {
    "mindspore": Meaning(effect=Effect.PERHAPS, text="computes: kernels, and so rounding, speed or a repaired mistake"),
    "qvl-core": Meaning(effect=Effect.PERHAPS, text="has the model and its kernels: see its changelog"),
    "qvl-train": Meaning(effect=Effect.PERHAPS, text="has optimizer, schedule and loss: see its changelog"),
    "qvl-data": Meaning(
        effect=Effect.PERHAPS, text="makes tokens and pixels of records; the data hash does not cover that"
    ),
    "transformers": Meaning(effect=Effect.PERHAPS, text="has tokenizer and chat template: other tokens are possible"),
    "tokenizers": Meaning(effect=Effect.PERHAPS, text="cuts text into tokens: other tokens are possible"),
    "pillow": Meaning(effect=Effect.PERHAPS, text="decodes and resizes images: pixels may differ a little"),
    "av": Meaning(effect=Effect.PERHAPS, text="decodes videos: pixels may differ a little"),
    "numpy": Meaning(effect=Effect.ROUNDING, text="computes on the host: rounding"),
    "platform": Meaning(effect=Effect.ROUNDING, text="another machine, system or C library: rounding, speed"),
    "python": Meaning(effect=Effect.SPEED, text="runs everything else; numbers do not come from it"),
    "pyarrow": Meaning(effect=Effect.FILES, text="reads Parquet files"),
    "safetensors": Meaning(effect=Effect.FILES, text="reads and writes weights, bit by bit"),
    "qvl-convert": Meaning(effect=Effect.FILES, text="converts weights, bit by bit; no part of a training"),
    "qvl-eval": Meaning(effect=Effect.ANSWERS, text="asks and scores; no part of a training"),
}

# By the names that `qvl_core.machine` has for them.
MACHINE_MEANINGS: dict[str, Meaning] = {
    "host": Meaning(effect=Effect.SPEED, text="another machine; numbers come from what is in it, named below"),
    "processor": Meaning(effect=Effect.ROUNDING, text="other instructions add in another order: rounding, speed"),
    "cores": Meaning(effect=Effect.ROUNDING, text="sums are dealt to more or fewer threads: rounding, speed"),
    "directory": Meaning(effect=Effect.FILES, text="where relative paths start from"),
    "npus": Meaning(effect=Effect.SPEED, text="how many NPUs the machine has; the layout says how many are used"),
    "cann": Meaning(effect=Effect.PERHAPS, text="computes on the NPU: kernels, rounding, speed or a repaired mistake"),
    "driver": Meaning(effect=Effect.PERHAPS, text="drives the NPU: rarely numbers, often speed and which CANN works"),
}

VARIABLE_MEANINGS: dict[str, Meaning] = {
    "QVL_KERNELS": Meaning(effect=Effect.ROUNDING, text="fused or plain kernels: the same formulas, other rounding"),
    **dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
        Meaning(effect=Effect.ROUNDING, text="sums are dealt to more or fewer threads: rounding, speed"),
    ),
    **dict.fromkeys(
        ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "ASCEND_OPP_PATH"),
        Meaning(effect=Effect.PERHAPS, text="which installation of CANN is used"),
    ),
}
_OTHER_VARIABLE = Meaning(
    effect=Effect.PERHAPS, text="read by CANN, HCCL or MindSpore; what it does stands in their documentation"
)

_NO_MEANING = Meaning(effect=Effect.UNKNOWN, text="this version of qvl does not know what it does")


def recipe_meaning(key: str) -> Meaning:
    """Give the meaning of a recipe key such as `data.sources[0].path`: its own, or that of the nearest table above.

    A whole table has one too: `train` where the other run has none.
    """
    if key in TABLE_MEANINGS:
        return TABLE_MEANINGS[key]
    parts = [part.split("[")[0] for part in key.split(".")]
    for length in range(len(parts), 0, -1):
        found = RECIPE_MEANINGS.get(".".join(parts[:length]))
        if found is not None:
            return found
    return _NO_MEANING


def version_meaning(name: str) -> Meaning:
    """Give the meaning of another version of a distribution."""
    return VERSION_MEANINGS.get(name, _NO_MEANING)


def code_meaning(name: str) -> Meaning:
    """Give the meaning of other code of a package of qvl with the same version."""
    text = "the same version with other code: a checkout that was changed, or a patch"
    return Meaning(effect=version_meaning(name).effect, text=text)


def machine_meaning(name: str) -> Meaning:
    """Give the meaning of another fact of the machine."""
    return MACHINE_MEANINGS.get(name, _NO_MEANING)


def variable_meaning(name: str) -> Meaning:
    """Give the meaning of another value of an environment variable: as under [env], or its own."""
    return VARIABLE_MEANINGS.get(name) or RECIPE_MEANINGS.get(f"env.{name}") or _OTHER_VARIABLE
