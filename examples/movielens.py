"""A mixed model of film ratings: fit, compare schedules, predict, test, draw.

With the path of a release of MovieLens (a folder or the zip file from GroupLens) the
ratings are read from there; without one, ratings like those are simulated.

    python examples/movielens.py [PATH_TO_MOVIELENS]

It needs formulaic and pandas: pip install "dask_em[formula,dataframe]"
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from distributed import Client, LocalCluster, get_worker

from dask_em import LinearMixedModel
from dask_em.datasets import load_movielens, make_movielens_replica
from dask_em.models.linear_mixed import LinearMixedModelECME
from dask_em.models.linear_mixed_em import LinearMixedModelEM
from dask_em.plotting import plot_bound, plot_random_effects, plot_residuals
from dask_em.schedules import FractionBarrier, Synchronous

try:
    import dask.dataframe as dd
    import formulaic  # noqa: F401
    import pandas as pd
except ImportError as error:
    sys.exit(
        f"This example needs {error.name}: pip install 'dask_em[formula,dataframe]'"
    )

PREDICTORS = ("children", "comedy", "drama", "popularity", "liked_last")
SLOPES = " + ".join(PREDICTORS)
FORMULA = f"rating ~ {SLOPES} + ({SLOPES} | user)"

N_WORKERS = 4
SLOW_WORKER = 1
FITS = {
    "synchronous, Anderson": {"schedule": Synchronous(), "acceleration": "anderson"},
    "synchronous": {"schedule": Synchronous(), "acceleration": None},
    # an M-step after every fourth of the 16 shards
    "fraction_barrier": {"schedule": FractionBarrier(gamma=1 / 4)},
}


def simulate(n_users: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Ratings with a long-tailed number per user, from 20 to 500."""
    rng = np.random.default_rng(seed)
    sizes = np.clip(rng.lognormal(4.1, 0.9, n_users), 20, 500).astype(int)
    # predictors to draw from: two genres per film, as contrasts with action
    n_films = 4000
    contrasts = np.vstack([-np.ones(3), np.eye(3)])
    genres = rng.choice(4, size=(n_films, 2), p=[0.35, 0.12, 0.28, 0.25])
    sample = pd.DataFrame(contrasts[genres].mean(axis=1), columns=PREDICTORS[:3])
    # the logit of the likes among a film's last 30 ratings
    seen = rng.integers(31, size=n_films)
    likes = rng.binomial(seen, rng.beta(2, 2, n_films))
    sample["popularity"] = np.log((likes + 0.5) / (seen - likes + 0.5))
    sample["liked_last"] = rng.binomial(1, 0.5, n_films)
    data = make_movielens_replica(sample, sizes, random_state=seed)
    ratings = pd.DataFrame(data.X[:, 1:], columns=PREDICTORS)
    return ratings.assign(user=data.groups, rating=data.y)


def load(path: str | None) -> pd.DataFrame:
    if path is None:
        return simulate()
    # the users of the paper
    ratings = load_movielens(path, min_ratings=20, max_ratings=500)
    return ratings[["user", "rating", *PREDICTORS]]


def on_threads(ratings: pd.DataFrame) -> LinearMixedModel:
    began = time.perf_counter()
    model = LinearMixedModel(FORMULA).fit(ratings)
    seconds = time.perf_counter() - began
    print(model.summary())
    print(f"\nOn threads, in {seconds:.2f} s: {model.result_}\n")
    return model


@contextmanager
def paced_workers(seconds: float) -> Iterator[None]:
    """Let E-steps take so long in all, and ten times that on one worker.

    The cross-products of some thousand users are so few that every cluster would be
    done at once; this makes a larger problem of them, and one machine a bad one.
    """
    kinds = LinearMixedModelECME, LinearMixedModelEM
    steps = {kind: kind.e_step for kind in kinds}

    def paced(model, params, prepared, local=None):
        try:
            slow = get_worker().name == SLOW_WORKER
        except ValueError:  # not on a worker
            return steps[type(model)](model, params, prepared, local)
        share = len(prepared.X) / model.structure.n_groups
        time.sleep(seconds * share * (10 if slow else 1))
        return steps[type(model)](model, params, prepared, local)

    for kind in kinds:
        kind.e_step = paced
    try:
        yield
    finally:
        for kind in kinds:
            kind.e_step = steps[kind]


def on_a_cluster(ratings: pd.DataFrame) -> dict[str, LinearMixedModel]:
    fits = {}
    with (
        paced_workers(seconds=0.3),
        LocalCluster(
            n_workers=N_WORKERS,
            threads_per_worker=1,
            processes=False,
            dashboard_address=":0",
        ) as cluster,
        Client(cluster) as client,
    ):
        lazy = client.persist(dd.from_pandas(ratings, npartitions=16))
        # the first fit on a cluster loads compiled code; leave that out
        LinearMixedModel(FORMULA, max_iter=2, tol=1e9).fit(lazy)
        for name, settings in FITS.items():
            fits[name] = LinearMixedModel(FORMULA, shards=16, **settings).fit(lazy)
            _ = fits[name].random_effects_["user"]  # fetched while there is a cluster
    return fits


def print_table(fits: dict[str, LinearMixedModel]) -> None:
    print(f"One of {N_WORKERS} workers ten times slower than the others:\n")
    columns = ("schedule", "log-likelihood", "M-steps", "effective passes", "seconds")
    print("{:<22}{:>18}{:>10}{:>18}{:>10}".format(*columns))
    for name, fit in fits.items():
        result = fit.result_
        print(
            f"{name:<22}{fit.log_likelihood_:>18.4f}{result.n_m_steps:>10}"
            f"{result.effective_passes:>18.1f}{result.trace.time[-1]:>10.2f}"
        )


def predict(model: LinearMixedModel, ratings: pd.DataFrame) -> None:
    known = ratings["user"].iloc[0]
    film = dict.fromkeys(PREDICTORS, 0.0) | {"comedy": 1.0, "popularity": 0.5}
    films = pd.DataFrame([film | {"user": known}, film | {"user": -1}])
    one, other = model.predict(films)
    print("\nA popular comedy, expected rating:")
    print(
        f"  user {known}, known from {(ratings['user'] == known).sum()} ratings", end=""
    )
    print(f": {one:.3f}\n  a new user: {other:.3f}")


def test_slopes(ratings: pd.DataFrame) -> None:
    """Do users differ in more than their mean rating?"""
    slopes = LinearMixedModel(FORMULA, method="ml").fit(ratings)
    means = LinearMixedModel(f"rating ~ {SLOPES} + (1 | user)", method="ml")
    test = slopes.likelihood_ratio_test(means.fit(ratings))
    print(
        "\nRandom slopes against random intercepts alone: likelihood ratio "
        f"{test.statistic:.1f} on {test.df} degrees of freedom, p "
        + ("< 1e-300" if test.p_value == 0 else f"= {test.p_value:.2g}")
    )


def draw(
    model: LinearMixedModel, ratings: pd.DataFrame, fits: dict[str, LinearMixedModel]
) -> None:
    try:
        import matplotlib
    except ImportError:
        print("\nNo plots: matplotlib is not installed (pip install matplotlib).")
        return
    matplotlib.use("Agg")
    bound = plot_bound({name: fit.result_ for name, fit in fits.items()}, gap=True)
    bound.set_title(f"Ratings on {N_WORKERS} workers, one of them ten times slower")
    plots = {
        "movielens_bound.png": bound,
        "movielens_users.png": plot_random_effects(model, effect="comedy"),
        "movielens_residuals.png": plot_residuals(model, ratings),
    }
    for name, ax in plots.items():
        ax.figure.savefig(name, dpi=120)
    print(f"\nPlots are in {', '.join(plots)}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("path", nargs="?", help="folder or zip file of MovieLens")
    ratings = load(parser.parse_args().path)
    print(f"{len(ratings)} ratings of {ratings['user'].nunique()} users\n")
    model = on_threads(ratings)
    fits = on_a_cluster(ratings)
    print_table(fits)
    predict(model, ratings)
    test_slopes(ratings)
    draw(model, ratings, fits)


if __name__ == "__main__":
    main()
