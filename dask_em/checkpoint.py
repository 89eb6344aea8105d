"""Fits that survive the process they run in."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import sys
import uuid
from typing import Any

import numpy as np

from .model import Model, Summary

__all__ = ["Checkpoint", "Checkpointer", "fingerprint_of"]

logger = logging.getLogger("dask_em")

_FILE = "dask_em-checkpoint.npz"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a fit needs to go on: no statistics, one pass brings them back.

    Parameters
    ----------
    params : dataclass of arrays
    lower_bound : float
        The bound at `params`, per unit of weight.
    version : int
        M-steps made so far.
    effective_passes : float
    init : int
        Number of the start (of `n_init`) that is under way.
    seed : int
        Seed of the whole fit, so that the starts to come are the same.
    best : dataclass of arrays, optional
        Parameters of the best start that has ended.
    best_bound : float
        Their log-likelihood per unit of weight.
    """

    params: Any
    lower_bound: float
    version: int
    effective_passes: float
    init: int
    seed: int
    best: Any = None
    best_bound: float = float("-inf")

    def after(self, earlier: Checkpoint) -> Checkpoint:
        """Return this one with the counts and the best start of an earlier one.

        Parameters
        ----------
        earlier : Checkpoint
            Where the fit that led here was resumed from.
        """
        found = self
        if earlier.init == self.init:
            found = dataclasses.replace(
                found,
                version=self.version + earlier.version,
                effective_passes=self.effective_passes + earlier.effective_passes,
            )
        if earlier.best is not None and earlier.best_bound > self.best_bound:
            found = dataclasses.replace(
                found, best=earlier.best, best_bound=earlier.best_bound
            )
        return found


_SCALARS = tuple(
    f.name for f in dataclasses.fields(Checkpoint) if f.name not in ("params", "best")
)


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as Python's, which JSON knows."""
    return value.item()


def fingerprint_of(model: Any, summary: Any) -> dict[str, Any]:
    """Describe model and data, to tell a foreign checkpoint from one's own."""
    found: dict[str, Any] = {
        "model": f"{type(model).__module__}.{type(model).__qualname__}"
    }
    if dataclasses.is_dataclass(model):
        settings = {
            f.name: (getattr(model, f.name), f.compare)
            for f in dataclasses.fields(model)
            if not f.metadata.get("free")  # to be changed between runs
        }
        found["settings"] = {
            name: value
            for name, (value, _) in settings.items()
            if isinstance(value, (str, int, float, bool))
        } | {
            name: repr(value)
            for name, (value, compare) in settings.items()
            if compare and (dataclasses.is_dataclass(value) or type(value) is tuple)
        }
    if hasattr(summary, "fingerprint"):
        found["data"] = summary.fingerprint
    if isinstance(summary, Summary):
        # means in units of the spread, and away from 0, so that rounding is relative
        spread = np.sqrt(summary.variance) + np.finfo(float).tiny
        found["data"] = {
            "n_rows": summary.n_rows,
            "weight": summary.weight,
            "mean": (summary.mean / spread + 10).tolist(),
            "variance": summary.variance.tolist(),
        }
    return found


def alike(a: Any, b: Any) -> bool:
    """Whether two fingerprints agree, up to the rounding of sums."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        if all(isinstance(v, (int, float)) for v in (*a, *b)):
            return len(a) == len(b) and bool(np.allclose(a, b, rtol=1e-6, atol=0))
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, float) or isinstance(b, float):
        return bool(np.isclose(a, b, rtol=1e-9))
    return bool(a == b)


class Checkpointer:
    """Reads and writes the checkpoint of a fit in a directory.

    A checkpoint is one file without pickles: arrays and a header in JSON. It is
    written beside the old one and put in its place in one step, so there is a whole
    one at any moment.

    Parameters
    ----------
    location : str or path
        A directory, or any URL of one that fsspec understands.
    fingerprint : mapping
        Of the model and the data, see `fingerprint_of`.
    """

    def __init__(self, location: Any, fingerprint: dict[str, Any]) -> None:
        import fsspec

        self.location = str(location)
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.location)
        except (ValueError, ImportError) as error:
            raise ValueError(
                f"checkpoint={self.location!r} is no directory or URL that fsspec can "
                f"open ({error})."
            ) from error
        if self._fs.isfile(self._root):
            raise ValueError(
                f"checkpoint={self.location!r} is a file; give a directory, which is "
                "made where there is none."
            )
        self._path = f"{self._root.rstrip('/')}/{_FILE}"
        self._fingerprint = fingerprint
        self._known: float | None = None

    def exists(self) -> bool:
        """Whether there is a checkpoint."""
        return bool(self._fs.exists(self._path))

    def save(self, checkpoint: Checkpoint) -> bool:
        """Write a checkpoint, unless a better one of the same fit is there.

        Return whether it was written.
        """
        bound = max(checkpoint.lower_bound, checkpoint.best_bound)
        if self._known is None and self.exists():
            there = self.load(None)
            self._known = max(there.lower_bound, there.best_bound)
        if self._known is not None and bound < self._known:
            return False
        header = {
            "format": _FORMAT,
            "fingerprint": self._fingerprint,
            "type": type(checkpoint.params).__qualname__,
            "versions": _versions(),
            **{name: getattr(checkpoint, name) for name in _SCALARS},
        }
        arrays: dict[str, Any] = {
            f"{part}.{f.name}": np.asarray(getattr(params, f.name))
            for part, params in (
                ("params", checkpoint.params),
                ("best", checkpoint.best),
            )
            if params is not None
            for f in dataclasses.fields(params)
        }
        for name, array in arrays.items():
            if array.dtype.hasobject:
                raise TypeError(
                    f"{name} cannot be saved in a checkpoint: the fields of "
                    f"{header['type']} must be numbers or arrays of numbers"
                )
        buffer = io.BytesIO()
        np.savez(buffer, header=np.array(json.dumps(header, default=_plain)), **arrays)
        self._fs.makedirs(self._root, exist_ok=True)
        partial = f"{self._path}.{uuid.uuid4().hex}.partial"
        try:
            with self._fs.open(partial, "wb") as file:
                file.write(buffer.getvalue())
            self._fs.mv(partial, self._path)
        finally:
            if self._fs.exists(partial):
                self._fs.rm(partial)
        self._known = bound
        return True

    def load(self, model: Model[Any, Any] | None) -> Checkpoint:
        """Read the checkpoint.

        Parameters
        ----------
        model : Model, optional
            Its module is where the type of the parameters is looked up; without, the
            parameters are left out.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If it is damaged, or of another model or other data.
        """
        if not self.exists():
            raise FileNotFoundError(
                f"there is no checkpoint in {self.location!r} to resume from; check "
                "the path, or leave out resume= to begin anew"
            )
        try:
            with self._fs.open(self._path, "rb") as file:
                content = io.BytesIO(file.read())
            with np.load(content, allow_pickle=False) as archive:
                header = json.loads(str(archive["header"]))
                arrays = {k: archive[k] for k in archive.files if k != "header"}
            if header["format"] != _FORMAT:
                raise ValueError(f"format {header['format']}")
            expected = {"fingerprint", "type", *_SCALARS}
            if missing := expected - header.keys():
                raise ValueError(f"without {', '.join(sorted(missing))}")
        except Exception as error:
            raise ValueError(
                f"the checkpoint in {self.location!r} cannot be read ({error}); move "
                "it away, or choose another directory"
            ) from error
        theirs = header["fingerprint"]
        if not alike(theirs, self._fingerprint):
            differ = ", ".join(
                key
                for key in {*theirs, *self._fingerprint}
                if not alike(theirs.get(key), self._fingerprint.get(key))
            )
            raise ValueError(
                f"the checkpoint in {self.location!r} is of another fit (its {differ} "
                "differ); it is kept as it is: choose another directory, or remove it"
            )
        if model is None:
            params = best = None
        else:
            type_ = _params_type(model, header["type"])
            params, best = _restored("params", type_, arrays), None
            if any(key.startswith("best.") for key in arrays):
                best = _restored("best", type_, arrays)
        return Checkpoint(
            params=params,
            best=best,
            **{name: header[name] for name in _SCALARS},
        )


def _params_type(model: Model[Any, Any], name: str) -> Any:
    """Look the type of the parameters up beside the model, importing nothing."""
    found = getattr(sys.modules.get(type(model).__module__), name, None)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ValueError(
            f"the checkpoint's parameters are of type {name!r}, which must be a "
            f"dataclass at the top of {type(model).__module__!r}, where the model is"
        )
    return found


def _restored(part: str, type_: Any, arrays: dict[str, Any]) -> Any:
    values = {}
    for f in dataclasses.fields(type_):
        if f"{part}.{f.name}" not in arrays:
            raise ValueError(
                f"the checkpoint has no {f.name} for {type_.__qualname__}; it is of "
                "another version of the model: choose another directory, or remove it"
            )
        value = arrays[f"{part}.{f.name}"]
        values[f.name] = value.item() if value.ndim == 0 else value
    return type_(**values)


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("dask_em", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found
