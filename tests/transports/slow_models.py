"""Models for tests, in a module that workers can import."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
import zlib
from typing import Any

import numpy as np

from dask_em.models.gaussian_mixture import GaussianMixtureModel, GaussianMixtureParams


def clusters(n: int = 900, apart: float = 6.0) -> np.ndarray:
    """Return rows of three clusters, in random order."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(m, 1.0, (n // 3, 2)) for m in (-apart, 0, apart)])
    return rng.permutation(X)


def start(n_components: int = 3, n_features: int = 2) -> GaussianMixtureParams:
    """Return some parameters, the same for everybody."""
    means = np.linspace(-2.5, 2.5, n_components)[:, None] * np.ones(n_features)
    covariances = np.tile(np.eye(n_features), (n_components, 1, 1))
    return GaussianMixtureParams(
        weights=np.full(n_components, 1 / n_components),
        means=means,
        covariances=covariances,
        precisions_cholesky=covariances.copy(),
        reference=means.copy(),
        origin=np.zeros(n_features),
    )


@dataclasses.dataclass(frozen=True)
class SlowMixture(GaussianMixtureModel):
    """A Gaussian mixture whose every function takes a while."""

    seconds: float = 0.02

    def survey(self, block: Any) -> Any:
        time.sleep(self.seconds)
        return super().survey(block)

    def e_step(self, params: Any, prepared: Any, local: Any = None) -> Any:
        time.sleep(self.seconds)
        return super().e_step(params, prepared, local)


@dataclasses.dataclass(frozen=True)
class FailingMixture(GaussianMixtureModel):
    """Its E-step raises."""

    def e_step(self, params: Any, prepared: Any, local: Any = None) -> Any:
        raise ZeroDivisionError("the model's own error")


@dataclasses.dataclass(frozen=True)
class DeadlyMixture(GaussianMixtureModel):
    """Its E-step kills the worker."""

    def e_step(self, params: Any, prepared: Any, local: Any = None) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


@dataclasses.dataclass(frozen=True)
class UnpicklableMixture(GaussianMixtureModel):
    """It holds what cannot travel."""

    lock: Any = dataclasses.field(default_factory=threading.Lock, compare=False)


@dataclasses.dataclass(frozen=True)
class VisitedMixture(GaussianMixtureModel):
    """Its latent state counts visits, which it writes down; one worker gets slow."""

    folder: str = ""
    seconds: float = 0.0

    def e_step(self, params: Any, prepared: Any, local: Any = None) -> Any:
        from distributed import get_worker

        worker = get_worker().name
        visits = (local or 0) + 1
        shard = zlib.crc32(prepared.X[0].tobytes())
        with open(os.path.join(self.folder, f"{shard}-{worker}-{visits}"), "w"):
            pass
        time.sleep(self.seconds * (8 if worker == 0 and visits > 2 else 1))
        return super().e_step(params, prepared)[0], visits
