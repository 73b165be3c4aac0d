"""Records to samples to batches for fine-tuning Qwen2.5-VL. No mindspore, no torch.

For a run:       prepare(recipe, *, progress=None) -> PreparedData(train, validation, report, data_hash, processor)
                 batches(data, *, recipe, consumed_samples=0, dp_rank=0, dp_size=1) -> endless steps of micro batches
                 validation_batches(data, *, recipe, dp_rank=0, dp_size=1) -> micro batches, once
                 count_validation_batches(data, *, recipe, dp_size=1) -> how many of them a rank has
For a question:  load_processor(folder, spec, *, min_pixels, max_pixels, video=None) -> Processor
                 build_prompt(processor, images, text, system=None, *, videos=(), sample_id="prompt") -> Sample
                 build_conversation(processor, messages, *, sample_id="prompt") -> Sample
                 collate(samples, spec) -> qvl_core.batch.Batch
Pieces:          Dataset, DataReport, Sample, Processor, BatchIterator

Inside, from records to steps:
records/         files and formats to Record         media/       images and videos: paths, facts, patches
planning         a Record to a planned sample        survey/      all of them, judged before a run, kept as an index
samples, chat    planned samples to token ids        order/       which sample is used when; packs
batching/        samples to micro batches            streaming/   the same without an index
inspection/, commands/    `qvl data check`, `preview`, `convert`

Names are imported on first use, so that `import qvl_data` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qvl_data.batching.batch_iterator import BatchIterator, batches, count_validation_batches, validation_batches
    from qvl_data.batching.micro_batch import collate
    from qvl_data.data_report import DataReport
    from qvl_data.dataset import Dataset
    from qvl_data.preparation import PreparedData, prepare
    from qvl_data.processor import Processor, load_processor
    from qvl_data.prompt import build_conversation, build_prompt
    from qvl_data.samples import Sample

_HOMES = {
    "BatchIterator": "batching.batch_iterator",
    "batches": "batching.batch_iterator",
    "count_validation_batches": "batching.batch_iterator",
    "validation_batches": "batching.batch_iterator",
    "collate": "batching.micro_batch",
    "DataReport": "data_report",
    "Dataset": "dataset",
    "PreparedData": "preparation",
    "prepare": "preparation",
    "Processor": "processor",
    "load_processor": "processor",
    "build_conversation": "prompt",
    "build_prompt": "prompt",
    "Sample": "samples",
}

__all__ = [
    "BatchIterator",
    "DataReport",
    "Dataset",
    "PreparedData",
    "Processor",
    "Sample",
    "batches",
    "build_conversation",
    "build_prompt",
    "collate",
    "count_validation_batches",
    "load_processor",
    "prepare",
    "validation_batches",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
