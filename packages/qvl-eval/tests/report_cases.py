"""Judged rows as the benchmarks have them, made up: diagrams with letters, subjects with several pictures."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw
from qvl_eval.report.row_verdicts import Result
from qvl_eval.score.judged import AnsweredRow, Judged
from qvl_eval.score.summary import summarise

RULES = ("vlmevalkit-2026-06", "mindspeed", "mmmu-official")
HOSTILE = (
    "</noscript></article></script><script>document.title='run'</script>"
    "<img src=x onerror=\"document.title='run'\">&lt;"
)
PROTOCOL: Mapping[str, Any] = {
    "benchmark": "mmmu_dev_val",
    "weights": "1f" * 32,
    "data": "2e" * 32,
    "prompts": {"family": "custom", "closing": "Please select the correct answer from the options above.\n"},
    "image": {"min_pixels": 1003520, "max_pixels": 12845056},
    "generation": {"do_sample": False, "max_new_tokens": 2048, "stop": ["<|im_end|>"]},
    "versions": {"qvl-eval": "0.1.0", "mindspore": "2.7.0"},
}
SUBJECTS = (
    *("Accounting", "Agriculture", "Architecture_and_Engineering", "Art", "Art_Theory", "Basic_Medical_Science"),
    *("Biology", "Chemistry", "Clinical_Medicine", "Computer_Science", "Design"),
    *("Diagnostics_and_Laboratory_Medicine", "Economics", "Electronics", "Energy_and_Power", "Finance", "Geography"),
    *("History", "Literature", "Manage", "Marketing", "Materials", "Math", "Mechanical_Engineering", "Music"),
    *("Pharmacy", "Physics", "Psychology", "Public_Health", "Sociology"),
)
WORDS = ("leaf", "root", "stem", "sap")
DOMAINS = (
    *("Art & Design", "Business", "Health & Medicine", "Humanities & Social Science", "Science", "Tech & Engineering"),
)


def picture(seed: int, width: int = 640, height: int = 480, kind: str = "JPEG") -> bytes:
    """Give a picture file: a drawing of boxes, lines and letters."""
    chance = random.Random(seed)
    image = Image.new("RGB", (width, height), (248, 248, 242))
    draw = ImageDraw.Draw(image)
    for number in range(12):
        x, y = chance.randrange(width), chance.randrange(height)
        colour = tuple(chance.randrange(60, 220) for _ in range(3))
        draw.ellipse((x, y, x + width // 6, y + height // 7), fill=colour, outline="black")
        draw.line((x, y, chance.randrange(width), chance.randrange(height)), fill="black", width=2)
        draw.text((x + 9, y + 9), "ABCDEFGHIJKL"[number], fill="black", font_size=max(6, height // 16))
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


class Pictures:
    """Pictures of rows by their hash; counts how often rows are asked for."""

    def __init__(self, files: Sequence[bytes]) -> None:
        self.files = {hashlib.sha256(data).hexdigest(): data for data in files}
        self.asked = 0

    def __call__(self, row: AnsweredRow) -> Sequence[bytes]:
        self.asked += 1
        return [self.files[key] for key in row.images]


def choice_rows(count: int, *, pictures: Pictures, mmmu: bool = False, seed: int = 0) -> list[AnsweredRow]:
    """Give rows with four options, in splits and subjects where `mmmu`; one in nine answers names no letter."""
    chance = random.Random(seed)
    hashes = list(pictures.files)
    rows = []
    for number in range(count):
        answer = chance.choice("ABCD")
        said = answer if chance.random() < 0.6 else chance.choice("ABCD")
        reply = chance.choice([said, f"{said}.", f"The answer is {said}.", f"I think it is {said}, by the arrow."])
        if number % 9 == 8:
            reply = "It cannot be told from the picture. " * chance.choice([1, 30])
        subject = number * 30 // count
        shown = chance.choice((1, 1, 1, 2, 4)) if mmmu else 1
        rows.append(
            AnsweredRow(
                index=f"validation_{SUBJECTS[subject]}_{number}" if mmmu else str(number),
                split=("dev" if number % 7 == 0 else "validation") if mmmu else "",
                category=DOMAINS[subject // 5] if mmmu else ("foodChainsWebs", "lifeCycles", "parts")[number % 3],
                subcategory=SUBJECTS[subject] if mmmu else "",
                question=f"<image 1> What does label {number} stand for in the drawing above?",
                answer=answer,
                options={letter: f"{word} of {number}" for letter, word in zip("ABCD", WORDS, strict=True)},
                prediction=reply,
                images=tuple(hashes[(number // 3 + at) % len(hashes)] for at in range(shown)) if hashes else (),
                question_type="multiple-choice" if mmmu else "",
            )
        )
    return rows


def results_of(rows: Sequence[AnsweredRow], rules: Sequence[str] = RULES, benchmark: str = "ai2d_test") -> list[Result]:
    """Judge rows by made-up rules: each rule set reads a little less than the one before it."""
    results: list[Result] = []
    for strictness, name in enumerate(rules):
        judged = [_judged(row, name, strictness) for row in rows]
        results.append((name, summarise(benchmark, name, judged), judged))
    return results


def _judged(row: AnsweredRow, rules: str, strictness: int) -> Judged:
    words = row.prediction.replace(".", " ").replace(",", " ").split()
    letters = [word for word in words if word in row.options]
    is_read = bool(letters) and len(words) <= (100, 4, 1)[strictness % 3]
    extracted = letters[-1] if is_read else None
    rule = ("bare letter" if len(words) == 1 else "letter token") if is_read else "no letter found"
    score = float(extracted == row.answer)
    return Judged(row=row, rules=rules, score=score, extracted=extracted, rule=rule, failed=not is_read)
