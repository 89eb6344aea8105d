"""Corpora of documents: bags of words, and where they come from."""

from .docword import read_docword, read_vocab, write_docword
from .sources import Corpus, DaskSource, DocwordSource, SparseSource, as_corpus

__all__ = [
    "Corpus",
    "DaskSource",
    "DocwordSource",
    "SparseSource",
    "as_corpus",
    "read_docword",
    "read_vocab",
    "write_docword",
]
