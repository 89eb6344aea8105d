from dataclasses import dataclass

import numpy as np
from scipy.special import entr, softmax

from dask_em import Model, Statistics


@dataclass(frozen=True)
class Params:
    weights: np.ndarray
    rates: np.ndarray


@dataclass(frozen=True)
class Sums(Statistics):
    n: np.ndarray
    x: np.ndarray
    entropy: float


@dataclass(frozen=True)
class Exponentials(Model):
    n_components: int

    def start(self, summary, sample, *, rng, mapreduce):
        k = self.n_components
        return Params(np.full(k, 1 / k), np.geomspace(0.2, 5, k) / summary.mean[0])

    def e_step(self, p, block, local=None):
        r = softmax(np.log(p.weights * p.rates) - block.X * p.rates, axis=1)
        w = block.weights()
        return Sums(w @ r, w * block.X[:, 0] @ r, float(w @ entr(r).sum(axis=1))), None

    def m_step(self, p, s):
        return Params(s.n / s.n.sum(), s.n / s.x)

    def lower_bound(self, p, s):
        return float(s.n @ np.log(p.weights * p.rates) - s.x @ p.rates + s.entropy)
