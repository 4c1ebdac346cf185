"""Draw docs/idea.png, the picture of Data Remixing in README.md: `python docs/draw_idea.py`"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

AUDIO, VIDEO, INK, QUIET, EMPTY = "#E69F00", "#0072B2", "#222222", "#6B6B6B", "#EEEEEE"
COLOURS = (AUDIO, VIDEO)
# Per clip, how far the prediction of each modality alone is from uniform, as a part of the maximum.
SCORES = np.array([[0.90, 0.35], [0.80, 0.25], [0.30, 0.70], [0.95, 0.50], [0.45, 0.85], [0.75, 0.20]])
TRAINS = SCORES.argmin(axis=1)  # the modality that knows the clip least


def clips(axes: Axes, x: float) -> None:
    for row in range(len(SCORES)):
        axes.text(x, row, f"clip {row + 1}", ha="right", va="center", color=INK, fontsize=9)


def cell(axes: Axes, x: float, row: float, colour: str) -> None:
    axes.add_patch(Rectangle((x, row - 0.36), 0.9, 0.72, facecolor=colour, edgecolor="white"))


def encoder(axes: Axes, x: float, y: float, name: str, colour: str) -> None:
    box = FancyBboxPatch((x, y - 0.42), 1.9, 0.84, boxstyle="round,pad=0.05", facecolor="white", edgecolor=colour)
    axes.add_patch(box)
    axes.text(x + 0.95, y, f"{name}\nencoder", ha="center", va="center", color=colour, fontsize=8.5, linespacing=0.95)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, width: float) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=colour, linewidth=width))


def joint(axes: Axes) -> None:
    axes.set_title("Joint training", loc="left", fontsize=11, fontweight="bold", color=INK)
    clips(axes, 0.9)
    for row in range(len(SCORES)):
        for m, colour in enumerate(COLOURS):
            cell(axes, 1.1 + m, row, colour)
    encoder(axes, 4.0, 1.2, "audio", AUDIO)
    encoder(axes, 4.0, 3.8, "video", VIDEO)
    arrow(axes, (3.1, 2.5), (3.95, 1.3), AUDIO, 4.0)
    arrow(axes, (3.1, 2.5), (3.95, 3.7), VIDEO, 0.8)
    axes.text(0.1, 6.05, "Every clip trains every encoder through one\nfused loss. The easier modality dominates it.",
              va="top", fontsize=8.5, color=QUIET)  # fmt: skip


def remix(axes: Axes) -> None:
    axes.set_title("Data Remixing, once per epoch", loc="left", fontsize=11, fontweight="bold", color=INK)
    clips(axes, 0.9)
    axes.text(1.1, -0.75, "1  score each modality alone", fontsize=8.5, color=QUIET, va="center")
    axes.text(5.0, -0.75, "2  assign the less certain one", fontsize=8.5, color=QUIET, va="center")
    axes.text(8.6, -0.75, "3  train in batches of one modality", fontsize=8.5, color=QUIET, va="center")
    for row, scores in enumerate(SCORES):
        for m, colour in enumerate(COLOURS):
            y = row - 0.2 + 0.4 * m
            axes.add_patch(Rectangle((1.1, y - 0.15), 3.2, 0.3, facecolor=EMPTY))
            axes.add_patch(Rectangle((1.1, y - 0.15), 3.2 * scores[m], 0.3, facecolor=colour))
            cell(axes, 5.3 + m, row, colour if TRAINS[row] == m else EMPTY)
    for m, (name, colour, y) in enumerate((("audio", AUDIO, 1.2), ("video", VIDEO, 3.8))):
        mine = np.flatnonzero(m == TRAINS)
        at = 8.6
        for position, row in enumerate(mine):
            axes.add_patch(Rectangle((at + 0.55 * position, y - 0.3), 0.5, 0.6, facecolor=colour, edgecolor="white"))
            axes.text(
                at + 0.55 * position + 0.25, y, str(row + 1), ha="center", va="center", color="white", fontsize=8.5
            )
        end = at + 0.55 * len(mine)
        arrow(axes, (end + 0.1, y), (11.45, y), colour, 2.2)
        encoder(axes, 11.5, y, name, colour)
    axes.text(0.1, 6.05, "Each clip trains only the modality that finds it hard. Inference is unchanged.",
              va="top", fontsize=8.5, color=QUIET)  # fmt: skip


def main() -> None:
    figure = Figure(figsize=(11.2, 3.3), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[6.2, 13.6])
    for axes, right_end, draw in ((left, 6.2, joint), (right, 13.6, remix)):
        axes.set_xlim(0, right_end)
        axes.set_ylim(6.9, -1.2)
        axes.axis("off")
        draw(axes)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.9, bottom=0.01, wspace=0.03)
    figure.savefig(Path(__file__).with_name("idea.png"))


if __name__ == "__main__":
    main()
