"""What holds for the tests of every package."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# How long an example takes, or how fast examples are made, says something about the machine and its load only.
# Where a change is judged (CI), the same examples are drawn each time: the verdict belongs to the change.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("any machine")
