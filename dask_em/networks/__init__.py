"""Networks: nodes and the links between them, and where they come from."""

from .edges import Edges, read_edges
from .network import Network, as_network

__all__ = ["Edges", "Network", "as_network", "read_edges"]
