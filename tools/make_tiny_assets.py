"""Rebuild `recipes/tiny/`: the tiny model's config and tokenizer, and the digits it learns from.

    python tools/make_tiny_assets.py [--out recipes/tiny]

Needs scikit-learn (the digits) and tokenizers (the training of the tokenizer); nothing else in this repository does.
The output is the same for the same versions of the two; the committed files came from scikit-learn 1.9.1 and
tokenizers 0.23.3. `chat_template.jinja`, `digits/README.md` are written by hand and left alone.
"""

from __future__ import annotations

import argparse
import base64
import csv
import io
import json
import random
from pathlib import Path
from typing import Any

# The order is the family's: in Qwen2.5-VL these are the ids 151643 to 151664, here they follow the 490 learnt ones.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Kept whole by the tokenizer, but ordinary text to a decoder that skips special tokens.
MARKER_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
VOCABULARY = 512
LEARNT = VOCABULARY - len(SPECIAL_TOKENS) - len(MARKER_TOKENS)

# Qwen2's pre-tokenizer: contractions, words with one leading sign, single digits, runs of signs, line ends, blanks.
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

WORDINGS = (
    "Which digit is this?",
    "What number is shown in the picture?",
    "Read the handwritten digit.",
    "Name the digit in the image.",
)
SPLIT_SEED = 2026
TEST_SHARE = 0.2

# In every prompt, so they shall cost few tokens: each line counts this often in the training of the tokenizer.
PROMPT_WEIGHT = 50
PROMPT_LINES = ("system", "user", "assistant", "You are a helpful assistant.", *WORDINGS)
CORPUS = """
The digit is 7. The number shown is 3. It is a handwritten 0. This looks like a 9, but it may be a 4.
Describe the image. Describe this picture in one sentence. What can you see in the image? What is in the video?
The image shows a small grey picture of a digit that someone has written by hand with a pen on white paper.
Please look at the picture and answer the question with a single word or a number.
How many digits are there in the image? There are two digits, a one on the left and a five on the right.
Is the digit in the picture even or odd? The digit is even. Is the first number larger than the second number?
Compare the two images. Are they the same? The first image shows a six, the second image shows an eight.
Question: which of the options below is correct? Options: A, B, C, D.
Please select the correct answer from the options above.
Answer the question using a single word or phrase.
Please try to answer the question with short words or phrases if possible.
zero one two three four five six seven eight nine ten 0 1 2 3 4 5 6 7 8 9 10
The chart shows how the value of each group changed between the first year and the last year.
The document has a title, a date, a table with three columns, and a name at the end of the page.
What does the video show? The video shows a hand that writes a number on a sheet of paper, then another one.
At which second does the hand stop? The hand stops after four seconds, when the last line is written.
I can't read this number. I don't know what it shows. It's too small, and the lines aren't clear.
You'll need another picture.
Thank you for your help. You're welcome. Would you like to ask about another image?
Where is the pen? The pen is on the left of the paper. What colour is it? It is black, and the background is white.
Draw a line from the top to the bottom, then a short line to the right: that is how some people write the number four.
这张图片里是哪个数字？图片里的数字是七。请描述这张图片。这个数字是多少？
"""


def tiny_config() -> dict[str, Any]:
    """Give the model's config in the family's first, flat spelling, which every transformers release reads."""
    first_special = LEARNT
    token = {text: first_special + place for place, text in enumerate(SPECIAL_TOKENS)}
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "attention_dropout": 0.0,
        "bos_token_id": token["<|endoftext|>"],
        "eos_token_id": token["<|im_end|>"],
        "vision_start_token_id": token["<|vision_start|>"],
        "vision_end_token_id": token["<|vision_end|>"],
        "vision_token_id": token["<|vision_pad|>"],
        "image_token_id": token["<|image_pad|>"],
        "video_token_id": token["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 192,
        "max_position_embeddings": 4096,
        "max_window_layers": 4,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "sliding_window": 4096,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCABULARY,
        "vision_config": {
            "model_type": "qwen2_5_vl",
            "depth": 4,
            "hidden_act": "silu",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "in_chans": 3,
            "out_hidden_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1, 3],
            "tokens_per_second": 2,
            "temporal_patch_size": 2,
        },
    }


def tokenizer_config() -> dict[str, Any]:
    """Give tokenizer_config.json; the class name is one that transformers 4.5x and 5.x both know."""
    added = {
        str(LEARNT + place): {
            "content": text,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": text in SPECIAL_TOKENS,
        }
        for place, text in enumerate(SPECIAL_TOKENS + MARKER_TOKENS)
    }
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 4096,
        "pad_token": "<|endoftext|>",
        "processor_class": "Qwen2_5_VLProcessor",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def processor_configs() -> dict[str, dict[str, Any]]:
    """Give the image and video processor files: the family's, with the digits' 112 x 112 as the smallest size."""
    pixels = {
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "processor_class": "Qwen2_5_VLProcessor",
    }
    image = {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 12544, "max_pixels": 200704, **pixels}
    video = {"video_processor_type": "Qwen2VLVideoProcessor", "min_pixels": 12544, "max_pixels": 200704, **pixels}
    return {"preprocessor_config.json": image, "video_preprocessor_config.json": video}


def train_tokenizer(path: Path) -> None:
    """Train the byte-level BPE on `CORPUS` and write tokenizer.json."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=LEARNT, initial_alphabet=alphabet, show_progress=False)
    lines = [*CORPUS.strip().splitlines(), *PROMPT_LINES * PROMPT_WEIGHT]
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKER_TOKENS])
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise SystemExit(f"the corpus gave {tokenizer.get_vocab_size()} tokens, {VOCABULARY} are wanted: lengthen it")
    tokenizer.save(str(path))


def write_checkpoint(folder: Path) -> None:
    """Write config, tokenizer and processor files; there are no weights, the recipe starts from random ones."""
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config()
    end_ids = [config["eos_token_id"], config["bos_token_id"]]
    files: dict[str, dict[str, Any]] = {
        "config.json": config,
        "tokenizer_config.json": tokenizer_config(),
        "generation_config.json": {
            "bos_token_id": config["bos_token_id"],
            "pad_token_id": config["bos_token_id"],
            "eos_token_id": end_ids,
            "do_sample": False,
            "repetition_penalty": 1.0,
        },
        **processor_configs(),
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    train_tokenizer(folder / "tokenizer.json")


def png(pixels: Any) -> bytes:
    """Encode one 8 x 8 digit, values 0 to 16, as a grey PNG with values 0 to 255."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray((pixels * 255 / 16).round().astype("uint8")).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def split_rows(labels: list[int], keys: list[bytes]) -> tuple[list[int], list[int]]:
    """Split row numbers into train and test, 20 % of each digit; equal pictures never fall on both sides."""
    shuffler = random.Random(SPLIT_SEED)  # noqa: S311 (nothing secret; the same in every Python)
    test: set[int] = set()
    for digit in range(10):
        rows = [row for row, label in enumerate(labels) if label == digit]
        shuffler.shuffle(rows)
        test.update(rows[: round(len(rows) * TEST_SHARE)])
    trained = {keys[row] for row in range(len(labels)) if row not in test}
    test = {row for row in test if keys[row] not in trained}
    train = [row for row in range(len(labels)) if row not in test]
    return train, sorted(test)


def write_digits(folder: Path) -> None:
    """Write the pictures and records for training, and the TSV (VLMEvalKit's columns) for the test."""
    from sklearn.datasets import load_digits

    source = load_digits()
    labels = [int(label) for label in source.target]
    pictures = [png(pixels) for pixels in source.images]
    train, test = split_rows(labels, [pixels.tobytes() for pixels in source.images])
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for old in (folder / "images").glob("*.png"):
        old.unlink()
    chooser = random.Random(SPLIT_SEED)  # noqa: S311 (nothing secret; the same in every Python)
    lines = []
    for row in train:
        (folder / "images" / f"{row:04d}.png").write_bytes(pictures[row])
        turns = [
            {"from": "human", "value": f"<image>{chooser.choice(WORDINGS)}"},
            {"from": "gpt", "value": str(labels[row])},
        ]
        lines.append(json.dumps({"id": f"digit-{row:04d}", "image": f"images/{row:04d}.png", "conversations": turns}))
    (folder / "train.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    with (folder / "test.tsv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["index", "image", "question", "answer", "category"])
        for row in test:
            picture = base64.b64encode(pictures[row]).decode("ascii")
            writer.writerow([row, picture, chooser.choice(WORDINGS), labels[row], f"digit {labels[row]}"])
    # One of them as a file, for a question by hand.
    (folder / "unseen.png").write_bytes(pictures[test[0]])
    print(f"{len(train)} pictures to train on, {len(test)} to test on")


def main() -> None:
    """Write everything below --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("recipes/tiny"))
    out: Path = parser.parse_args().out
    write_checkpoint(out / "checkpoint")
    write_digits(out / "digits")


if __name__ == "__main__":
    main()
