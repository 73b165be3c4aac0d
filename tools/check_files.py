"""Check every tracked file: TOML parses, relative links exist, no large file, no weights, no machine paths."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import tomli

LIMIT_BYTES = 500 * 1000
WEIGHTS = {".safetensors", ".ckpt", ".bin", ".pt", ".pth", ".npz"}
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home/\w+|Users/\w+)/")


def main() -> int:
    """Print each finding as `file: what`; exit 1 when there are any."""
    listing = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], capture_output=True, check=True)
    findings = [
        f"{path}: {finding}"
        for path in map(Path, filter(None, listing.stdout.decode().split("\0")))
        if path.is_file()
        for finding in _findings(path)
    ]
    print("\n".join(findings) or "files: clean")
    return 1 if findings else 0


def _findings(path: Path) -> list[str]:
    found = []
    if path.stat().st_size > LIMIT_BYTES:
        found.append(f"{path.stat().st_size} bytes; the limit is {LIMIT_BYTES}")
    if path.suffix in WEIGHTS:
        found.append("looks like weights; they are not kept in the repository")
    if path.suffix == ".toml":
        try:
            tomli.loads(path.read_text(encoding="utf-8"))
        except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
            found.append(f"not TOML: {error}")
    if path.suffix in {".md", ".py", ".toml", ".yml", ".yaml", ".json", ".sh"}:
        text = path.read_text(encoding="utf-8")
        lines = enumerate(text.splitlines(), 1)
        found += [f"machine path in line {number}" for number, line in lines if MACHINE_PATH.search(line)]
        links = LINK.findall(text) if path.suffix == ".md" else []
        found += [f"link to {link}, which is not there" for link in links if not (path.parent / link).exists()]
    return found


if __name__ == "__main__":
    sys.exit(main())
