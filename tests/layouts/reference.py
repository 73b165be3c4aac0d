"""Train single processes: `reference.py FOLDER PART PARTS` does its part of the cases in FOLDER/references.json."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from cases import Case
from engine_work import prepare, write_reference


def main(folder: Path, part: int, parts: int) -> None:
    """Write the references that are not there yet."""
    wanted = json.loads((folder / "references.json").read_text(encoding="utf-8"))
    prepare()
    for fields in wanted[part::parts]:
        write_reference(Case.from_json(fields), folder)
    print("done", flush=True)
    # MindSpore's threads now and then end a process that has done everything with a signal.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
