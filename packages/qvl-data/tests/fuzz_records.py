"""Read mutated record files in a process of their own: `python fuzz_records.py FOLDER COUNT SEED`.

Prints how many files were refused and how many records came out. Ends with an error if anything but a DataError
escapes, if anything is opened that is not the file itself, or if a program or connection is started.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import random
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from qvl_core.errors import DataError
from qvl_data.media.paths import MediaPathError, MediaRoot
from qvl_data.records.formats import parse_element
from qvl_data.records.json_array import JsonArrayFile
from qvl_data.records.record import Record
from qvl_data.records.record_file import open_record_files

# The test's own bound: what all of it takes beside what Python and Arrow take when nothing is read.
MEMORY_BYTES = 2 * 1024**3
NAMES = {
    "llava": ("from", "value", "conversations", "human", "gpt"),
    "sharegpt": ("role", "content", "messages", "user", "assistant"),
    "openai": ("role", "content", "messages", "user", "assistant"),
}
PARQUET_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"compression": "zstd", "row_group_size": 2},
    {"compression": "none", "use_dictionary": False},
)
INSERTED = (b"../../", b"/etc/passwd", b"\xed\xa0\x80", b"NaN", b"9" * 5000)
BRACKETS = b'[]{}",:\\'


def records(format_name: str) -> list[dict[str, Any]]:
    """Give a few records with everything that the format can have."""
    role, content, turns = (
        ("from", "value", "conversations") if format_name == "llava" else ("role", "content", "messages")
    )
    user, assistant = ("human", "gpt") if format_name == "llava" else ("user", "assistant")

    def conversation(*texts: Any) -> list[dict[str, Any]]:
        return [{role: assistant if i % 2 else user, content: text} for i, text in enumerate(texts)]

    if format_name == "openai":
        parts = [{"type": "text", "text": "wo? é😀"}, {"type": "image_url", "image_url": {"url": "a/b.jpg"}}]
        call = {"function": {"name": "f", "arguments": '{"x": [1]}'}}
        tools = [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "1"}]
        return [
            {turns: conversation(parts, "at <box>"), "objects": {"bbox": [[1, 2, 3, 4.5]], "frame": "norm1000"}},
            {turns: [*conversation('a \\ "b"'), *tools, {"role": "assistant", "content": "c"}]},
        ] * 2
    image = {"image": "a/b.jpg"} if format_name == "llava" else {"images": ["a/b.jpg"], "videos": []}
    return [
        {turns: conversation("<image> wo? é😀", "at <box>"), **image, "objects": {"bbox": [[1, 2, 3, 4.5]]}},
        {turns: conversation('a \\ "b"', "c", "d\n", "e")},
    ] * 2


def seeds(folder: Path) -> list[tuple[str, str, bytes]]:
    """Give (format, suffix, bytes) of valid files of every format and kind."""
    found = []
    for format_name in ("llava", "sharegpt", "openai"):
        values = records(format_name)
        found.append((format_name, ".json", json.dumps(values, indent=1).encode()))
        found.append((format_name, ".json", json.dumps(values, ensure_ascii=False).encode()))
        lines = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
        found.append((format_name, ".jsonl", lines.encode()))
        if format_name == "openai":
            values = [{"messages": json.dumps(value["messages"])} for value in values]
        for options in (
            {},
            {"compression": "zstd", "row_group_size": 2},
            {"compression": "none", "use_dictionary": False},
        ):
            path = folder / "seed.parquet"
            pq.write_table(pa.Table.from_pylist(values), path, **options)
            found.append((format_name, ".parquet", path.read_bytes()))
    return found


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Change a file in one to three places."""
    changes: tuple[Callable[[bytearray, int, int], object], ...] = (
        lambda b, i, _: b.__setitem__(i, b[i] ^ (1 << rng.randrange(8))),
        lambda b, i, _: b.__setitem__(i, rng.randrange(256)),
        lambda b, i, _: b.__delitem__(slice(i, None)),
        lambda b, i, j: b.__delitem__(slice(min(i, j), min(min(i, j) + 64, max(i, j)))),
        lambda b, i, j: b.__setitem__(slice(i, i), b[min(i, j) : max(i, j)]),
        lambda b, i, _: b.__setitem__(slice(i, i), rng.randbytes(rng.randrange(1, 9))),
        lambda b, i, _: b.__setitem__(slice(i, i), bytes([rng.choice(BRACKETS)]) * rng.choice((1, 1, 2, 5000))),
        lambda b, i, _: b.__setitem__(slice(i, i + 8), b"\xff" * 8),
        lambda b, i, _: swap_brackets(b, rng),
        lambda b, i, _: b.__setitem__(slice(i, i), rng.choice(INSERTED)),
    )
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        if changed:
            rng.choice(changes)(changed, rng.randrange(len(changed)), rng.randrange(len(changed)))
    return bytes(changed)


def swap_brackets(data: bytearray, rng: random.Random) -> None:
    """Let two brackets or quotes change places."""
    places = [i for i, byte in enumerate(data) if byte in BRACKETS]
    if len(places) > 1:
        i, j = rng.sample(places, 2)
        data[i], data[j] = data[j], data[i]


def read(path: Path, format_name: str, root: MediaRoot) -> int:
    """Read a file in every way that a run does; give the number of good records."""
    good = 0
    for file in open_record_files(path):
        elements = list(file.elements())
        for element in elements:
            found = parse_element(element, path=path, format_name=format_name)
            if isinstance(found, Record):
                good += 1
                for medium in found.media:
                    with contextlib.suppress(MediaPathError):
                        assert root.resolve(medium.written).is_relative_to(path.parent.resolve())
            else:
                assert all(len(problem.render()) < 2000 for problem in found), found
            if element.place is not None:
                assert file.read(element.place).place == element.place
        if not isinstance(file, JsonArrayFile):
            again = [element for block in file.blocks(3) for element in file.read_block(block)]
            assert [e.place for e in again] == [e.place for e in elements]
    return good


def main(folder: Path, count: int, seed: int) -> None:
    """Read `count` mutated files."""
    # Of each of Arrow's threads, one a core, the limit below would count stack and heap.
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    rng = random.Random(seed)
    files = seeds(folder)
    root = MediaRoot(folder)
    codecs.lookup("gb2312")  # The standard library imports its codecs late.
    for format_name, suffix, data in files:  # Also imports whatever else is imported late.
        path = folder / f"valid{suffix}"
        path.write_bytes(data)
        assert read(path, format_name, root) == 4, (format_name, suffix)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    allowed = {str(folder / f"x{suffix}") for suffix in (".json", ".jsonl", ".parquet")}
    strange: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and not isinstance(arguments[0], int) and str(arguments[0]) not in allowed:
            strange.append(f"opened {arguments[0]!r}")
        elif event.startswith(("subprocess.", "socket.", "os.system", "os.exec", "os.posix_spawn", "os.fork")):
            strange.append(event)

    sys.addaudithook(watch)
    refused = good = 0
    for number in range(count):
        format_name, suffix, data = files[number % len(files)]
        path = folder / f"x{suffix}"
        content = mutated(data, rng)
        path.write_bytes(content)
        try:
            good += read(path, format_name, root)
        except DataError:
            refused += 1
        except BaseException:
            (folder / f"finding{suffix}").write_bytes(content)
            raise
        assert not strange, (number, strange)
    # Not ru_maxrss: a child's begins with that of the process that has started it.
    status = Path("/proc/self/status").read_text()
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) // 1024
    print(json.dumps({"files": count, "refused": refused, "good_records": good, "peak_mib": peak}))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]), int(sys.argv[3]))
