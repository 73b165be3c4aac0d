"""`qvl` in processes of its own that can be killed, limited and made to fail, and folders for them to convert.

A fork of a server that has imported everything is a process like any other, and there in milliseconds.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from qvl_convert.compare import compare_folders
from qvl_core.errors import WeightsError
from qvl_core.launch.proc import status_of
from qvl_core.params import parameter_table
from qvl_core.specs import ModelSpec, TextSpec, TokenIds, VisionSpec, to_hf_config
from qvl_core.weights.hf_writer import write_hf_folder
from qvl_core.weights.safetensors_writer import TensorToWrite
from qvl_core.weights.whole_tensors import open_whole_tensors

SERVER = Path(__file__).with_name("server.py")
PATIENCE_S = 120


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a process ended: its exit code, or minus the signal, what it wrote, and what the server says of it."""

    code: int
    out: str
    err: str
    notes: dict

    def json(self):
        return json.loads(self.out)


class Processes:
    """Starts `qvl` processes: `run` to their end, or `start` ... `kill`, `wait`."""

    def __init__(self, folder):
        self._folder = folder
        self._count = 0
        self._server = subprocess.Popen(
            [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._answer() == {"ready": True}

    def start(self, *arguments, **options):
        """Options: fault, limits, umask, text (a dictionary each, or a number; see server.py)."""
        self._count += 1
        name = str(self._folder / str(self._count))
        self._ask({"arguments": [str(one) for one in arguments], "name": name, **options})
        return self._answer()["pid"], name

    def wait(self, started):
        pid, name = started
        self._ask({"wait": pid})
        status = self._answer()["status"]
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        out, err = (Path(f"{name}.{end}").read_text(errors="replace") for end in ("out", "err"))
        # A killed process has written none.
        notes = Path(f"{name}.notes").read_text() or "{}"
        return Result(code=code, out=out, err=err, notes=json.loads(notes))

    def signal(self, started, number):
        os.kill(started[0], number)

    def run(self, *arguments, **options):
        return self.wait(self.start(*arguments, **options))

    def interrupted(self, delay, number, *arguments, began=None, **options):
        """Start a process and send it a signal some time after it `began`. It may have ended before."""
        started = self.start(*arguments, **options)
        if began is not None:
            self.until(lambda: began() or status_of(started[0]) is None)
        time.sleep(delay)
        self.signal(started, number)
        return self.wait(started)

    @staticmethod
    def until(condition):
        """Wait until something is so."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, "it never came"
            time.sleep(0.001)

    def close(self):
        self._server.stdin.close()
        self._server.wait(PATIENCE_S)
        self._server.stdout.close()

    def _ask(self, question):
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()

    def _answer(self):
        return json.loads(self._server.stdout.readline())


@pytest.fixture(scope="session")
def disk():
    """A folder in memory where there is room: there a thousand fsyncs cost nothing."""
    memory = Path("/dev/shm")
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 * 1024**3
    with TemporaryDirectory(dir=memory if roomy else None, prefix="qvl-faults-") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def qvl(disk):
    (disk / "processes").mkdir()
    processes = Processes(disk / "processes")
    yield processes
    processes.close()


def model(*, hidden, layers, vocabulary, tied=False):
    """A model that four tensor ranks can share."""
    return ModelSpec(
        name="qwen2.5-vl-custom",
        vision=VisionSpec(
            depth=2,
            hidden_size=hidden // 2,
            num_heads=4,
            intermediate_size=hidden,
            out_hidden_size=hidden,
            patch_size=2,
            window_size=8,
            full_attention_blocks=(1,),
        ),
        text=TextSpec(
            num_layers=layers,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_heads=hidden // 8,
            num_kv_heads=4,
            vocab_size=vocabulary,
            tie_word_embeddings=tied,
            head_dim=8,
            mrope_section=(2, 1, 1),
        ),
        tokens=TokenIds(vision_start=40, vision_end=41, image=42, video=43),
    )


def write_hf(folder, spec, **options):
    """Write a folder with random bits in every tensor, the same for the same spec."""
    side = folder.with_name(f"{folder.name}-side")
    side.mkdir()
    (side / "config.json").write_text(json.dumps(to_hf_config(spec)))
    (side / "tokenizer.json").write_text("{}")
    random = np.random.default_rng(11)
    tensors = [
        TensorToWrite(
            name=row.name, dtype="BF16", shape=row.shape, chunks=lambda size=row.size: [random.bytes(2 * size)]
        )
        for row in parameter_table(spec)
    ]
    write_hf_folder(tensors, side, folder, **options)
    return folder


@dataclass(frozen=True, kw_only=True)
class Sources:
    """One model as an HF folder, in one file and in several, and as a sharded folder of four files."""

    hf: Path
    indexed: Path
    sharded: Path


CUT = ("--tp", "2", "--pp", "2")


def sources(qvl, root, spec):
    hf, indexed = write_hf(root / "hf", spec), write_hf(root / "indexed", spec, max_shard_bytes=20_000)
    made = qvl.run("convert", "import", "--hf", hf, "--out", root / "sharded", *CUT)
    assert made.code == 0, made.err
    return Sources(hf=hf, indexed=indexed, sharded=root / "sharded")


@pytest.fixture(scope="session")
def large(qvl, disk):
    """About 35 MB: the copying takes long enough to be hit."""
    (disk / "large").mkdir()
    return sources(qvl, disk / "large", model(hidden=512, layers=3, vocabulary=8192))


@pytest.fixture(scope="session")
def shared_small(qvl, disk):
    """About 100 kB, tied; not to be changed."""
    (disk / "small").mkdir()
    return sources(qvl, disk / "small", model(hidden=32, layers=3, vocabulary=48, tied=True))


@pytest.fixture
def room(disk):
    """A folder of the test's own."""
    with TemporaryDirectory(dir=disk) as path:
        yield Path(path)


@pytest.fixture
def small(shared_small, room):
    """A copy of `shared_small` that a test may change."""
    shutil.copytree(shared_small.hf.parent, room / "small")
    return Sources(
        **{one.name: room / "small" / one.name for one in (shared_small.hf, shared_small.indexed, shared_small.sharded)}
    )


@pytest.fixture(scope="session")
def other(disk):
    """A folder of another model."""
    (disk / "other").mkdir()
    return write_hf(disk / "other" / "hf", model(hidden=32, layers=2, vocabulary=48, tied=True))


@pytest.fixture
def work(room):
    """An empty folder, the parent of an output."""
    (room / "work").mkdir()
    return room / "work"


def snapshot(folder):
    """Everything below a folder: kind, content, and where links lead."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path)] = f"-> {path.readlink()}"
        else:
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


def equal(one, other):
    """Tell whether two folders hold the same bits, every checksum included."""
    return compare_folders(open_whole_tensors(one), open_whole_tensors(other), lambda _: None).difference is None


def checkpoints(parent):
    """List every folder below, hidden ones included, that is taken for a checkpoint."""
    found = []
    for path, _, _ in os.walk(parent):
        try:
            open_whole_tensors(path)
        except WeightsError:
            continue
        found.append(Path(path))
    return found


class Checks:
    """What the tests ask of folders."""

    snapshot = staticmethod(snapshot)
    equal = staticmethod(equal)
    checkpoints = staticmethod(checkpoints)
    write_hf = staticmethod(write_hf)
    model = staticmethod(model)
    sources = staticmethod(sources)
    cut = CUT

    @staticmethod
    def refused(result, code, *words):
        """Assert that a process ended with this code and a text for people that has these words."""
        assert result.code == code, (result.code, result.out, result.err)
        assert "Traceback" not in result.err
        assert "this is a bug" not in result.err
        assert all(word in result.err for word in words), result.err

    @staticmethod
    def nothing_but(parent, *names):
        """Assert that a folder holds exactly these entries."""
        assert sorted(entry.name for entry in parent.iterdir()) == sorted(names)


@pytest.fixture(scope="session")
def check():
    return Checks
