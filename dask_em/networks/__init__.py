"""Networks: nodes and the links between them, and where they come from."""

from .edge_files import read_edges
from .edges import Edges
from .network import Network, as_network

__all__ = ["Edges", "Network", "as_network", "read_edges"]
