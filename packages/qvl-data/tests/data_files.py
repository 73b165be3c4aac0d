"""Writers of what the tests read: a small checkpoint folder without weights, images, records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image
from qvl_core.recipe.sections import DataSection
from qvl_core.specs.model_spec import ModelSpec, TextSpec, TokenIds, VisionSpec

TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
PLAIN_ADDED = "<tool_call>"


def write_tokenizer(folder: Path) -> dict[str, int]:
    """Write a byte-level BPE with a few merges and the family's special tokens; give the ids of those."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    text = [
        "system user assistant\nYou are helpful. What is in the image? A cat, a dog\n\nand the end. im_start im_end"
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIAL])
    tokenizer.add_tokens([AddedToken(PLAIN_ADDED, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return {name: tokenizer.token_to_id(name) for name in SPECIAL}


def write_checkpoint(folder: Path, template: str = TEMPLATE) -> TokenIds:
    """Write everything of a checkpoint that the data code reads."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = write_tokenizer(folder)
    (folder / "chat_template.jinja").write_text(template)
    (folder / "preprocessor_config.json").write_text(json.dumps({"patch_size": 14, "merge_size": 2}))
    return TokenIds(
        vision_start=ids["<|vision_start|>"],
        vision_end=ids["<|vision_end|>"],
        image=ids["<|image_pad|>"],
        video=ids["<|video_pad|>"],
    )


def make_spec(tokens: TokenIds) -> ModelSpec:
    vision = VisionSpec(depth=1, hidden_size=16, num_heads=1, intermediate_size=16, out_hidden_size=16)
    text = TextSpec(
        num_layers=1, hidden_size=16, intermediate_size=16, num_heads=1, num_kv_heads=1, vocab_size=400,
        tie_word_embeddings=True, head_dim=16, mrope_section=(2, 3, 3),
    )  # fmt: skip
    return ModelSpec(name="test", vision=vision, text=text, tokens=tokens)


def save_image(path: Path, height: int = 60, width: int = 80, seed: int = 0) -> Path:
    """Write a random PNG, JPEG ... by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def llava(question: str, answer: str, image: Any = None) -> dict[str, Any]:
    record: dict[str, Any] = {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}
    return record if image is None else {**record, "image": image}


def write_records(path: Path, records: list[Any]) -> Path:
    """Write a JSON array with one record a line: record i stands on line i + 2."""
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return path


def write_lines(path: Path, records: list[Any]) -> Path:
    """Write JSON Lines: record i stands on line i + 1. A string is written as it is."""
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records))
    return path


def recipe_maker(checkpoint: tuple[Path, ModelSpec], cache: Path) -> Callable[..., Any]:
    """Give a function that makes what `prepare` and `batches` use of a recipe, from the real [data] section."""
    folder, spec = checkpoint

    def make(sources: list[Any], *, seed: int = 1, micro_batch: int = 1, global_batch: int = 2, **data: Any) -> Any:
        tables = [source if isinstance(source, dict) else {"path": str(source)} for source in sources]
        settings = {
            "image": {"min_pixels": 3136, "max_pixels": 50176},
            "cache_dir": str(cache / "cache"),
            "workers": 2,
        }
        return SimpleNamespace(
            path="recipes/test.toml",
            data=DataSection(sources=tables, **{**settings, **data}),
            spec=spec,
            weights=SimpleNamespace(source=str(folder)),
            parallel=SimpleNamespace(world_size=1),
            train=SimpleNamespace(seed=seed, micro_batch=micro_batch, global_batch=global_batch, epochs=None),
        )

    return make
