"""Dask actors: the fast way from worker to worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distributed import Client

if TYPE_CHECKING:
    from .peers.actors import ActorPeers

__all__ = ["Actors"]


class Actors:
    """Let workers send each other statistics through Dask actors.

    For models whose M-step is distributed. A message costs about a millisecond where a
    task costs ten, which matters where nodes are many or iterations short. A lost
    worker's nodes are made anew and the fit goes back to its last snapshot.

    Parameters
    ----------
    client : distributed.Client, optional
        By default the current one.

    Examples
    --------
    >>> from distributed import Client
    >>> from dask_em import IBMModel1
    >>> from dask_em.transports import Actors
    >>> bitext = [("das Haus", "the house"), ("das Buch", "the book")]
    >>> with Client(processes=False, n_workers=2, dashboard_address=":0") as client:
    ...     aligner = IBMModel1(transport=Actors(client)).fit(bitext)
    >>> aligner.n_iter_
    5
    """

    def __init__(self, client: Client | None = None) -> None:
        self._given = client

    def __repr__(self) -> str:
        """Return the call that makes it."""
        return "Actors()"

    def __getstate__(self) -> dict[str, None]:
        """Leave the client behind: it cannot travel."""
        return {"_given": None}

    def __deepcopy__(self, memo: Any) -> Actors:
        """Share the client with a copy in this process, as `sklearn.clone` makes."""
        return type(self)(self._given)

    def peers(self) -> ActorPeers:
        """Return what carries messages between workers."""
        from .peers.actors import ActorPeers

        return ActorPeers(self._given)
