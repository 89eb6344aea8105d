"""Draw the pictures of the page on topologies, from its own code.

python docs/_static/make_plan_pictures.py
"""

import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from dask_em.plots.plan import plot_plan

HERE = Path(__file__).resolve().parent


def main() -> None:
    page = (HERE.parent / "topologies.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    (block,) = (code for code in blocks if "plans = " in code)
    names: dict = {}
    exec(block, names)
    plans = list(names["plans"].values())
    figure, axes = plt.subplots(2, 2, figsize=(9.5, 8), layout="constrained")
    for plan, ax in zip(plans, axes.flat, strict=True):
        plot_plan(plan, ax, beside=plans)
        ax.collections[-1].colorbar.remove()
    figure.colorbar(
        axes[0, 0].collections[-1],
        ax=axes,
        shrink=0.6,
        label="thousand numbers sent and received",
    )
    figure.savefig(HERE / "plan_topologies.png", dpi=100)


if __name__ == "__main__":
    main()
