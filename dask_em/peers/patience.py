"""Whether there is time for something else while messages are awaited."""

from __future__ import annotations

__all__ = ["Patience"]


class Patience:
    """How long nodes have waited, and so how long they will.

    Whoever begins something when the last message is about to come lets all others
    wait for it. So a node begins only what would have been done in time on average.
    """

    def __init__(self) -> None:
        self._waits: dict[int, float] = {}

    def waited(self, node: int, seconds: float) -> None:
        """Note how long it took until a node had its messages; the latest counts most.

        Parameters
        ----------
        node : int
        seconds : float
        """
        self._waits[node] = (self._waits.get(node, seconds) + seconds) / 2

    def pays(self, node: int, elapsed: float, needed: float) -> bool:
        """Return whether a step is likely to be over before the messages are there.

        Parameters
        ----------
        node : int
        elapsed : float
            Seconds that it has waited.
        needed : float
            Seconds that the step takes.
        """
        return elapsed + needed <= self._waits.get(node, 0.0)
