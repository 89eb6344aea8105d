"""Arrays that a node keeps in memory as far as there is room, and else in files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Store"]

Arrays = tuple[NDArray[Any], ...]


class Store:
    """Groups of arrays by name.

    What fits into the budget is in memory, and remains there; the rest is in files.
    Blocks are visited one after the other, again and again, so whichever came last
    would be the wrong ones to keep.

    Parameters
    ----------
    budget : int
        Bytes.
    folder : str, optional
        Where to make a directory for files, which goes with the store; by default
        where temporary files are.
    """

    def __init__(self, budget: int, folder: str | None = None) -> None:
        self._room = budget
        self._folder = folder
        self._here: dict[Hashable, Arrays] = {}
        self._files: dict[Hashable, list[str]] = {}
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._made = 0

    @property
    def n_files(self) -> int:
        """Number of files."""
        return sum(map(len, self._files.values()))

    def names(self) -> list[Any]:
        """Return the names of all groups."""
        return [*self._here, *self._files]

    def put(self, name: Hashable, *arrays: NDArray[Any]) -> None:
        """Keep arrays, in place of those of that name."""
        if name in self._here:
            self.drop(name)
        size = sum(a.nbytes for a in arrays)
        if name not in self._files and size <= self._room:
            self._room -= size
            self._here[name] = arrays
            return
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(
                prefix="dask_em-blocks-", dir=self._folder, ignore_cleanup_errors=True
            )
        if name not in self._files:
            self._files[name] = [
                os.path.join(self._directory.name, f"{self._made}-{i}.npy")
                for i in range(len(arrays))
            ]
            self._made += 1
        for path, array in zip(self._files[name], arrays, strict=True):
            np.save(path, array, allow_pickle=False)

    def get(self, name: Hashable) -> Arrays | None:
        """Return arrays, or None if there are none of that name."""
        if name in self._files:
            return tuple(np.load(path) for path in self._files[name])
        return self._here.get(name)

    def drop(self, name: Hashable) -> None:
        """Keep them no longer."""
        for array in self._here.pop(name, ()):
            self._room += array.nbytes
        for path in self._files.pop(name, []):
            os.remove(path)

    def close(self) -> None:
        """Keep nothing, and remove the files."""
        self._here, self._files = {}, {}
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None
