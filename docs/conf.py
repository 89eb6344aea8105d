"""Sphinx configuration."""

import os

import dask_em

project = "dask_em"
author = "dask_em developers"
copyright = "2026, dask_em developers"
release = dask_em.__version__
version = ".".join(release.split(".")[:2])

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
default_role = "code"

# Links into other projects' pages need the network, so they are asked for.
if os.environ.get("DASK_EM_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "dask": ("https://docs.dask.org/en/stable/", None),
        "distributed": ("https://distributed.dask.org/en/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "python": ("https://docs.python.org/3/", None),
        "sklearn": ("https://scikit-learn.org/stable/", None),
        "xarray": ("https://docs.xarray.dev/en/stable/", None),
    }

autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {
    "members": True,
    # our own base classes are documented with their children, others' are not
    "inherited-members": ",".join(
        [
            "object",
            "ABC",
            "BaseEstimator",
            "BaseMixture",
            "ClassNamePrefixFeaturesOutMixin",
            "ClusterMixin",
            "DensityMixin",
            "Exception",
            "Generic",
            "Mapping",
            "Protocol",
            "RegressorMixin",
            "TransformerMixin",
            "_SetOutputMixin",
            "dict",
            "list",
            "tuple",
        ]
    ),
}
numpydoc_show_class_members = False
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "dask_em"
html_static_path = ["_static"]
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "show_prev_next": False,
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"**": []}


def skip_member(app, what, name, obj, skip, options):
    """Leave out what scikit-learn's metadata routing adds to every estimator."""
    if name == "get_metadata_routing" or (
        name.startswith("set_") and name.endswith("_request")
    ):
        return True
    return None


def setup(app):
    """Connect the above."""
    app.connect("autodoc-skip-member", skip_member)
