"""Compiled single-threaded kernels."""
