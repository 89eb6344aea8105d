"""Parameters of all nodes on disk, to go on from in another process."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import uuid
from typing import Any

import numpy as np

from ..checkpoint import alike
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
        self.location = absolute(location)
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
        point, theirs = read(self.location)
        if not alike(theirs, self._fingerprint):
            raise ValueError(
                f"the checkpoint in {self.location!r} is of another fit (other data or "
                "settings); it is kept as it is: choose another directory, or remove it"
            )
        return point

    def new_folder(self) -> str:
        """Make a folder for the files of the nodes; return its name."""
        name = f"nodes-{uuid.uuid4().hex}"
        try:
            self._fs.makedirs(f"{self._root}/{name}", exist_ok=True)
        except OSError as error:
            raise OSError(
                f"checkpoint={self.location!r} cannot be written to ({error}); give a "
                "directory that this process and all workers can write to."
            ) from error
        return name

    def drop(self, folder: str) -> None:
        """Remove a folder."""
        self._fs.rm(f"{self._root}/{folder}", recursive=True)

    def put(self, point: Point) -> bool:
        """Make a folder the one that counts, unless a better one is there."""
        last = self.load() if self.exists() else None
        if last is not None and not point.is_better_than(last):
            self.drop(point.folder)
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
            self.drop(last.folder)
        return True


def absolute(location: Any) -> str:
    """Return a place under a name that is the same on all workers."""
    location = os.fspath(location)
    return location if "://" in location else os.path.abspath(location)


def read(location: str) -> tuple[Point, Any]:
    """Return the point of a checkpoint, and the fingerprint of its fit."""
    fs, root = _opened(location)
    path = f"{root.rstrip('/')}/{_FILE}"
    if not fs.exists(path):
        raise FileNotFoundError(
            f"there is no checkpoint in {location!r} to resume from; check the path, "
            "or leave out resume= to begin anew"
        )
    try:
        with fs.open(path, "r") as file:
            header = json.load(file)
        if header["format"] != _FORMAT:
            raise ValueError(f"format {header['format']}")
        found = header["point"]
        point = Point(**found | {"stage_began": tuple(found["stage_began"])})
        return point, header["fingerprint"]
    except Exception as error:
        raise _damaged(location, error) from error


def _damaged(location: str, error: Exception) -> ValueError:
    return ValueError(
        f"the checkpoint in {location!r} cannot be read ({error}); move it away, or "
        "choose another directory"
    )


def check_places(checkpoint: Any, resume: Any) -> None:
    """Raise for places of checkpoints that cannot be, before any work.

    Raises
    ------
    TypeError
        If one of them is no path.
    ValueError
        If there is nothing to resume from, or it cannot be read.
    FileNotFoundError
        If there is no checkpoint.
    """
    for name, place in (("checkpoint", checkpoint), ("resume", resume)):
        flag = name == "resume" and isinstance(place, bool)
        if place is not None and not flag and not isinstance(place, (str, os.PathLike)):
            raise TypeError(f"{name} must be a path or URL, got {place!r}.")
    if resume is True and checkpoint is None:
        raise ValueError(
            "resume=True goes on from the checkpoint in checkpoint=; give that, or "
            "resume= a path."
        )
    if checkpoint is not None:
        fs, root = _opened(absolute(checkpoint))
        if fs.exists(f"{root.rstrip('/')}/{_FILE}"):
            read(absolute(checkpoint))
    if resume is not None and not isinstance(resume, bool):
        read(absolute(resume))


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
class Probe(Step):
    """Find out whether a node can write where it is to."""

    location: str
    folder: str

    def run(self, node: Node) -> None:
        """Write nothing much."""
        try:
            fs, root = _opened(self.location)
            with fs.open(f"{root}/{self.folder}/{node.index}.probe", "wb") as file:
                file.write(b"")
        except OSError as error:
            raise ValueError(
                f"checkpoint={self.location!r} cannot be written to by node "
                f"{node.index} ({error}); give a directory that this process and all "
                "workers can write to."
            ) from error


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
        assert node.params is not None
        params = node.params.copy()
        missing = len(node.ids)
        for k in range(self.point.n_files):
            ids, values = self._file(k)
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

    def _file(self, k: int) -> tuple[Any, Any]:
        """Return the ids and parameters that a node wrote."""
        fs, root = _opened(self.location)
        try:
            with fs.open(f"{root}/{self.point.folder}/{k}.npz", "rb") as file:
                content = io.BytesIO(file.read())
            with np.load(content, allow_pickle=False) as archive:
                return archive["ids"], archive["values"]
        except Exception as error:
            raise _damaged(self.location, error) from error
