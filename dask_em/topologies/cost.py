"""What an exchange takes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ["Network"]


@dataclasses.dataclass(frozen=True)
class Network:
    r"""A network's speed, by which the time of an exchange is predicted.

    A round takes

    .. math:: \lambda + \max_k \Big( \tau m_k +
              \max\Big(\frac{s_k}{\beta}, \frac{r_k}{\beta'}\Big) \Big),

    where node k has :math:`m_k` messages and sends :math:`s_k` and receives
    :math:`r_k` bytes.

    Parameters
    ----------
    latency : float, default=0.002
        λ, seconds that a round takes however little is sent.
    bandwidth : float, default=1.25e8
        β, bytes per second that a node can send.
    per_message : float, default=0.0005
        τ, seconds that a message costs a node.
    receive_bandwidth : float, optional
        β', bytes per second that a node can receive; the default is `bandwidth`.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_em.topologies import AllPairs, Network, Sharing, make_plan
    >>> sharing = Sharing.of([np.arange(1000), np.arange(500, 1500)])
    >>> plan = make_plan(AllPairs(), sharing)
    >>> network = Network(latency=0.001, bandwidth=1e6, per_message=0)
    >>> round(network.seconds(plan), 6)
    0.005
    """

    latency: float = 0.002
    bandwidth: float = 1.25e8
    per_message: float = 0.0005
    receive_bandwidth: float | None = None

    def seconds(self, plan: Plan) -> float:
        """Return the time that an exchange takes by a plan."""
        incoming = self.receive_bandwidth or self.bandwidth
        total = 0.0
        for messages in plan.rounds:
            sent, received, count = np.zeros((3, plan.n_nodes + 1))
            for message in messages:
                nbytes = 8 * plan.width * message.size
                sent[message.src] += nbytes
                received[message.dst] += nbytes
                count[[message.src, message.dst]] += 1
            busy = self.per_message * count
            busy += np.maximum(sent / self.bandwidth, received / incoming)
            total += self.latency + float(busy.max(initial=0.0))
        return total
