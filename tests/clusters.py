"""Clusters for tests, and the check that nothing is left on them."""

from __future__ import annotations

import logging
import time
from typing import Any


def keys_of_fits(client: Any) -> list[str]:
    """Return the keys of fits that the scheduler still knows."""

    def known(dask_scheduler: Any) -> list[str]:
        return [str(key) for key in dask_scheduler.tasks]

    return [
        key
        for key in client.run_on_scheduler(known)
        if any(
            n in key
            for n in ("e_step-", "piece-", "survey-", "prepare-", "params-", "peer_")
        )
        or "Blocks" in key
    ]


def assert_clean(client: Any, seconds: float = 5.0) -> None:
    """Raise unless all keys of fits go within some seconds."""
    end = time.monotonic() + seconds
    while left := keys_of_fits(client):
        assert time.monotonic() < end, f"{len(left)} keys are left: {left[:5]}"
        time.sleep(0.05)


def local_cluster(**settings: Any) -> Any:
    """Return a cluster on this machine, quiet and with a dashboard on a free port."""
    from distributed import LocalCluster

    return LocalCluster(
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,
        **{"n_workers": 2, "threads_per_worker": 1} | settings,
    )
