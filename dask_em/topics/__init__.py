"""Corpora of documents: bags of words, and where they come from."""

from .chunks import ChunkedSource, read_corpus
from .corpus_directory import write_corpus
from .docword import read_docword, read_vocab, write_docword
from .sources import Corpus, DaskSource, DocwordSource, SparseSource, as_corpus
from .tokens import TokenSource

__all__ = [
    "ChunkedSource",
    "Corpus",
    "DaskSource",
    "DocwordSource",
    "SparseSource",
    "TokenSource",
    "as_corpus",
    "read_corpus",
    "read_docword",
    "read_vocab",
    "write_corpus",
    "write_docword",
]
