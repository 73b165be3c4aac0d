"""Make recipes/tiny/mixed: a few records of every format, with images, boxes, a clip and tools. Same files every time.

    python tools/make_mixed_data.py

The digits are those of recipes/tiny/digits. Needs qvl-data (pillow, av, pyarrow).
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

TINY = Path(__file__).resolve().parents[1] / "recipes/tiny"
OUT = TINY / "mixed"
_RECORDS = json.loads((TINY / "digits/train.json").read_text(encoding="utf-8"))
DIGITS = [(record["image"], record["conversations"][1]["value"]) for record in _RECORDS]
WIDTH, HEIGHT = 112, 84


def digit(number: int) -> tuple[str, str]:
    """Give path and value of a digit."""
    image, value = DIGITS[number]
    return f"digits/{image}", value


def llava() -> list[dict[str, Any]]:
    """Give records as LLaVA writes them: one image, two, none, a system prompt."""
    rows: list[dict[str, Any]] = []
    for number in range(8):
        image, value = digit(number)
        turns = [{"from": "human", "value": "<image>\nWhich digit is this?"}, {"from": "gpt", "value": value}]
        rows.append({"id": f"one-{number}", "image": image, "conversations": turns})
    for number in range(4):
        (first, a), (second, b) = digit(number), digit(number + 20)
        question = "First <image>, second <image>. Read both digits."
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": f"{a} and {b}"}]
        rows.append({"id": f"two-{number}", "image": [first, second], "conversations": turns})
    for number in range(4):
        turns = [
            {"from": "system", "value": "You count."},
            {"from": "human", "value": f"What comes after {number}?"},
            {"from": "gpt", "value": str(number + 1)},
        ]
        rows.append({"id": f"text-{number}", "conversations": turns})
    return rows


def sharegpt() -> list[dict[str, Any]]:
    """Give records with several turns, a tool, a clip, and an image beside a clip."""
    rows: list[dict[str, Any]] = []
    for number in range(4):
        image, value = digit(number + 40)
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": "<image>Which digit?"},
                    {"role": "assistant", "content": value},
                    {"role": "user", "content": "And one more?"},
                    {"role": "assistant", "content": str(int(value) + 1)},
                ],
                "images": [image],
            }
        )
    rows.append(
        {
            "messages": [
                {"role": "user", "content": "How warm is it in Shenzhen?"},
                {"role": "function_call", "content": '{"name": "weather", "arguments": {"city": "Shenzhen"}}'},
                {"role": "observation", "content": '{"celsius": 28}'},
                {"role": "assistant", "content": "28 degrees."},
            ]
        }
    )
    told = ", ".join(value for _, value in (digit(number) for number in range(4)))
    rows.append(
        {
            "messages": [
                {"role": "user", "content": "<video>Which digits does it show?"},
                {"role": "assistant", "content": told},
            ],
            "videos": ["mixed/digits.mp4"],
        }
    )
    image, value = digit(2)
    rows.append(
        {
            "messages": [
                {"role": "user", "content": "<image>Is this digit in <video>?"},
                {"role": "assistant", "content": f"Yes, {value} is its third."},
            ],
            "images": [image],
            "videos": ["mixed/digits.mp4"],
        }
    )
    return rows


def openai() -> list[dict[str, Any]]:
    """Give records whose content is a list of parts."""
    rows = []
    for number in range(4):
        image, value = digit(number + 60)
        parts = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "Which digit is this?"}]
        rows.append({"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": value}]})
    return rows


def boxes() -> list[dict[str, Any]]:
    """Give records with boxes and points in the pixels of the original image; write the images."""
    rows = []
    for number in range(4):
        name, value = digit(number + 80)
        left, top, side = 8 + 20 * number, 10 + 8 * number, 32
        picture = Image.new("RGB", (WIDTH, HEIGHT), (250, 250, 245))
        picture.paste(Image.open(TINY / name).convert("RGB").resize((side, side)), (left, top))
        path = f"mixed/place-{number}.png"
        picture.save(TINY / path)
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": f"<image>Where is the {value}?"},
                    {"role": "assistant", "content": "In <box>, around <point>."},
                ],
                "images": [path],
                "objects": {
                    "bbox": [[left, top, left + side, top + side]],
                    "point": [[left + side // 2, top + side // 2]],
                    "frame": "original",
                },
            }
        )
    return rows


def clip() -> None:
    """Write a clip of four digits, half a second each, 8 frames a second."""
    with av.open(str(TINY / "mixed/digits.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, 8)
        for shown in range(16):
            name, _ = digit(shown // 4)
            image = Image.open(TINY / name).convert("RGB").resize((64, 64), Image.Resampling.NEAREST)
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)


def write_lines(name: str, rows: list[dict[str, Any]]) -> None:
    (OUT / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    OUT.mkdir(exist_ok=True)
    clip()
    texts = ",\n".join(json.dumps(row, ensure_ascii=False) for row in llava())
    (OUT / "llava.json").write_text(f"[\n{texts}\n]\n", encoding="utf-8")
    write_lines("sharegpt.jsonl", sharegpt())
    write_lines("openai.jsonl", openai())
    write_lines("boxes.jsonl", boxes())
    columns = [{"messages": row["messages"], "images": row["images"]} for row in sharegpt()[:4]]
    pq.write_table(pa.Table.from_pylist(columns), OUT / "records.parquet")


if __name__ == "__main__":
    main()
