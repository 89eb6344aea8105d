"""Parameters that lie where they were made, until somebody asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DistributedTable"]


class DistributedTable:
    """Rows of numbers with ids, spread over nodes.

    After a fit on a cluster the rows stay on its workers. `gather` brings them to this
    process, once; pickling does so, too.

    Parameters
    ----------
    pieces : sequence
        For each node, something whose ``fetch()`` is awaited and gives sorted ids and
        the rows that belong to them. Each id is in one piece.
    n_rows : int
        Rows in all.
    width : int
        Numbers in a row.
    """

    def __init__(self, pieces: Sequence[Any], n_rows: int, width: int) -> None:
        self._pieces = pieces
        self.n_rows = n_rows
        self.width = width
        self._here: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None

    @property
    def nbytes(self) -> int:
        """Size in bytes once it is gathered."""
        return 8 * self.n_rows * (self.width + 1)

    async def fetch(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Bring all rows here; to be awaited on the loop of the client."""
        if self._here is None:
            found = [await piece.fetch() for piece in self._pieces]
            ids = np.concatenate([ids for ids, _ in found])
            order = np.argsort(ids, kind="stable")
            values = np.concatenate([rows for _, rows in found])
            self._here = ids[order], values[order]
            self._pieces = ()
        return self._here

    def gather(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Bring all rows here.

        Returns
        -------
        ids : array of int64 of shape (n_rows,)
            Sorted.
        values : array of shape (n_rows, width)

        Raises
        ------
        RuntimeError
            If the rows are still on a cluster that is gone.
        """
        if self._here is not None:
            return self._here
        client = next(
            (c for p in self._pieces if (c := getattr(p, "client", None))), None
        )
        if client is None:
            import asyncio

            return asyncio.run(self.fetch())
        if client.status in ("closing", "closed"):
            raise RuntimeError(
                "the parameters were left on the Dask cluster, and its client is "
                "closed; fit again, and use them (or pass gather=True) before you "
                "close it."
            )
        if client.asynchronous:
            raise RuntimeError(
                "the parameters were left on the Dask cluster, and its client is "
                "asynchronous: await result_.params.fetch() first, or fit with "
                "gather=True."
            )
        return client.sync(self.fetch)

    def take(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the rows of some ids, zeros for ids that there are not."""
        have, values = self.gather()
        found = np.zeros((len(ids), self.width))
        if len(have):
            at = np.minimum(np.searchsorted(have, ids), len(have) - 1)
            known = have[at] == ids
            found[known] = values[at[known]]
        return found

    def __getstate__(self) -> dict[str, Any]:
        self.gather()
        return self.__dict__

    def __repr__(self) -> str:
        """Say how much there is, and where."""
        where = "here" if self._here is not None else "where it was computed"
        return f"DistributedTable({self.n_rows:,} x {self.width}, {where})"
