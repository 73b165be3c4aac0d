"""Every token of a sample is in one piece, and pieces read as the text does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from qvl_core.batch import IGNORE
from qvl_core.geometry import sample_positions
from qvl_core.specs.model_spec import ModelSpec
from qvl_data.inspection.pieces import Piece, PieceReader, special_names
from qvl_data.processor import Processor
from qvl_data.records.record import Turn

QUESTION = "图里 what?\t<|im_end|>  🐈"
ANSWER = "A cat 🐈, é.\n"


def _pieces(processor: Processor, loss_on: str = "answers") -> tuple[tuple[Piece, ...], np.ndarray, np.ndarray]:
    turns = [Turn(role="user", texts=("", QUESTION), media=("image",)), Turn(role="assistant", texts=(ANSWER,))]
    encoded = processor.chat.encode(turns, [6], loss_on=loss_on)
    positions = sample_positions(encoded.input_ids, [[1, 4, 6]], [0.0], processor.spec)
    reader = PieceReader(processor.chat, processor.folder, processor.spec.tokens)
    return reader.pieces(encoded.input_ids, encoded.labels, positions, [6]), encoded.input_ids, positions


def test_every_token_is_in_one_piece(processor: Processor) -> None:
    pieces, ids, positions = _pieces(processor)
    assert [piece.first for piece in pieces] == np.cumsum([0, *(p.count for p in pieces)])[:-1].tolist()
    assert sum(piece.count for piece in pieces) == len(ids)
    for piece in pieces:
        assert piece.positions == tuple(positions[:, piece.first].tolist())
        assert piece.last == tuple(positions[:, piece.first + piece.count - 1].tolist())
        assert piece.ids[0] == ids[piece.first]


def test_pieces_read_as_the_text(processor: Processor) -> None:
    pieces, _, _ = _pieces(processor)
    text = "".join(piece.text for piece in pieces)
    assert QUESTION in text
    assert ANSWER in text
    assert "\ufffd" not in text
    # The cat is four bytes and no merge of this tokenizer: one piece of several tokens.
    assert [len(piece.ids) for piece in pieces if piece.text == "🐈"] == [4, 4]


def test_special_tokens_are_not_those_that_a_user_writes(processor: Processor) -> None:
    pieces, _, _ = _pieces(processor)
    assert [piece.text for piece in pieces if piece.kind == "special"] == [
        *("<|im_start|>", "<|im_end|>", "<|im_start|>"),
        *("<|vision_start|>", "<|vision_end|>", "<|im_end|>", "<|im_start|>", "<|im_end|>"),
    ]


def test_a_medium_is_one_piece(processor: Processor) -> None:
    (piece,) = [piece for piece in _pieces(processor)[0] if piece.medium >= 0]
    assert (piece.kind, piece.count, piece.medium, piece.is_learned) == ("image", 6, 0, False)
    time, height, width = piece.positions
    assert piece.last == (time, height + 1, width + 2)


def test_learned_are_the_answer_and_its_end(processor: Processor) -> None:
    pieces, ids, _ = _pieces(processor)
    assert "".join(piece.text for piece in pieces if piece.is_learned) == ANSWER + "<|im_end|>"
    every, _, _ = _pieces(processor, "all")
    assert sum(piece.count for piece in every if piece.is_learned) == len(ids) - 6
    assert IGNORE < 0


def test_special_names_come_from_the_folder(checkpoint: tuple[Path, ModelSpec]) -> None:
    folder, spec = checkpoint
    names = special_names(folder)
    assert names[spec.tokens.image] == "<|image_pad|>"
    assert "<tool_call>" not in names.values()
