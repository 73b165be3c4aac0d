"""Thousands of mutated files: each is read rightly or refused, nothing else escapes, and memory stays bounded."""

import random
import resource
import time
from pathlib import Path

import pytest
from qvl_convert.mindspeed.source import open_mindspeed
from qvl_convert.mindspeed.torch_archive import open_archive
from qvl_convert.mindspeed.unpickler import unpickle
from qvl_core.errors import QvlError

GENUINE = Path(__file__).parent / "data" / "saved_by_torch_2.13.archive"
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


def mutated(data, rng):
    """Change a few bytes, move a block, cut, or double a part."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(data))
        match rng.randrange(8):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.choice(INTERESTING)
            case 2:
                data[at] = rng.randrange(256)
            case 3:
                count = rng.choice((2, 4, 8))
                data[at : at + count] = rng.choice((b"\xff", b"\x00", b"\x7f")) * count
            case 4:
                del data[at : at + rng.randrange(1, 9)]
            case 5:
                data[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 6:
                start = rng.randrange(len(data))
                data[at:at] = data[start : start + rng.randrange(1, 65)]
            case 7:
                data = data[: max(1, at)] if rng.random() < 0.1 else data
        if not data:
            return b"\0"
    return bytes(data)


def pickle_of(path):
    return open_archive(path).pickle


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.fixture
def watched():
    """Refuse more than 100 MB, and more than 300 s of computing."""
    before, start = peak_mb(), time.process_time()
    yield
    assert peak_mb() - before < 100
    assert time.process_time() - start < 300


def test_mutated_archives(tmp_path, watched):
    rng, path = random.Random(1), tmp_path / "x.pt"
    genuine = GENUINE.read_bytes()
    outcomes, longest = {"read": 0, "refused": 0}, 0
    for _ in range(1500):
        # Half of the changes in the last bytes, where the directory is.
        split = rng.choice((0, len(genuine) - 700))
        path.write_bytes(genuine[:split] + mutated(genuine[split:], rng))
        try:
            archive = open_archive(path)
            unpickle(archive.pickle, path)
            assert all(0 <= entry.start <= entry.stop <= path.stat().st_size for entry in archive.entries.values())
            outcomes["read"] += 1
        except QvlError as error:
            outcomes["refused"] += 1
            longest = max(longest, len(str(error)))
    assert min(outcomes.values()) > 20, outcomes
    assert longest < 2000


def test_mutated_pickles(watched):
    rng = random.Random(2)
    genuine = pickle_of(GENUINE)
    outcomes, longest = {"read": 0, "refused": 0}, 0
    for _ in range(4000):
        try:
            unpickle(mutated(genuine, rng), GENUINE)
            outcomes["read"] += 1
        except QvlError as error:
            outcomes["refused"] += 1
            longest = max(longest, len(str(error)))
    assert min(outcomes.values()) > 100, outcomes
    assert longest < 2000


def test_random_opcodes(watched):
    rng = random.Random(3)
    codes = b"(.NJKMGXBC)]}aeustqrhjcRbQ\x80\x95\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x85\x86\x87\x94\x93\x81"
    for _ in range(4000):
        body = b"".join(bytes([rng.choice(codes)]) + rng.randbytes(rng.choice((0, 0, 1))) for _ in range(60))
        try:
            unpickle(b"\x80\x02" + body, GENUINE)
        except QvlError:
            continue


def test_mutated_folders_read_only_what_is_whole(untied, watched):
    """Through the whole reader: what is accepted has every tensor inside its file."""
    rng = random.Random(4)
    root = untied.mindspeed()
    path = root / "release" / "mp_rank_00" / "model_optim_rng.pt"
    genuine = path.read_bytes()
    pickled = genuine.index(b"\x80\x02")
    stop = pickled + len(pickle_of(path))
    accepted = 0
    for _ in range(300):
        if rng.random() < 0.5:
            data = genuine[:pickled] + mutated(genuine[pickled:stop], rng) + genuine[stop:]
        else:
            data = genuine[:-6000] + mutated(genuine[-6000:], rng)
        path.write_bytes(data)
        try:
            source = open_mindspeed(root, untied.spec)
        except QvlError:
            continue
        accepted += 1
        for tensor in source.tensors.values():
            for piece in tensor.pieces:
                count = (piece.stop_row - piece.first_row) * (piece.stop_column - piece.first_column)
                assert 0 <= piece.start <= piece.start + count * tensor.item_bytes <= len(data)
    assert accepted < 300
