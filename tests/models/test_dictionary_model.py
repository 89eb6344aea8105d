"""Dictionary learning as a model: codes, atoms, and the promises to the engine."""

import dataclasses
import warnings

import numpy as np
import pytest
from sklearn.decomposition import sparse_encode
from sklearn.exceptions import ConvergenceWarning

from dask_em import Block
from dask_em.kernels import lasso
from dask_em.models.dictionary_learning import (
    DictionaryModel,
    DictionaryParams,
    DictionaryStats,
    sparse_codes,
)
from dask_em.testing import check_model


def planted(n, k, p, n_used, seed=0, noise=0.05):
    """Return rows that use some atoms each, and the atoms."""
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(k, p))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = np.zeros((n, k))
    for row in codes:
        row[rng.choice(k, n_used, replace=False)] = rng.choice([-1, 1], n_used) * (
            2 + rng.random(n_used)
        )
    return codes @ atoms + noise * rng.normal(size=(n, p)), atoms


def objective(X, atoms, codes, penalty):
    fitted = 0.5 * np.square(X - codes @ atoms).sum()
    return fitted + penalty * np.abs(codes).sum()


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize(("k", "p"), [(8, 20), (40, 12)])
def test_codes_are_those_of_scikit_learn(k, p, positive):
    X, atoms = planted(60, k, p, 4)
    X[7] = 0
    atoms[3] *= 0.5  # atoms need not be of norm 1
    model = DictionaryModel(k, 0.2, positive_code=positive)
    ours = sparse_codes(model, atoms, X)
    theirs = sparse_encode(
        X,
        atoms,
        algorithm="lasso_cd",
        alpha=0.2,
        # its tolerance is out of reach, but not its solution
        init=ours + 1e-3,
        max_iter=20_000,
        positive=positive,
    )
    best = objective(X, atoms, theirs, 0.2)
    assert objective(X, atoms, ours, 0.2) <= best * (1 + 1e-10)
    if k < p:  # else it need not be the only one
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    # Karush, Kuhn and Tucker: slopes equal the penalty where a code is not zero
    slopes = (X - ours @ atoms) @ atoms.T
    np.testing.assert_allclose(slopes[ours != 0], 0.2 * np.sign(ours[ours != 0]))
    assert (slopes if positive else np.abs(slopes)).max() <= 0.2 * (1 + 1e-6)
    assert (ours[7] == 0).all()
    assert not positive or ours.min() >= 0


def test_codes_of_atoms_that_depend_on_each_other():
    X, atoms = planted(50, 5, 6, 2)
    atoms = np.concatenate([atoms, atoms, np.zeros((1, 6)), atoms[:2] - atoms[2:4]])
    model = DictionaryModel(len(atoms), 0.1)
    ours = sparse_codes(model, atoms, X)
    # the same but for the number of coordinates: at its best it is as low
    settings = {"algorithm": "lasso_cd", "alpha": 0.1, "max_iter": 20_000}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = sparse_encode(X, atoms, **settings)
    best = objective(X, atoms, theirs, 0.1)
    assert objective(X, atoms, ours, 0.1) <= best * (1 + 1e-10)
    free = dataclasses.replace(model, penalty=0.0)  # least squares
    fitted = X @ np.linalg.pinv(atoms) @ atoms
    np.testing.assert_allclose(sparse_codes(free, atoms, X) @ atoms, fitted, atol=1e-6)


def test_single_precision():
    X, atoms = planted(80, 30, 12, 4)
    model = DictionaryModel(30, 0.2)
    double = sparse_codes(model, atoms, X)
    single = sparse_codes(model, atoms, X.astype(np.float32))
    assert single.dtype == np.float32
    best = objective(X, atoms, double, 0.2)
    assert objective(X, atoms, single.astype(float), 0.2) <= best * (1 + 1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics_and_warm_codes(dtype):
    X, atoms = planted(3000, 50, 7, 2)  # more than a tile
    X = X.astype(dtype)
    w = np.random.default_rng(1).random(3000)
    model = DictionaryModel(50, 0.1)
    params = DictionaryParams(atoms, X[:0])
    stats, codes = model.e_step(params, Block(X, None, w))
    C = sparse_codes(model, atoms, X).astype(float)
    np.testing.assert_allclose(codes.dense(50), C)
    np.testing.assert_allclose(stats.squares, (C.T * w) @ C, atol=1e-9)
    np.testing.assert_allclose(stats.cross, (C.T * w) @ X, atol=1e-3 * dtype(1).nbytes)
    root = np.sqrt(w)[:, None]
    known = -objective(root * X.astype(float), atoms, root * C, 0.0)
    known -= 0.1 * (w @ np.abs(C)).sum()
    assert model.lower_bound(params, stats) == pytest.approx(known, rel=1e-9)
    # a code that is the best already stays; from elsewhere as good a one is found
    _, same = model.e_step(params, Block(X, None, w), codes)
    atol = 1e-6 if dtype == np.float64 else 1e-2
    np.testing.assert_allclose(same.dense(50), C, atol=atol)
    other = DictionaryParams(np.roll(atoms, 1, axis=0), X[:0])
    cold, _ = model.e_step(other, Block(X, None, w))
    warm, _ = model.e_step(other, Block(X, None, w), codes)
    rtol = 1e-9 if dtype == np.float64 else 1e-5
    bounds = [model.lower_bound(other, found) for found in (cold, warm)]
    assert bounds[0] == pytest.approx(bounds[1], rel=rtol)


def test_atoms_are_those_of_plain_numpy():
    X, atoms = planted(200, 6, 9, 3)
    C = sparse_codes(DictionaryModel(6, 0.2), atoms[::-1].copy(), X)
    A, B = C.T @ C, C.T @ X
    for positive in (False, True):
        expected, ours = atoms.copy(), atoms.copy()
        for _ in range(2):
            for j in range(6):
                u = expected[j] + (B[j] - A[j] @ expected) / A[j, j]
                u = np.maximum(u, 0) if positive else u
                expected[j] = u / max(np.linalg.norm(u), 1)
        lasso.update_atoms(A, B, ours, positive, 0.0, 2)
        np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_an_unused_atom_becomes_what_rows_lack():
    atoms = np.eye(5, 8)
    X = np.random.default_rng(0).choice([-2.0, 0.0, 3.0], (200, 5)) @ atoms
    unused = np.zeros((1, 8))
    start = DictionaryParams(np.concatenate([atoms[:4], unused]), X[:20])
    model = DictionaryModel(5, 0.1)
    stats, _ = model.e_step(start, Block(X))
    params = model.m_step(start, stats)
    bound = model.lower_bound(params, stats)
    assert bound >= model.lower_bound(start, stats)
    np.testing.assert_allclose(abs(params.atoms[4] @ atoms[4]), 1.0, rtol=0.05)
    after, _ = model.e_step(params, Block(X))
    assert model.lower_bound(params, after) > bound + 10
    # where a new atom would not be worth its price, the old one stays
    dear = DictionaryModel(5, 100.0)
    stats, _ = dear.e_step(start, Block(X))
    np.testing.assert_array_equal(dear.m_step(start, stats).atoms, start.atoms)


def test_statistics_of_nothing_leave_atoms_alone():
    _, atoms = planted(1, 4, 3, 1)
    params = DictionaryParams(atoms, np.empty((0, 3)))
    none = DictionaryStats(np.zeros((4, 4)), np.zeros((4, 3)), 0.0, 0.0)
    found = DictionaryModel(4).m_step(params, none)
    np.testing.assert_array_equal(found.atoms, atoms)


@pytest.mark.parametrize("positive", [False, True])
def test_promises(positive):
    X, _ = planted(60, 3, 5, 1)
    model = DictionaryModel(3, 0.3, positive_code=positive, positive_dict=positive)
    check_model(model, np.abs(X) if positive else X)
