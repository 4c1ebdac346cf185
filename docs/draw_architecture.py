"""Draw docs/architecture.png from the table of floors in docs/architecture.md: `python docs/draw_architecture.py`"""

import re
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

PAGE = Path(__file__).with_name("architecture.md")
INK, QUIET = "#222222", "#6B6B6B"
TITLES = {
    7: "commands",
    6: "studies",
    5: "launching",
    4: "composition",
    3: "training",
    2: "outside data",
    1: "mathematics, drawing, files",
    0: "vocabulary",
}
LIBRARIES = {
    6: "Optuna, Ray Tune",
    5: "Ray Train",
    3: "torch.distributed",
    2: "PyAV, torchaudio, MLflow",
    1: "torch, numpy",
}
LEFT, RIGHT = 28.0, 109.0
EDGE, ROUND = "#9AB0C8", "round,pad=0.02,rounding_size=0.3"
SHADES = ("#F3F6FA", "#E4ECF5")


def floors() -> dict[int, list[str]]:
    """Number of a floor -> its packages and modules."""
    rows = re.findall(r"^\| (\d) \| ([^|]*)\|", PAGE.read_text(encoding="utf-8"), re.M)
    return {int(number): re.findall(r"`([\w./]+)`", where) for number, where in rows}


def lines_of(names: list[str]) -> list[list[tuple[float, float, str]]]:
    """The boxes of a floor, line by line: left edge, width, name."""
    lines: list[list[tuple[float, float, str]]] = [[]]
    x = LEFT
    for name in names:
        width = 0.78 * len(name) + 1.3
        if x + width > RIGHT:
            lines.append([])
            x = LEFT
        lines[-1].append((x, width, name))
        x += width + 0.9
    return lines


def draw_floor(axes: Axes, number: int, names: list[str]) -> None:
    axes.add_patch(Rectangle((6, number + 0.04), 104, 0.92, facecolor=SHADES[number % 2]))
    axes.text(7, number + 0.5, TITLES[number], va="center", fontsize=9, color=QUIET)
    library = LIBRARIES.get(number, "")
    axes.text(RIGHT, number + 0.5, library, va="center", ha="right", fontsize=8.5, color=QUIET, style="italic")
    lines = lines_of(names)
    height = 0.44 if len(lines) == 1 else 0.3
    for row, boxes in enumerate(lines):
        middle = number + 0.5 + 0.42 * ((len(lines) - 1) / 2 - row)
        for x, width, name in boxes:
            style = "round,pad=0.02,rounding_size=0.3"
            corner = (x, middle - height / 2)
            axes.add_patch(
                FancyBboxPatch(corner, width, height, boxstyle=style, facecolor="white", edgecolor="#9AB0C8")
            )
            axes.text(
                x + width / 2, middle, name, ha="center", va="center", fontsize=7.8, color=INK, family="monospace"
            )


def main() -> None:
    figure = Figure(figsize=(11.2, 4.9), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, 112)
    axes.set_ylim(-0.2, 8.2)
    axes.axis("off")
    for number, names in floors().items():
        draw_floor(axes, number, names)
    arrow = FancyArrowPatch((3, 7.9), (3, 0.1), arrowstyle="-|>", mutation_scale=14, color=QUIET, linewidth=1.5)
    axes.add_patch(arrow)
    axes.text(1.6, 4.0, "imports", rotation=90, va="center", ha="center", fontsize=9, color=QUIET)
    figure.savefig(Path(__file__).with_name("architecture.png"))


if __name__ == "__main__":
    main()
