"""The one error of the geometry functions."""

from __future__ import annotations


class GeometryError(ValueError):
    """Sizes, grids or placeholder tokens that do not fit each other; the text names the sample and both numbers.

    Callers that know the file turn it into a `qvl_core.errors.Problem`.
    """
