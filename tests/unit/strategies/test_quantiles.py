"""Quantiles of columns are numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from strategies.fleet import Floats
from strategies.quantiles import median, quantile

COLUMNS = arrays(np.float64, st.integers(1, 50), elements=st.floats(-1e300, 1e300))


@given(COLUMNS)
def test_a_median_is_numpys_to_the_last_bit(values: np.ndarray) -> None:
    assert median(values) == np.median(values)


@given(
    st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=300).map(np.array),
    st.one_of(st.sampled_from([0.0, 0.8, 1.0]), st.floats(0, 1)),
)
def test_a_quantile_is_numpys(values: Floats, share: float) -> None:
    assert quantile(values, share) == pytest.approx(np.quantile(values, share), rel=1e-12)
