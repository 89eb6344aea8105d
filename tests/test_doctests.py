"""The examples in the docstrings of all modules are true."""

import doctest
import importlib
import pkgutil
import warnings

import pytest

import dask_em

OPTIONAL = {"cupy", "matplotlib", "pandas", "pyarrow", "rich", "xarray"}

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(dask_em.__path__, "dask_em.")
)


@pytest.mark.parametrize("name", ["dask_em", *MODULES])
def test_docstrings(name):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in OPTIONAL:
            raise
        pytest.skip(f"needs {error.name}")
    with warnings.catch_warnings():
        # a dashboard of somebody else's
        warnings.filterwarnings("ignore", "Port .* is already in use")
        results = doctest.testmod(module)
    assert results.failed == 0, f"{results.failed} of {results.attempted} examples fail"


def test_modules_are_found():
    assert {"dask_em.fit", "dask_em.schedules.planner", "dask_em.testing"} <= {*MODULES}
