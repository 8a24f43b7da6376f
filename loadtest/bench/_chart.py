"""Draw a bar chart as an SVG file that is identical for identical numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def draw_bars(path: Path, title: str, bars: Mapping[str, Mapping[str, float]]) -> None:
    """Draw groups of bars, each bar with its value.

    Args:
        path: the file to write.
        title: the title, with the unit.
        bars: group name to series name to value.
    """
    # Imported here, because only charts need it (the extra `loadtest`).
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "ojs", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    series = list(next(iter(bars.values())))
    width = 0.8 / len(series)
    for number, name in enumerate(series):
        places = [group + width * (number - (len(series) - 1) / 2) for group in range(len(bars))]
        drawn = axes.bar(places, [values[name] for values in bars.values()], width, label=name)
        axes.bar_label(drawn, fmt="%.3g", padding=1, fontsize=8)
    axes.set_xticks(range(len(bars)), list(bars))
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
