"""Which versions are at work."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

__all__ = ["show_versions"]

_PACKAGES = (
    "dask_em",
    "dask",
    "distributed",
    "numba",
    "numpy",
    "scikit-learn",
    "scipy",
    "xarray",
    "pandas",
    "matplotlib",
)


def show_versions() -> None:
    """Print the versions of Python, the system and the packages that matter here.

    Examples
    --------
    >>> import dask_em
    >>> dask_em.show_versions()  # doctest: +ELLIPSIS
    python: 3...
    """
    print(f"python: {sys.version.split()[0]}")
    print(f"system: {platform.platform()}")
    for package in _PACKAGES:
        try:
            print(f"{package}: {version(package)}")
        except PackageNotFoundError:
            print(f"{package}: not installed")
