"""Rows of grouped data become cross-products per group, once."""
