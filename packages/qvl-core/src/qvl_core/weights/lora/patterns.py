"""Match the regular expressions of an adapter's configuration against module names, with a time limit.

They come from a file that somebody made, and a pattern of twenty characters can keep Python's matcher busy for years.
So all but the plainest are tried in a process of their own, which is ended when it takes too long.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from qvl_core.input_file import printable

SECONDS = 20.0
LONGEST_PATTERN = 65_536

# Nothing here can repeat or branch, so that matching takes a moment whatever the text is.
_PLAIN = re.compile(r"[A-Za-z0-9_.^$\-]*")
_BYTES = 2 * 1024**3
# JSON in and JSON out: [patterns, names] gives the names that each pattern matches.
_SCRIPT = f"""
import json, re, resource, sys
_, hard = resource.getrlimit(resource.RLIMIT_AS)
most = {_BYTES} if hard == resource.RLIM_INFINITY else min(hard, {_BYTES})
resource.setrlimit(resource.RLIMIT_AS, (most, hard))
patterns, names = json.load(sys.stdin)
found = []
for pattern in patterns:
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        print(json.dumps({{"pattern": pattern, "error": str(error)}}))
        break
    found.append([name for name in names if compiled.fullmatch(name)])
else:
    print(json.dumps({{"found": found}}))
"""


class PatternError(ValueError):
    """A pattern that is no regular expression, or takes too long; the message says which."""


def find_matches(
    patterns: Sequence[str], names: Sequence[str], *, anywhere: bool = False, seconds: float = SECONDS
) -> list[frozenset[str]]:
    """Give, for each pattern, the names that it matches as a whole; with `anywhere`, or from any dot on.

    Raises PatternError after `seconds` for all patterns together.
    """
    for pattern in patterns:
        if len(pattern) > LONGEST_PATTERN:
            raise PatternError(f"a pattern has {len(pattern):,} characters; at most {LONGEST_PATTERN:,} are tried")
    whole = [rf"(.*\.)?({pattern})" if anywhere else pattern for pattern in patterns]
    if all(_PLAIN.fullmatch(pattern) for pattern in patterns):
        return [frozenset(name for name in names if re.fullmatch(pattern, name)) for pattern in whole]
    return _in_own_process(whole, names, seconds)


def _in_own_process(patterns: Sequence[str], names: Sequence[str], seconds: float) -> list[frozenset[str]]:
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-W", "ignore", "-c", _SCRIPT],
            input=json.dumps([list(patterns), list(names)]).encode(),
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PatternError(f"its regular expressions take more than {seconds:g} s on {len(names)} names") from None
    if done.returncode:
        raise PatternError("its regular expressions cannot be tried: the matcher ran out of memory or crashed")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise PatternError(f"{printable(answer['pattern'], 60)!r} is not a regular expression: {answer['error']}")
    return [frozenset(names) for names in answer["found"]]
