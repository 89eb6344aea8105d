"""Rooms behind `dask_em.plotting`."""
