"""Random weights depend on seed and name only."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="the model needs mindspore")

from qvl_core.model.initialize import random_tensor, random_weights
from qvl_core.params import parameter_table
from small_models import TIED, UNTIED


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    first, again, other = (dict(random_weights(TIED, seed)) for seed in (3, 3, 4))
    assert list(first) == [row.name for row in parameter_table(TIED)]
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        assert array.ndim == 1 or (array != other[name]).any()


def test_a_tensor_does_not_depend_on_those_drawn_before_it() -> None:
    everything = dict(random_weights(UNTIED, 7))
    for row in reversed(parameter_table(UNTIED)):
        np.testing.assert_array_equal(random_tensor(row, 7), everything[row.name])


def test_no_two_tensors_share_their_numbers() -> None:
    matrices = [array.reshape(-1)[:8] for array in dict(random_weights(UNTIED, 0)).values() if array.ndim > 1]
    assert len({tuple(values.tolist()) for values in matrices}) == len(matrices)


def test_norms_are_one_biases_zero_and_matrices_keep_the_size_of_activations() -> None:
    for name, array in random_weights(TIED, 0):
        assert array.dtype == np.float32
        if name.endswith(".bias"):
            assert not array.any()
        elif array.ndim == 1:
            assert (array == 1).all()
        else:
            # At least 384 numbers each: five standard errors are below 20 %.
            np.testing.assert_allclose(array.std(), np.prod(array.shape[1:]) ** -0.5, rtol=0.2)
