"""What holds for the tests of every package."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How long an example takes, or how fast examples are made, says something about the machine and its load only.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
