"""Word alignment: IBM's models 1 and 2, and the hidden Markov model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..alignment.alignments import Alignments
from ..drivers.peer import Stage
from ..models.alignment import DiagonalModel, HMMModel, Model1, Model2
from ..models.alignment.base import AlignmentModel
from ..models.alignment.prepared import PreparedBitext
from ..schedules.base import check_integer
from .aligner import Aligner, check_number

__all__ = ["HMMAligner", "IBMModel1", "IBMModel2"]


class IBMModel1(Aligner):
    r"""IBM Model 1: word translation probabilities, whatever the words' positions.

    Each of the m target words f of a sentence is explained by one of the l source
    words e, or by the empty word :math:`e_0`, all of them equally likely:

    .. math:: p(f_1^m \mid e_1^l) = \prod_{j=1}^m \frac{1}{l + 1}
              \sum_{i=0}^l t(f_j \mid e_i)

    (Brown et al., 1993). Its likelihood has no local maxima, so it is also where the
    other models begin. On a cluster, each worker keeps only the translation
    probabilities that its own sentences need and makes its own part of the M-step;
    expected counts that several workers need travel between them (Wolfe, Haghighi and
    Klein, 2008).

    Parameters
    ----------
    max_iter : int, default=5
        Iterations at most. More fit the words that occur once too well.
    tol : float, default=0.0
        The fit has converged when an iteration raises the log-likelihood per target
        word by less. 0 makes all iterations.
    reverse : bool, default=False
        Explain the source side by the target side instead. Links are still of (source,
        target), so the two directions can be symmetrised.
    alpha : float, default=0.0
        Of a symmetric Dirichlet prior on each word's translations, with variational
        inference; see `HMMAligner`.
    topology : str or Topology, default="auto"
        How expected counts travel: ``"owner_sharded"``, ``"junction_tree"``,
        ``"all_pairs"``, ``"map_reduce"``, ``"star"``, ``"tree"`` or an object of
        `dask_em.topologies`. The default measures the network and takes what is
        fastest; `plan_` says why.
    transport : str or transport, default="auto"
        ``"local"`` threads, ``"futures"`` of Dask, Dask ``"actors"``, or an object of
        `dask_em.transports`. The default is tasks of the current Dask client, and
        threads where there is none.
    shards : int or "auto", default="auto"
        Parts to cut the data into, each a node of the topology; by default one for
        each thread.
    deadline : float, default=None
        Seconds after which the fit ends with what it has.
    checkpoint : str or path, default=None
        Directory that all workers reach, or fsspec URL, in which each node saves its
        part of the parameters now and then.
    resume : bool, str or path, default=None
        Go on from a checkpoint; True stands for that of `checkpoint`, if there is one.
    gather : bool or "auto", default="auto"
        Whether to bring the parameters to this process at the end of a fit. The
        default does so if they take a gigabyte at most; others stay on the cluster
        until they are asked for.
    verbose : int, default=0
        1 prints a line per iteration.

    Attributes
    ----------
    translation_table_ : Lexicon
        Probabilities t(f | e), a mapping of words to dictionaries.
    source_vocabulary_, target_vocabulary_ : tuple of str
        Words, sorted.
    log_likelihood_ : float
        Of the training data at the final parameters. With `alpha` above 0, a bound on
        the evidence, less the divergence of the table from its prior; `score` returns
        the likelihood.
    log_likelihoods_ : list of float
        At the start, or where it was resumed, and after each iteration of this fit.
    n_iter_ : int
    converged_ : bool
    plan_ : Plan
        How counts travelled: `Plan.explain` shows it as a table, `Plan.plot` draws it.
    result_ : EMResult

    See Also
    --------
    HMMAligner : The best alignments.
    symmetrize : Make one of two directions.
    aer : Compare with alignments made by hand.

    References
    ----------
    Brown, P. F., Della Pietra, S. A., Della Pietra, V. J., Mercer, R. L. (1993). The
    mathematics of statistical machine translation. Computational Linguistics 19(2),
    263-311.

    Wolfe, J., Haghighi, A., Klein, D. (2008). Fully distributed EM for very large
    datasets. ICML 2008, 1184-1191.

    Examples
    --------
    >>> from dask_em import IBMModel1
    >>> bitext = [
    ...     ("das Haus", "the house"),
    ...     ("das Buch", "the book"),
    ...     ("ein Buch", "a book"),
    ... ]
    >>> model = IBMModel1(max_iter=20).fit(bitext)
    >>> model.top_translations("Haus", 1)[0][0]
    'house'
    >>> model.align([("das Haus", "the house")]).to_pharaoh()
    ['0-0 1-1']
    """

    def __init__(
        self,
        *,
        max_iter: int = 5,
        tol: float = 0.0,
        reverse: bool = False,
        alpha: float = 0.0,
        topology: Any = "auto",
        transport: Any = "auto",
        shards: int | str = "auto",
        deadline: float | None = None,
        checkpoint: Any = None,
        resume: Any = None,
        gather: bool | str = "auto",
        verbose: int = 0,
    ) -> None:
        self.max_iter = max_iter
        self.tol = tol
        self.reverse = reverse
        self.alpha = alpha
        self.topology = topology
        self.transport = transport
        self.shards = shards
        self.deadline = deadline
        self.checkpoint = checkpoint
        self.resume = resume
        self.gather = gather
        self.verbose = verbose

    def _model(self) -> AlignmentModel:
        return Model1(self.reverse, self.alpha)


class _Started(Aligner):
    """An aligner that begins where Model 1 ends."""

    model1_iter: int

    def _stages(self) -> Sequence[Stage]:
        check_integer("model1_iter", self.model1_iter, 0)
        model = self._model()
        last = Stage(model, self.max_iter, self.tol)
        if self.model1_iter == 0:
            return [last]
        return [Stage(model.first_stage(), self.model1_iter), last]

    def _others(self, n: int) -> Any:
        """Return the first n parameters behind the table of words.

        They are wanted later than the fit ends: all parameters are brought here.
        """
        first = self._fitted_model.prepare([], self._summary).first_other
        return self.result_.params.take(first + np.arange(n))[:, 0]


class IBMModel2(_Started):
    r"""IBM Model 2: translation probabilities, and where words tend to stand.

    Parameters
    ----------
    prior : {"diagonal", "table"}, default="diagonal"
        Probabilities of positions: with
        :math:`p(i) \propto e^{-\lambda |i / l - j / m|}`, as in fast_align (Dyer,
        Chahuneau and Smith, 2013), or a table :math:`a(i \mid j, l, m)` (Brown et al.,
        1993).
    max_iter : int, default=5
        Iterations at most, after those of Model 1.
    model1_iter : int, default=5
        Iterations of IBM Model 1 to begin with.
    tol : float, default=0.0
        As for `IBMModel1`.
    reverse : bool, default=False
        As for `IBMModel1`.
    alpha : float, default=0.01
        As for `HMMAligner`.
    null_probability : float or None, default=0.2
        Of the empty word, with a diagonal prior; None learns it, and with 0 there is
        no empty word.
    topology, transport, shards, deadline, checkpoint, resume, gather, verbose
        As for `IBMModel1`.

    Attributes
    ----------
    tension_ : float
        λ, with a diagonal prior.
    null_probability_ : float
        With a diagonal prior.
    translation_table_, source_vocabulary_, target_vocabulary_
        As for `IBMModel1`.
    log_likelihood_, log_likelihoods_, n_iter_, converged_, plan_, result_
        As for `IBMModel1`; iterations of Model 1 are counted, too.

    References
    ----------
    Dyer, C., Chahuneau, V., Smith, N. A. (2013). A simple, fast, and effective
    reparameterization of IBM Model 2. NAACL-HLT 2013, 644-648.

    Brown, P. F., Della Pietra, S. A., Della Pietra, V. J., Mercer, R. L. (1993). The
    mathematics of statistical machine translation. Computational Linguistics 19(2),
    263-311.

    Examples
    --------
    >>> from dask_em import IBMModel2
    >>> bitext = [
    ...     ("das Haus", "the house"),
    ...     ("das Buch", "the book"),
    ...     ("ein Buch", "a book"),
    ... ]
    >>> model = IBMModel2().fit(bitext)
    >>> model.align([("das Haus", "the house")]).to_pharaoh()
    ['0-0 1-1']
    """

    def __init__(
        self,
        *,
        prior: str = "diagonal",
        max_iter: int = 5,
        model1_iter: int = 5,
        tol: float = 0.0,
        reverse: bool = False,
        alpha: float = 0.01,
        null_probability: float | None = 0.2,
        topology: Any = "auto",
        transport: Any = "auto",
        shards: int | str = "auto",
        deadline: float | None = None,
        checkpoint: Any = None,
        resume: Any = None,
        gather: bool | str = "auto",
        verbose: int = 0,
    ) -> None:
        self.prior = prior
        self.max_iter = max_iter
        self.model1_iter = model1_iter
        self.tol = tol
        self.reverse = reverse
        self.alpha = alpha
        self.null_probability = null_probability
        self.topology = topology
        self.transport = transport
        self.shards = shards
        self.deadline = deadline
        self.checkpoint = checkpoint
        self.resume = resume
        self.gather = gather
        self.verbose = verbose

    def _model(self) -> AlignmentModel:
        if self.prior == "table":
            return Model2(self.reverse, self.alpha)
        if self.prior != "diagonal":
            raise ValueError(
                f"prior must be 'diagonal' or 'table', got {self.prior!r}."
            )
        return DiagonalModel(
            self.reverse, self.alpha, null_probability=self.null_probability
        )

    @property
    def null_probability_(self) -> float:
        """Of the empty word."""
        return float(self._positions(2)[0])

    @property
    def tension_(self) -> float:
        """How near to the diagonal words are."""
        return float(self._positions(2)[1])

    def _positions(self, n: int) -> Any:
        if not isinstance(getattr(self, "_fitted_model", None), DiagonalModel):
            raise AttributeError("there is none without a fit with a diagonal prior")
        return self._others(n)


class HMMAligner(_Started):
    r"""Hidden Markov model of word alignments: where a word stands follows the last.

    The next target word comes from the empty word with probability :math:`p_0`, and
    otherwise from source position i with probability proportional to
    :math:`c(i - i')`, where :math:`i'` is the last position that was not empty (Vogel,
    Ney and Tillmann, 1996; Och and Ney, 2003). Jumps c are fitted exactly, the
    lengths of sentences allowed for, so the likelihood never falls.

    Parameters
    ----------
    max_iter : int, default=5
        Iterations at most, after those of Model 1.
    model1_iter : int, default=5
        Iterations of IBM Model 1 to begin with.
    tol : float, default=0.0
        As for `IBMModel1`.
    reverse : bool, default=False
        As for `IBMModel1`.
    alpha : float, default=0.01
        Of a symmetric Dirichlet prior on each word's translations among all words of
        the other side, with variational inference (Riley and Gildea, 2012), which
        keeps rare words from explaining whatever stands next to them.
        `log_likelihood_` is then a lower bound of the evidence, and probabilities are
        those of the posterior's mean, which keeps some for words that were never seen
        together. 0 is maximum likelihood; others are at least 1e-12.
    null_probability : float or None, default=0.2
        :math:`p_0`; None learns it, and with 0 there is no empty word.
    max_jump : int, default=7
        Longer jumps are equally likely; 100 at most.
    decoding : {"posterior", "viterbi"}, default="posterior"
        Whether `align` returns the links whose posterior probability is above
        `threshold` (Liang, Taskar and Klein, 2006), or those of the most probable
        alignment as a whole.
    threshold : float, default=0.5
        Lower ones give more links, below 0.5 several to a word; before an
        intersection, 0.3 is good.
    topology, transport, shards, deadline, checkpoint, resume, gather, verbose
        As for `IBMModel1`.

    Attributes
    ----------
    jump_probabilities_ : ndarray of shape (2 max_jump + 1,)
        c, of jumps from -max_jump to max_jump; 0 for those that no sentence is long
        enough for.
    null_probability_ : float
    translation_table_, source_vocabulary_, target_vocabulary_
        As for `IBMModel1`.
    log_likelihood_, log_likelihoods_, n_iter_, converged_, plan_, result_
        As for `IBMModel1`; iterations of Model 1 are counted, too.

    References
    ----------
    Liang, P., Taskar, B., Klein, D. (2006). Alignment by agreement. HLT-NAACL 2006,
    104-111.

    Vogel, S., Ney, H., Tillmann, C. (1996). HMM-based word alignment in statistical
    translation. COLING 1996, 836-841.

    Och, F. J., Ney, H. (2003). A systematic comparison of various statistical
    alignment models. Computational Linguistics 29(1), 19-51.

    Riley, D., Gildea, D. (2012). Improving the IBM alignment models using variational
    Bayes. ACL 2012, 306-310.

    Examples
    --------
    >>> from dask_em import HMMAligner, symmetrize
    >>> bitext = [
    ...     ("das Haus", "the house"),
    ...     ("das Buch", "the book"),
    ...     ("ein Buch", "a book"),
    ... ]
    >>> forward = HMMAligner().fit(bitext)
    >>> backward = HMMAligner(reverse=True).fit(bitext)
    >>> both = symmetrize(forward.align(bitext), backward.align(bitext))
    >>> both.to_pharaoh()
    ['0-0 1-1', '0-0 1-1', '0-0 1-1']
    """

    def __init__(
        self,
        *,
        max_iter: int = 5,
        model1_iter: int = 5,
        tol: float = 0.0,
        reverse: bool = False,
        alpha: float = 0.01,
        null_probability: float | None = 0.2,
        max_jump: int = 7,
        decoding: str = "posterior",
        threshold: float = 0.5,
        topology: Any = "auto",
        transport: Any = "auto",
        shards: int | str = "auto",
        deadline: float | None = None,
        checkpoint: Any = None,
        resume: Any = None,
        gather: bool | str = "auto",
        verbose: int = 0,
    ) -> None:
        self.max_iter = max_iter
        self.model1_iter = model1_iter
        self.tol = tol
        self.reverse = reverse
        self.alpha = alpha
        self.null_probability = null_probability
        self.max_jump = max_jump
        self.decoding = decoding
        self.threshold = threshold
        self.topology = topology
        self.transport = transport
        self.shards = shards
        self.deadline = deadline
        self.checkpoint = checkpoint
        self.resume = resume
        self.gather = gather
        self.verbose = verbose

    def _model(self) -> AlignmentModel:
        check_integer("max_jump", self.max_jump, 1)
        self._check_decoding()
        return HMMModel(
            self.reverse,
            self.alpha,
            null_probability=self.null_probability,
            max_jump=self.max_jump,
        )

    def _check_decoding(self) -> None:
        """Raise an error for settings of `align`, which may change after a fit."""
        if self.decoding not in ("posterior", "viterbi"):
            raise ValueError(
                f"decoding must be 'posterior' or 'viterbi', got {self.decoding!r}."
            )
        check_number("threshold", self.threshold)
        if not 0 < self.threshold < 1:
            raise ValueError(
                f"threshold must be between 0 and 1, got {self.threshold!r}."
            )

    def _decode(self, params: Any, prepared: PreparedBitext) -> Alignments:
        self._check_decoding()
        model = self._fitted_model
        if self.decoding == "posterior":
            return model.align_posterior(params, prepared, self.threshold)
        return model.align(params, prepared)

    @property
    def null_probability_(self) -> float:
        """Of the empty word."""
        return float(self._others(1)[0])

    @property
    def jump_probabilities_(self) -> Any:
        """Of jumps from -max_jump to max_jump, as when the model was fitted."""
        return self._others(2 + 2 * self._fitted_model.max_jump + 1)[2:]
