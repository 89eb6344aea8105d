"""Clusters that tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from clusters import assert_clean, local_cluster

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # what a shell starts in the background ignores ctrl-C, which some tests send
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers of two threads each, in this process."""
    with local_cluster(threads_per_worker=2, processes=False) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def processes() -> Iterator[Any]:
    """Two workers in processes of their own, with nannies."""
    with local_cluster(processes=True) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Any) -> Iterator[Any]:
    """A client of `cluster`, on which nothing of a fit may be left behind."""
    from distributed import Client

    with Client(cluster) as client:
        yield client
        assert_clean(client)
