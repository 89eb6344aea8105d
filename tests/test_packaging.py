"""What is shipped agrees with itself: names, versions, dependencies, pages."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import dask_em

ROOT = Path(__file__).resolve().parent.parent
#: conda-forge's name where it is not PyPI's.
CONDA_NAMES = {"dask": "dask-core", "matplotlib": "matplotlib-base"}


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def project():
    return tomllib.loads(read("pyproject.toml"))["project"]


def pip_requirements():
    """Bounds by conda-forge name, extras included."""
    table = project()
    lines = [*table["dependencies"]]
    for extra in table["optional-dependencies"].values():
        lines += extra
    found = {}
    for line in lines:
        requirement = Requirement(line)
        if requirement.name == table["name"]:  # an extra made of extras
            continue
        name = CONDA_NAMES.get(requirement.name, requirement.name)
        assert found.setdefault(name, requirement.specifier) == requirement.specifier
    return {name: str(bound) for name, bound in found.items()}


def conda_requirements():
    """Bounds by name, as environment.yml has them."""
    found = {}
    for line in yaml.safe_load(read("environment.yml"))["dependencies"]:
        requirement = Requirement(line)
        found[requirement.name] = str(requirement.specifier)
    return found


def api_page():
    """Full names of everything that the API page lists."""
    module, listed, names = None, False, []
    for line in read("docs/api.md").splitlines():
        if match := re.match(r"\.\. currentmodule:: (\S+)", line):
            module, listed = match[1], False
        elif line.startswith(".. autosummary::"):
            listed = True
        elif line.startswith("```"):
            listed = False
        elif listed and (match := re.match(r"   (\w+)$", line)):
            names.append(f"{module}.{match[1]}")
    return names


def public_names():
    return sorted(set(dask_em.__all__) - {"__version__"})


def test_environment_is_in_step_with_pyproject():
    conda = conda_requirements()
    assert conda.pop("python") == project()["requires-python"]
    conda.pop("pip")
    assert conda == pip_requirements()


def test_dependencies_have_lower_bounds_only():
    for name, bound in pip_requirements().items():
        assert re.fullmatch(r">=[\d.]+", bound), f"{name}{bound}"


def test_versions_agree():
    version = dask_em.__version__
    assert yaml.safe_load(read("CITATION.cff"))["version"] == version
    newest = re.search(r"^## \[([^]]+)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == version


def test_licence_is_there():
    table = project()
    assert table["license"] == "BSD-3-Clause"
    assert read(*table["license-files"]).startswith("BSD 3-Clause License")
    assert yaml.safe_load(read("CITATION.cff"))["license"] == table["license"]


def test_typed():
    assert (Path(dask_em.__file__).parent / "py.typed").is_file()


def test_readme_has_the_two_commands():
    readme = read("README.md")
    assert "pip install -e . && python examples/quickstart.py\n" in readme
    assert 'pip install -e ".[test]" && pytest\n' in readme


@pytest.mark.parametrize("name", public_names())
def test_public_name_is_documented(name):
    thing = getattr(dask_em, name)
    assert (thing.__doc__ or "").strip(), f"dask_em.{name} has no docstring"
    if not hasattr(thing, "__path__") and not hasattr(thing, "__spec__"):
        assert f"dask_em.{name}" in api_page()


@pytest.mark.parametrize("full_name", api_page())
def test_api_page_lists_what_exists(full_name):
    module, _, name = full_name.rpartition(".")
    assert (getattr(importlib.import_module(module), name).__doc__ or "").strip()
