"""Rows become cross-products of groups, the same by every route."""

import itertools

import numpy as np
import pytest

from dask_em.grouping.basis import Basis
from dask_em.grouping.cluster import gather_dask
from dask_em.grouping.gather import gather_memory, survey_rows
from dask_em.grouping.rows import (
    Columns,
    Factor,
    Grouped,
    Rows,
    bucket_of,
    plain_labels,
)
from dask_em.grouping.survey import Frame, Survey
from dask_em.grouping.table import GroupTable

# ---------------------------------------------------------------------------- tables


def a_table(labels, seed=0, q=2, p=3, width=6):
    """A table of random numbers, with a few sparse columns in every group."""
    rng = np.random.default_rng(seed)
    m = len(labels)
    cells = [np.sort(rng.permutation(width)[: rng.integers(width)]) for _ in range(m)]
    columns = np.concatenate(cells).astype(np.int64)
    return GroupTable(
        np.asarray(labels),
        rng.uniform(1, 5, m),
        rng.normal(size=(m, q * (q + 1) // 2)),
        rng.normal(size=(m, q, p + 1)),
        np.concatenate([[0], np.cumsum([len(c) for c in cells])]),
        columns,
        rng.normal(size=(len(columns), q)),
    )


def unpacked(table, width=6):
    """By label: size, gram, cross and the sparse columns made dense."""
    found = {}
    for k, label in enumerate(table.labels.tolist()):
        dense = np.zeros((width, table.n_random))
        for i in range(table.indptr[k], table.indptr[k + 1]):
            dense[table.columns[i]] += table.couplings[i]
        parts = [[table.sizes[k]], table.gram[k], table.cross[k].ravel(), dense.ravel()]
        whole = np.concatenate(parts)
        found[label] = found.get(label, 0) + whole
    return found


def assert_tables(found, expected):
    assert found.keys() == expected.keys()
    for label, numbers in expected.items():
        np.testing.assert_allclose(found[label], numbers, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "index",
    [
        slice(None),
        slice(2, 5),
        slice(-3, None),
        slice(4, 4),
        slice(5, 2),
        slice(None, None, 2),
        slice(None, None, -1),
        np.array([6, 0, 3]),
        np.array([], dtype=int),
        np.arange(7) % 2 == 0,
    ],
    ids=str,
)
def test_some_groups(index):
    table = a_table(np.arange(7))
    chosen = np.arange(7)[index]
    found = table[index]
    assert found.labels.tolist() == chosen.tolist() and len(found) == len(chosen)
    whole = unpacked(table)
    assert_tables(unpacked(found), {k: whole[k] for k in chosen.tolist()})


def test_shape():
    table = a_table(np.arange(7))
    assert table.shape == (7, 3 + 2 * 4) and table.ndim == 2
    assert table.dtype == np.float64 and table.n_random == 2
    assert table.nbytes >= table.gram.nbytes + table.cross.nbytes


def test_concatenate():
    one, other = a_table([3, 1, 2], seed=1), a_table([9, 8], seed=2)
    found = GroupTable.concatenate([one, other[:0], other])
    assert found.labels.tolist() == [3, 1, 2, 9, 8]
    assert_tables(unpacked(found), unpacked(one) | unpacked(other))


@pytest.mark.parametrize("kind", [int, str])
def test_combine_adds_up_groups(kind):
    labels = [[4, 1, 2], [2, 9], [1, 2, 7], []]
    tables = [
        a_table(np.array(some, dtype=kind), seed=k) for k, some in enumerate(labels[:3])
    ]
    tables.append(tables[0][:0])
    found = GroupTable.combine(tables)
    expected = {}
    for table in tables:
        for label, numbers in unpacked(table).items():
            expected[label] = expected.get(label, 0) + numbers
    assert found.labels.tolist() == sorted(expected)
    assert_tables(unpacked(found), expected)
    for a, b in itertools.pairwise(found.indptr):
        assert (np.diff(found.columns[a:b]) > 0).all()


def test_combine_sorts_groups_that_are_all_different():
    one, other = a_table([5, 1], seed=1), a_table([3], seed=2)
    found = GroupTable.combine([one, other])
    assert found.labels.tolist() == [1, 3, 5]
    assert_tables(unpacked(found), unpacked(one) | unpacked(other))


# --------------------------------------------------------------------------- buckets


def test_buckets_do_not_depend_on_the_width_of_numbers():
    labels = np.array([0, 1, 5, 100, 127])
    known = bucket_of(labels.astype(np.int64), 7)
    for kind in (np.int8, np.int16, np.int32, np.uint8, np.uint64):
        np.testing.assert_array_equal(bucket_of(labels.astype(kind), 7), known)
    negative = np.array([-1, -5, -128])
    known = bucket_of(negative.astype(np.int64), 7)
    for kind in (np.int8, np.int16, np.int32):
        np.testing.assert_array_equal(bucket_of(negative.astype(kind), 7), known)


def test_buckets_do_not_depend_on_the_width_of_strings():
    labels = np.array(["a", "ab", "é", "user 17", ""])
    for width in (7, 8, 50):
        np.testing.assert_array_equal(
            bucket_of(labels.astype(f"<U{width}"), 5), bucket_of(labels, 5)
        )
    alone = [bucket_of(labels[k : k + 1], 5)[0] for k in range(len(labels))]
    np.testing.assert_array_equal(alone, bucket_of(labels, 5))
    scattered = np.array([["a", "x"], ["ab", "x"], ["é", "x"]])[:, 0]
    np.testing.assert_array_equal(bucket_of(scattered, 5), bucket_of(labels[:3], 5))


@pytest.mark.parametrize("labels", [np.arange(7000), -7 * np.arange(7000)])
def test_buckets_are_about_as_full(labels):
    for some in (labels, labels.astype(str)):
        found = bucket_of(some, 7)
        counts = np.bincount(found, minlength=7)
        assert found.min() >= 0 and len(counts) == 7
        assert np.abs(counts - 1000).max() < 200  # six standard deviations


def test_plain_labels():
    assert plain_labels([True, False], "g").tolist() == [1, 0]
    assert plain_labels([1.0, -2.0], "g").tolist() == [1, -2]
    assert plain_labels([1.5, 2.0], "g").tolist() == [1.5, 2.0]
    # the kind does not depend on the values, which differ from chunk to chunk
    assert plain_labels([1.0, 2.0], "g").dtype == plain_labels([1.5], "g").dtype
    assert plain_labels(np.array(["a", 3], dtype=object), "g").tolist() == ["a", "3"]
    for bad in ([1.0, np.nan], np.array(["a", None]), np.array(["a", np.nan], object)):
        with pytest.raises(ValueError, match="'g' has missing labels"):
            plain_labels(bad, "g")
    with pytest.raises(ValueError, match="one label per row"):
        plain_labels([[1, 2]], "g")


# ----------------------------------------------------------------------------- frames


def squares(frame):
    """X'X of the columns, the ones included, centred at the frame's origin."""
    return frame.triangle.T @ frame.triangle


@pytest.mark.parametrize("ones", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_frames_of_parts_are_the_frame_of_the_whole(ones, weighted, offset):
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=(300, 3)) * 2**16) / 2**16
    roots = np.sqrt(rng.uniform(0.1, 4.0, 300)) if weighted else None
    shifted = values + offset
    bounds = [0, 0, 1, 40, 41, 200, 300, 300]
    parts = [
        Frame.of(
            Columns(shifted[a:b], ones), None if roots is None else roots[a:b], "abc"
        )
        for a, b in itertools.pairwise(bounds)
    ]
    found = parts[0]
    for part in parts[1:]:
        found = found.combine(part)
    # by brute force, from the numbers without the offset
    origin = found.origin - offset if ones else 0.0
    columns = values - origin if ones else shifted
    if ones:
        columns = np.column_stack([np.ones(300), columns])
    if roots is not None:
        columns = columns * roots[:, None]
    expected = columns.T @ columns
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.abs((squares(found) - expected) / scale).max() < 1e-10
    assert found.triangle.shape == expected.shape
    np.testing.assert_array_equal(found.triangle, np.triu(found.triangle))


# ------------------------------------------------------------------------------- rows

FACTORS = (
    Factor("g", ("Intercept", "x"), (2,)),
    Factor("h", ("Intercept",), (1,)),
)
NAMES = ("Intercept", "x", "z")


def some_rows(n=400, crossed=False, weighted=False, m=11, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2)) + offset
    g = rng.integers(m, size=n)
    h = np.array([f"h{k}" for k in rng.integers(5, size=n)])
    y = 1 + (X - offset) @ [1.0, 2.0] + rng.normal(size=m)[g] + rng.normal(size=n)
    factors = [Grouped(g, Columns(X[:, :1], True))]
    if crossed:
        factors.append(Grouped(h, Columns(np.zeros((n, 0)), True)))
    weights = rng.integers(0, 4, n).astype(float) if weighted else None
    return Rows(y, Columns(X, True), tuple(factors), weights)


def factors_of(rows):
    return FACTORS[: len(rows.factors)]


@pytest.mark.parametrize("offset", [0.0, 1e8])
@pytest.mark.parametrize("weighted", [False, True])
def test_surveys_of_parts_are_the_survey_of_the_whole(weighted, offset):
    rows = some_rows(crossed=True, weighted=weighted, offset=offset).counted()
    bounds = [0, 3, 100, 101, len(rows)]
    parts = [
        Survey.of(rows[a:b], NAMES, FACTORS, with_levels=True)
        for a, b in itertools.pairwise(bounds)
    ]
    found = parts[0].merge(parts[1:])
    whole = Survey.of(rows, NAMES, FACTORS, with_levels=True)
    assert found.n_rows == whole.n_rows == len(rows)
    assert found.weight == pytest.approx(whole.weight)
    assert found.log_weight == pytest.approx(whole.log_weight)
    for ours, theirs, labels in zip(
        found.levels, whole.levels, [f.labels for f in rows.factors], strict=True
    ):
        assert ours.tolist() == theirs.tolist() == sorted(set(labels.tolist()))
    # the bases that follow from them are the same coordinates
    one, other = (Basis.of(s, NAMES, FACTORS) for s in (found, whole))
    for a, b in zip(one.products(rows)[0].T, other.products(rows)[0].T, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert one.log_jacobian == pytest.approx(other.log_jacobian, abs=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_basis_is_orthonormal(weighted):
    rows = some_rows(weighted=weighted).counted()
    survey = survey_rows(rows, NAMES, factors_of(rows))
    basis = Basis.of(survey, NAMES, factors_of(rows))
    W, (Z,) = basis.products(rows)
    np.testing.assert_allclose(W.T @ W / survey.weight, np.eye(4), atol=1e-10)
    np.testing.assert_allclose(Z.T @ Z / survey.weight, np.eye(2), atol=1e-10)


def test_a_basis_maps_back():
    rows = some_rows(offset=50.0)
    basis = Basis.of(
        survey_rows(rows, NAMES, factors_of(rows)), NAMES, factors_of(rows)
    )
    X, y = rows.fixed.dense(), rows.y
    # zero in its coordinates is least squares
    known = np.linalg.lstsq(X, y, rcond=None)[0]
    np.testing.assert_allclose(basis.coef(np.zeros(3)), known, rtol=1e-8)
    # the inner columns times beta are X times the outer coefficients
    W, (Z,) = basis.products(rows)
    beta = np.array([0.3, -1.0, 2.0])
    fitted = X @ basis.coef(beta)
    inner = (y - fitted) / basis.scale
    np.testing.assert_allclose(W[:, 3] - W[:, :3] @ beta, inner, atol=1e-8)
    b = np.array([0.7, -0.4])
    outer = rows.factors[0].design.dense() @ (basis.random_map(0) @ b)
    np.testing.assert_allclose(outer, basis.scale * (Z @ b), atol=1e-8)
    # sigma^2 (X'X)^-1, from an orthonormal basis
    cov = basis.coef_cov(np.eye(3) / len(y))
    np.testing.assert_allclose(
        cov, basis.scale**2 * np.linalg.inv(X.T @ X), rtol=1e-6, atol=1e-12
    )
    assert basis.log_jacobian == pytest.approx(-np.log(basis.scale))


def test_dependent_columns_are_named():
    rows = some_rows()
    X = rows.fixed.array
    twice = Columns(np.column_stack([X, X.sum(axis=1)]), True)
    bad = Rows(rows.y, twice, rows.factors)
    with pytest.raises(ValueError, match="linearly dependent: total is a combination"):
        gather_memory(bad, (*NAMES, "total"), factors_of(rows))
    # by random effects it is only noted
    double = Grouped(rows.factors[0].labels, Columns(X[:, [0, 0]], True))
    factor = Factor("g", ("Intercept", "x", "again"), (3,))
    found = gather_memory(Rows(rows.y, rows.fixed, (double,)), NAMES, (factor,)).basis
    assert found.collinear == ("Intercept, x, again | g",)


# ------------------------------------------------------------------------- in memory


def by_brute_force(rows, gathered):
    """The numbers of every group, by loops over the rows in the basis."""
    rows = rows.counted()
    W, Z = gathered.basis.products(rows)
    layout = gathered.layout
    inner = rows.factors[layout.inner].labels
    width = layout.n_coupled
    sparse = np.zeros((len(rows), width))
    for k, f in enumerate(layout.outer):
        q = Z[f].shape[1]
        at = np.searchsorted(layout.levels[k], rows.factors[f].labels)
        for i in range(len(rows)):
            first = layout.offsets[k] + at[i] * q
            sparse[i, first : first + q] = Z[f][i]
    weights = np.ones(len(rows)) if rows.weights is None else rows.weights
    expected = {}
    for label in np.unique(inner).tolist():
        mine = inner == label
        z = Z[layout.inner][mine]
        gram = z.T @ z
        parts = [
            [weights[mine].sum()],
            gram[np.tril_indices(len(gram))],
            (z.T @ W[mine]).ravel(),
            (sparse[mine].T @ z).ravel(),
        ]
        expected[label] = np.concatenate(parts)
    whole = np.column_stack([sparse, W])
    return expected, whole.T @ whole, weights


def assert_gathered(gathered, rows, table=None):
    expected, products, weights = by_brute_force(rows, gathered)
    table = gathered.table if table is None else table
    assert table.labels.tolist() == sorted(expected)
    assert_tables(unpacked(table, gathered.layout.n_coupled), expected)
    assert gathered.totals.n_rows == len(weights)
    assert gathered.totals.weight == pytest.approx(weights.sum())
    assert gathered.totals.log_weight == pytest.approx(np.log(weights).sum())
    scale = np.abs(products).max()
    np.testing.assert_allclose(
        gathered.totals.products, products, rtol=1e-9, atol=1e-10 * scale
    )


@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_in_memory(weighted, crossed):
    rows = some_rows(crossed=crossed, weighted=weighted).counted()
    gathered = gather_memory(rows, NAMES, factors_of(rows))
    assert gathered.route == "memory" and gathered.n_groups == 11
    assert_gathered(gathered, rows)


def test_rows_in_the_order_of_groups():
    rows = some_rows()
    ordered = rows[np.argsort(rows.factors[0].labels, kind="stable")]
    gathered = gather_memory(ordered, NAMES, factors_of(rows))
    assert_gathered(gathered, ordered)


def test_more_rows_than_a_tile_has():
    rows = some_rows(n=40_000, m=300)
    gathered = gather_memory(rows, NAMES, factors_of(rows))
    order = np.argsort(rows.factors[0].labels, kind="stable")
    ordered = gather_memory(rows[order], NAMES, factors_of(rows))
    W, (Z,) = gathered.basis.products(rows)
    for k in (0, 150, 299):
        mine = rows.factors[0].labels == gathered.table.labels[k]
        np.testing.assert_allclose(
            gathered.table.cross[k], Z[mine].T @ W[mine], atol=1e-8
        )
    np.testing.assert_allclose(gathered.totals.products, W.T @ W, atol=1e-6)
    np.testing.assert_array_equal(ordered.table.labels, gathered.table.labels)
    np.testing.assert_allclose(ordered.table.sizes, gathered.table.sizes)


def test_sparse_and_dense_labels_are_sorted_alike():
    rows = some_rows()
    (factor,) = rows.factors
    far = Rows(
        rows.y, rows.fixed, (Grouped(factor.labels * 10**9 - 7, factor.design),), None
    )
    near, wide = (gather_memory(r, NAMES, factors_of(r)) for r in (rows, far))
    np.testing.assert_array_equal(near.table.labels * 10**9 - 7, wide.table.labels)
    np.testing.assert_array_equal(near.table.gram, wide.table.gram)


def test_rows_of_weight_zero_are_left_out():
    rows = some_rows(weighted=True)
    assert (rows.weights == 0).any()
    counted = rows.counted()
    assert len(counted) == (rows.weights > 0).sum()
    np.testing.assert_array_equal(counted.y, rows.y[rows.weights > 0])
    assert counted.counted() is counted


def test_too_many_crossed_levels_get_one_clear_error():
    n = 40_000
    rng = np.random.default_rng(0)
    factors = tuple(
        Grouped(rng.permutation(n), Columns(np.zeros((n, 0)), True)) for _ in range(2)
    )
    rows = Rows(rng.normal(size=n), Columns(np.zeros((n, 0)), True), factors)
    two = tuple(Factor(name, ("Intercept",), (1,)) for name in "gh")
    with pytest.raises(ValueError, match=r"levels\) crossed with"):
        gather_memory(rows, ("Intercept",), two)


# --------------------------------------------------------------------------- on Dask


def chunked(rows, bounds):
    dask = pytest.importorskip("dask")
    return [
        dask.delayed(rows[a:b], pure=False, traverse=False)
        for a, b in itertools.pairwise(bounds)
    ]


def itself(rows):
    return rows


def _flat(products):
    W, Z = products
    return [W, *Z]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_buckets", [None, 1, 3])
@pytest.mark.parametrize(
    ("crossed", "m", "route"),
    [
        (False, 11, "partial groups"),
        (False, 200, "rows by key"),
        (True, 200, "rows by key"),
    ],
)
def test_on_dask(route, m, crossed, n_buckets, weighted):
    dask = pytest.importorskip("dask")
    rows = some_rows(crossed=crossed, weighted=weighted, m=m)
    factors = factors_of(rows)
    with dask.config.set(scheduler="sync"):
        gathered = gather_dask(
            chunked(rows, [0, 100, 101, 250, 400]),
            itself,
            NAMES,
            factors,
            n_buckets=n_buckets,
        )
        blocks = dask.compute(*gathered.table.to_delayed().ravel())
    assert gathered.route == route
    table = GroupTable.combine([*blocks])
    assert sum(map(len, blocks)) == len(table) == gathered.n_groups
    assert_gathered(gathered, rows, table)
    known = gather_memory(rows.counted(), NAMES, factors)
    assert table.labels.tolist() == known.table.labels.tolist()
    np.testing.assert_allclose(table.sizes, known.table.sizes)
    assert gathered.basis.log_jacobian == pytest.approx(known.basis.log_jacobian)
    assert gathered.basis.log_restricted == pytest.approx(known.basis.log_restricted)
    both = (_flat(g.basis.products(rows)) for g in (gathered, known))
    for ours, theirs in zip(*both, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_one_chunk_and_chunks_without_rows():
    dask = pytest.importorskip("dask")
    rows = some_rows()
    for bounds in ([0, 400], [0, 0, 200, 200, 400, 400]):
        with dask.config.set(scheduler="sync"):
            gathered = gather_dask(
                chunked(rows, bounds), itself, NAMES, factors_of(rows)
            )
            blocks = dask.compute(*gathered.table.to_delayed().ravel())
        assert_gathered(gathered, rows, GroupTable.combine([*blocks]))


def test_strings_of_several_widths_meet():
    """A label is the same whatever the longest one of its chunk."""
    dask = pytest.importorskip("dask")
    rows = some_rows()
    names = np.array([f"g{10**k}" for k in range(11)])[rows.factors[0].labels]
    parts = [
        Rows(
            rows.y[a:b],
            rows.fixed[a:b],
            (Grouped(np.array(names[a:b].tolist()), rows.factors[0].design[a:b]),),
        )
        for a, b in ((0, 3), (3, 5), (5, 400))
    ]
    assert len({part.factors[0].labels.dtype for part in parts}) > 1
    chunks = [dask.delayed(part, pure=False, traverse=False) for part in parts]
    with dask.config.set(scheduler="sync"):
        gathered = gather_dask(chunks, itself, NAMES, factors_of(rows), n_buckets=4)
        blocks = dask.compute(*gathered.table.to_delayed().ravel())
    assert sorted(name for b in blocks for name in b.labels) == sorted(set(names))


def test_no_row_that_counts():
    dask = pytest.importorskip("dask")
    rows = some_rows()
    none = Rows(rows.y, rows.fixed, rows.factors, np.zeros(len(rows)))
    with dask.config.set(scheduler="sync"), pytest.raises(ValueError, match="no row"):
        gather_dask(chunked(none, [0, 200, 400]), itself, NAMES, factors_of(rows))
