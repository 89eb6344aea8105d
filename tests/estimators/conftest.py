"""Rows as a Dask array, and a mixture fitted to them."""

import dask.array as da
import pytest
from mixture_data import CHUNKS, K, X

from dask_em import GaussianMixture


@pytest.fixture(scope="session")
def fitted():
    return GaussianMixture(K, random_state=0).fit(X)


@pytest.fixture
def lazy():
    return da.from_array(X, chunks=CHUNKS)
