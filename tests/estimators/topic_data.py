"""Documents of known topics."""

import numpy as np

N_WORDS = 30


def corpus(n_docs=120, seed=0):
    """Documents of three topics, ten words each; word 7 never occurs."""
    rng = np.random.default_rng(seed)
    topics = np.kron(np.eye(3), np.full((1, 10), 0.09)) + 0.01 / 3
    shares = rng.dirichlet(np.full(3, 0.2), n_docs)
    counts = rng.poisson(40 * shares @ topics)
    counts[:, 7] = 0
    counts[4] = 0
    return counts


def tokens_of(counts):
    """Return documents as lists of words w00, w01 and so on."""
    names = np.array([f"w{i:02d}" for i in range(counts.shape[1])])
    return [names.repeat(row).tolist() for row in counts]


def groups_of(lda):
    """Return which topics, of ten words each, the top words of each topic are of."""
    return {frozenset(i // 10 for i in words) for words in lda.top_words(9)}


EACH_ITS_OWN = {frozenset([k]) for k in range(3)}
