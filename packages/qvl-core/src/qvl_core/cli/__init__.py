"""The command `qvl`. Modules here import little at the top, so that `qvl --help` starts fast."""
