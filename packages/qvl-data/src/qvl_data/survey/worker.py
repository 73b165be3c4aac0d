"""A process that judges a share of the records: the program `qvl_data.survey.worker SHARE SHARES`.

It reads a job from its standard input and writes one line of JSON a chunk, and null after the last, to its standard
output. When nobody reads that any more, because the process that asked is gone, the next line ends it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TextIO

from qvl_core.errors import QvlError

from qvl_data.survey.chunks import judge_share
from qvl_data.survey.job import job_from_json


def main() -> int:
    """Judge the share that the command line names."""
    return judge(sys.argv[1:], sys.stdin, sys.stdout)


def judge(arguments: list[str], source: TextIO, target: TextIO) -> int:
    """Judge a share and give the exit code; a QvlError is written to standard error."""
    share, shares = (int(word) for word in arguments)
    try:
        job = job_from_json(source.readline())
        for chunk in judge_share(job, job.planner(job.processor()), share, shares):
            target.write(json.dumps(chunk.to_json()) + "\n")
            target.flush()
        # The word that all is done: a process that ends without it has lost something.
        target.write("null\n")
        target.flush()
    except QvlError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except BrokenPipeError:
        # Nobody is there to tell; without this the interpreter would try to flush once more and say so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), target.fileno())
        return 1
    return 0
