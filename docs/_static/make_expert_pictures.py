"""Draw the pictures of the page on mixtures of experts, from its own code.

python docs/_static/make_expert_pictures.py
"""

import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
PICTURES = {
    "plot_experts(": "experts_lines.png",
    "plot_gate(": "experts_gate.png",
    "plot_reduction(": "experts_reduction.png",
}


def main() -> None:
    page = (HERE.parent / "mixtures_of_experts.md").read_text(encoding="utf-8")
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(block, names)
        drawn = [name for call, name in PICTURES.items() if f"\n{call}" in block]
        for name, number in zip(drawn, plt.get_fignums(), strict=True):
            figure = plt.figure(number)
            figure.set_size_inches(6, 4)
            figure.savefig(HERE / name, dpi=100)
        plt.close("all")


if __name__ == "__main__":
    main()
