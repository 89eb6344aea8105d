"""Parameters of all nodes on disk, to go on from in another process."""

from __future__ import annotations

import dataclasses
import io
import json
import uuid
from typing import Any

import numpy as np

from ..topologies.sharing import hashed
from .node import Node
from .program import Step

__all__ = ["Checksum", "Point", "Restore", "Save", "Shelf"]

_FILE = "dask_em-nodes.json"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Point:
    """Where a fit was.

    Parameters
    ----------
    version : int
        M-steps made.
    stage_began : tuple of int
        Versions at which the stages so far began.
    bound : float
    folder : str
        Where the parameters are, below the checkpoint.
    n_files : int
    """

    version: int
    stage_began: tuple[int, ...]
    bound: float
    folder: str
    n_files: int

    def is_better_than(self, other: Point) -> bool:
        """Whether it is further: in a later stage, or with a higher bound."""
        return (len(self.stage_began), self.bound) > (
            len(other.stage_began),
            other.bound,
        )


class Shelf:
    """A directory with the parameters of a fit, each node's in a file of its own.

    Files are written to a new folder, and a small one that names it is put in place of
    the last in one step, so there are whole ones at any moment.

    Parameters
    ----------
    location : str or path
        A directory that all workers reach, or any URL of one that fsspec understands.
    fingerprint : mapping
        Of models and data.
    """

    def __init__(self, location: Any, fingerprint: Any) -> None:
        self.location = str(location)
        self._fs, self._root = _opened(self.location)
        self._path = f"{self._root.rstrip('/')}/{_FILE}"
        self._fingerprint = json.loads(json.dumps(fingerprint))

    def exists(self) -> bool:
        """Whether there is anything."""
        return bool(self._fs.exists(self._path))

    def load(self) -> Point:
        """Return where the fit was.

        Raises
        ------
        FileNotFoundError
            If there is no checkpoint.
        ValueError
            If it is damaged, or of another fit.
        """
        if not self.exists():
            raise FileNotFoundError(
                f"there is no checkpoint in {self.location!r} to resume from; check "
                "the path, or leave out resume= to begin anew"
            )
        try:
            with self._fs.open(self._path, "r") as file:
                header = json.load(file)
            if header["format"] != _FORMAT:
                raise ValueError(f"format {header['format']}")
            found = header["point"]
            point = Point(**found | {"stage_began": tuple(found["stage_began"])})
            theirs = header["fingerprint"]
        except Exception as error:
            raise ValueError(
                f"the checkpoint in {self.location!r} cannot be read ({error}); move "
                "it away, or choose another directory"
            ) from error
        if theirs != self._fingerprint:
            raise ValueError(
                f"the checkpoint in {self.location!r} is of another fit (other data or "
                "settings); it is kept as it is: choose another directory, or remove it"
            )
        return point

    def new_folder(self) -> str:
        """Make a folder for the files of the nodes; return its name."""
        name = f"nodes-{uuid.uuid4().hex}"
        self._fs.makedirs(f"{self._root}/{name}", exist_ok=True)
        return name

    def put(self, point: Point) -> bool:
        """Make a folder the one that counts, unless a better one is there."""
        last = self.load() if self.exists() else None
        if last is not None and not point.is_better_than(last):
            self._fs.rm(f"{self._root}/{point.folder}", recursive=True)
            return False
        header = {
            "format": _FORMAT,
            "fingerprint": self._fingerprint,
            "point": dataclasses.asdict(point),
        }
        partial = f"{self._path}.{uuid.uuid4().hex}.partial"
        with self._fs.open(partial, "w") as file:
            json.dump(header, file)
        self._fs.mv(partial, self._path)
        if last is not None:
            self._fs.rm(f"{self._root}/{last.folder}", recursive=True)
        return True


def _opened(location: str) -> tuple[Any, str]:
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(location)
    except (ValueError, ImportError) as error:
        raise ValueError(
            f"checkpoint={location!r} is no directory or URL that fsspec can open "
            f"({error})."
        ) from error
    if fs.isfile(root):
        raise ValueError(
            f"checkpoint={location!r} is a file; give a directory, which is made where "
            "there is none."
        )
    return fs, root


@dataclasses.dataclass(frozen=True)
class Checksum(Step):
    """Add up the hashes of the ids that a node counts: a fingerprint of the data."""

    def run(self, node: Node) -> int:
        """Return the sum."""
        return int(hashed(node.ids[node.counted]).sum(dtype=np.uint64))


@dataclasses.dataclass(frozen=True)
class Save(Step):
    """Write the parameters that a node counts to a file."""

    location: str
    folder: str

    def run(self, node: Node) -> None:
        """Write them."""
        if node.is_helper:
            return
        assert node.params is not None
        fs, root = _opened(self.location)
        buffer = io.BytesIO()
        np.savez(buffer, ids=node.ids[node.counted], values=node.params[node.counted])
        with fs.open(f"{root}/{self.folder}/{node.index}.npz", "wb") as file:
            file.write(buffer.getvalue())


@dataclasses.dataclass(frozen=True)
class Restore(Step):
    """Take the parameters of a node's ids from files, whichever node wrote them."""

    location: str
    point: Point

    def run(self, node: Node) -> None:
        """Read the files, one after the other."""
        node.version = self.point.version
        if node.is_helper:
            return
        fs, root = _opened(self.location)
        assert node.params is not None
        params = node.params.copy()
        missing = len(node.ids)
        for k in range(self.point.n_files):
            with fs.open(f"{root}/{self.point.folder}/{k}.npz", "rb") as file:
                content = io.BytesIO(file.read())
            with np.load(content, allow_pickle=False) as archive:
                ids, values = archive["ids"], archive["values"]
            _, mine, theirs = np.intersect1d(
                node.ids, ids, assume_unique=True, return_indices=True
            )
            params[mine] = values[theirs]
            missing -= len(mine)
        if missing:
            raise ValueError(
                f"the checkpoint in {self.location!r} lacks {missing} of the "
                "statistics; move it away, or choose another directory"
            )
        node.params = params
