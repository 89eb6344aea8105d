"""Writing chunks of a corpus, here or on the workers of a cluster."""

from __future__ import annotations

import dataclasses
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ..text_files import is_compressed
from .chunk_format import Chunk, checksum_of, file_of
from .chunks import ChunkedSource
from .docword import Read, read_blocks
from .sources import Corpus, DocwordSource, SparseSource, as_csr

__all__ = ["ChunkWriter"]

#: Entries of a chunk unless the number of its documents is given.
_ENTRIES = 1 << 22


@dataclasses.dataclass
class ChunkWriter:
    """Writes blocks to a folder.

    Parameters
    ----------
    folder : str
    docs_per_chunk : int or None
    n_words : int or None
        None until a block has been seen.
    """

    folder: str
    docs_per_chunk: int | None
    n_words: int | None

    def corpus(self, corpus: Corpus) -> list[Chunk]:
        """Write a corpus, with tasks of Dask's unless it has to be read in order."""
        if isinstance(corpus, SparseSource):
            return self.stream([corpus.X])
        if isinstance(corpus, DocwordSource) and (
            self.docs_per_chunk or is_compressed(corpus.path)
        ):  # to find a document, all before it has to be read
            return self.stream(read_blocks(corpus.path, _ENTRIES))
        import dask

        from ..estimators.clients import asynchronous_client

        if asynchronous_client() is not None:
            raise TypeError(
                "this computes lazy data at once, which an asynchronous client cannot "
                "wait for; use a Client(asynchronous=False)."
            )
        write = dask.delayed(self.blocks, pure=False)  # type: ignore[attr-defined]
        parts: list[Any] = []
        for part in self._parts(corpus):
            if any(hasattr(source, "dask") for source in part):
                parts += [[source] for source in part]
            elif part:  # in which there is nothing of Dask's to be looked for
                parts.append(dask.delayed(part, traverse=False))  # type: ignore[attr-defined]
        tasks = [write(part, f"{i:06d}") for i, part in enumerate(parts)]
        found = dask.compute(*tasks)  # type: ignore[attr-defined]
        reads = [read for _, reads in found for read in reads]
        if reads:
            sum(reads[1:], reads[0]).verify()
        return [chunk for chunks, _ in found for chunk in chunks]

    def _parts(self, corpus: Corpus) -> list[Sequence[Any]]:
        """Return loaders, or what is lazy, of each chunk or of several."""
        step, n = self.docs_per_chunk, corpus.n_rows
        if step and isinstance(corpus, ChunkedSource):
            edges = range(0, corpus.n_rows, step)
            return [corpus.between(a, min(a + step, corpus.n_rows)) for a in edges]
        if step and n:
            return corpus.cut(-(-n // step))
        return corpus.cut(-(-(corpus.n_entries or 1) // _ENTRIES))

    def stream(self, blocks: Iterable[Any]) -> list[Chunk]:
        """Write blocks here, joined to chunks of the right size."""
        return [
            self._chunk(block, f"{i:06d}")
            for i, block in enumerate(self._regrouped(blocks))
        ]

    def blocks(self, part: Sequence[Any], name: str) -> tuple[list[Chunk], list[Read]]:
        """Write blocks, or what loaders load, in one chunk or several."""
        blocks = [b.load() if hasattr(b, "load") else b for b in part]
        reads = [block.read for block in blocks if hasattr(block, "read")]
        block = _joined([self._checked(block) for block in blocks])
        n, step = block.shape[0], self.docs_per_chunk
        if step:
            pieces = [block[i : i + step] for i in range(0, n, step)]
        else:
            parts = SparseSource(block).cut(-(-block.nnz // _ENTRIES) or 1)
            pieces = [loader.load() for part in parts for loader in part]
        chunks = [self._chunk(p, f"{name}-{j:03d}") for j, p in enumerate(pieces)]
        return chunks, reads

    def _regrouped(self, blocks: Iterable[Any]) -> Iterator[sp.csr_array]:
        held: list[sp.csr_array] = []
        docs = entries = 0
        for given in blocks:
            block = self._checked(given)
            start, n = 0, block.shape[0]
            while start < n:
                if self.docs_per_chunk:
                    stop = min(n, start + self.docs_per_chunk - docs)
                else:
                    room = int(block.indptr[start]) + _ENTRIES - entries
                    stop = int(np.searchsorted(block.indptr, room, "right")) - 1
                    stop = min(n, max(stop, start + (not held)))
                if stop > start:
                    held.append(block if stop - start == n else block[start:stop])
                docs += stop - start
                entries += int(block.indptr[stop] - block.indptr[start])
                start = stop
                if docs == self.docs_per_chunk or start < n:
                    yield _joined(held)
                    held, docs, entries = [], 0, 0
        if held:
            yield _joined(held)

    def _checked(self, block: Any) -> sp.csr_array:
        found = as_csr(block)
        if self.n_words is None:
            self.n_words = found.shape[1]
        if found.shape[1] != self.n_words:
            raise ValueError(
                f"A block has {found.shape[1]} columns and there are {self.n_words} "
                "words; all blocks must have one column for each word."
            )
        if found.shape[1] >= 2**31:
            raise ValueError(f"There are {found.shape[1]} words; 2 ** 31 are too many.")
        if not np.isfinite(found.data).all() or (found.data < 0).any():
            raise ValueError("Counts of words must be finite and not negative.")
        return found

    def _chunk(self, block: sp.csr_array, name: str) -> Chunk:
        if not os.path.isdir(self.folder):
            raise FileNotFoundError(
                "workers do not find the directory to write to; it must be on a disk "
                f"that they share: {self.folder}"
            )
        large = block.nnz >= 2**31
        arrays = {
            "indptr": block.indptr.astype("<i8" if large else "<i4", copy=False),
            "indices": block.indices.astype(
                "<u2" if block.shape[1] <= 2**16 else "<i4", copy=False
            ),
            "counts": _smallest(block.data),
        }
        for array, values in arrays.items():
            path = file_of(self.folder, name, array)
            # a task may run a second time, somewhere else
            temporary = f"{path}.{uuid.uuid4().hex[:12]}"
            with open(temporary, "wb") as file:
                np.save(file, values, allow_pickle=False)
            os.replace(temporary, path)
        return Chunk(
            name,
            int(block.shape[0]),
            int(block.nnz),
            float(block.data.sum(dtype=np.float64)),
            arrays["counts"].dtype.str,
            checksum_of([*arrays.values()]),
        )


def _joined(blocks: list[sp.csr_array]) -> sp.csr_array:
    return blocks[0] if len(blocks) == 1 else sp.vstack(blocks, format="csr")


def _smallest(counts: NDArray[Any]) -> NDArray[Any]:
    """Return counts in the smallest type that holds them."""
    largest = counts.max(initial=0)
    if largest < 2**32 and (counts == np.floor(counts)).all():
        n_bytes = 1 if largest < 2**8 else 2 if largest < 2**16 else 4
        return counts.astype(f"<u{n_bytes}")
    return counts.astype(f"<f{counts.dtype.itemsize}", copy=False)
