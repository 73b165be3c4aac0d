"""Measure rows and tokens per second of turning conversations into token ids and labels; print JSON.

    python benchmarks/data_tokens.py [--rows 2000] [--rounds 5] [--checkpoint DIR]

Side by side, round after round, in one thread by processor time: ours (with the check that the template changes no
text, and without), transformers' `apply_chat_template` with and without tokenising, and the bare tokenizer on text that
was rendered before, which is the limit. `time_to_transformers` is the median of the rounds' ratios, with their range.
The rows are LLaVA-like: one image, two or three questions, answers of 20 to 60 words.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_TEXT = """the quick brown fox jumps over a lazy dog near an old wooden bridge while several children watch from behind
tall trees and talk about what they can see there on this bright morning in early summer before going home"""
WORDS = _TEXT.split()
IMAGE_TOKENS = 255


def conversations(count: int) -> list[list[tuple[str, str]]]:
    """Give (question, answer) pairs of each row."""
    draw = random.Random(1)

    def text(shortest: int, longest: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(shortest, longest)))

    return [[(text(5, 15), text(20, 60)) for _ in range(draw.randint(2, 3))] for _ in range(count)]


def our_turns(row: list[tuple[str, str]]) -> list[Any]:
    from qvl_data.records.record import Turn

    turns = []
    for number, (question, answer) in enumerate(row):
        if number:
            turns.append(Turn(role="user", texts=(question,)))
        else:
            turns.append(Turn(role="user", texts=("", f"\n{question}"), media=("image",)))
        turns.append(Turn(role="assistant", texts=(answer,)))
    return turns


def their_messages(row: list[tuple[str, str]]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for number, (question, answer) in enumerate(row):
        parts = [{"type": "image"}, {"type": "text", "text": f"\n{question}"}]
        messages.append({"role": "user", "content": question if number else parts})
        messages.append({"role": "assistant", "content": answer})
    return messages


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "recipes/tiny/checkpoint")
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from qvl_core.specs import load_spec
    from qvl_data.processor import load_processor
    from transformers import AutoTokenizer

    chat = load_processor(options.checkpoint, load_spec(options.checkpoint), min_pixels=3136, max_pixels=262144).chat
    theirs = AutoTokenizer.from_pretrained(str(options.checkpoint), local_files_only=True)
    template = chat._template
    rows = conversations(options.rows)
    turns, messages = [our_turns(row) for row in rows], [their_messages(row) for row in rows]

    def rendered(message: list[dict[str, Any]]) -> str:
        return str(theirs.apply_chat_template(message, chat_template=template, tokenize=False))

    texts = [rendered(message) for message in messages]
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: [chat.encode(turn, [IMAGE_TOKENS]) for turn in turns],
        "ours, verified": lambda: [chat.encode(turn, [IMAGE_TOKENS], verify=True) for turn in turns],
        "transformers": lambda: [
            theirs.apply_chat_template(message, chat_template=template, tokenize=True) for message in messages
        ],
        "transformers, template only": lambda: [rendered(message) for message in messages],
        "tokenizer only": lambda: [theirs.backend_tokenizer.encode(text, add_special_tokens=False) for text in texts],
    }
    for turn, message in zip(turns[:50], messages[:50], strict=True):
        ids = theirs.apply_chat_template(message, chat_template=template, tokenize=True, return_dict=True)["input_ids"]
        assert chat.encode(turn, [1]).input_ids.tolist() == list(ids), "the two sides give different tokens"
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, work in ways.items():
            times[name].append(seconds(work))
    tokens = sum(len(chat.encode(turn, [0]).input_ids) for turn in turns)
    print(json.dumps(summary(times, len(rows), tokens), indent=2))


def summary(times: dict[str, list[float]], rows: int, tokens: int) -> dict[str, Any]:
    """Give medians and ratios; tokens are those of the text."""
    result: dict[str, Any] = {"rows": rows, "text_tokens_per_row": round(tokens / rows, 1)}
    for name, found in times.items():
        median = statistics.median(found)
        ratios = sorted(one / other for one, other in zip(found, times["transformers"], strict=True))
        result[name] = {
            "rows_per_s": round(rows / median),
            "tokens_per_s": round(tokens / median),
            "time_to_transformers": round(statistics.median(ratios), 3),
            "range": [round(ratios[0], 3), round(ratios[-1], 3)],
        }
    return result


if __name__ == "__main__":
    main()
