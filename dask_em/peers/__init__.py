"""Nodes that hold some of the data and the parameters which these need."""
