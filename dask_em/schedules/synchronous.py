"""The barrier: all shards report, then the M-step."""

from __future__ import annotations

import dataclasses

from .base import Schedule
from .ledger import Ledger

__all__ = ["Synchronous"]


@dataclasses.dataclass(frozen=True)
class Synchronous(Schedule):
    """Run an M-step when every shard has reported at the current parameters.

    This is EM as in the textbooks: the sequence of parameters does not depend on who
    computes what or when, and two fits with the same shards are equal to the last bit.
    Work is still handed from slow to fast workers within a pass.

    Examples
    --------
    >>> from dask_em import GaussianMixture
    >>> from dask_em.schedules import Synchronous
    >>> X = [[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]]
    >>> fit = GaussianMixture(2, schedule=Synchronous(), random_state=0).fit(X)
    >>> sorted(fit.means_.ravel().round(2).tolist())
    [0.1, 5.1]
    """

    @property
    def mixes(self) -> bool:
        """No."""
        return False

    def m_step_due(self, ledger: Ledger) -> bool:
        """Whether every shard is current."""
        return ledger.n_current == ledger.n_shards
