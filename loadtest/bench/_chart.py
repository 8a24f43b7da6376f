"""Draw a bar chart as an SVG file, whose colours follow the light or dark theme of its reader."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

_WIDTH, _LEFT, _RIGHT = 760, 150, 70
_BAR, _GAP, _TOP = 14, 10, 58
# Colours that differ for colour-blind readers too, and have contrast on white and on black.
_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .title { font-size: 14px; font-weight: 600 }
  .s0 { fill: #0969da } .s1 { fill: #d4700a } .s2 { fill: #7a5bc7 } .s3 { fill: #2f8f4e }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .s0 { fill: #58a6ff } .s1 { fill: #f0a04b } .s2 { fill: #b69cf2 } .s3 { fill: #56c27a }
  }
"""


def draw_bars(
    path: Path, title: str, bars: Mapping[str, Mapping[str, float]], *, stacked: bool = False
) -> None:
    """Draw groups of horizontal bars, each with its value.

    Args:
        path: the file to write.
        title: the title, with the unit.
        bars: group name to series name to value.
        stacked: whether the bars of a group stand behind each other, with their sum at the end.
    """
    names = list(next(iter(bars.values())))
    totals = [sum(each.values()) if stacked else max(each.values()) for each in bars.values()]
    scale = (_WIDTH - _LEFT - _RIGHT) / max(*totals, 1e-9)
    parts = [f'<text class="title" x="12" y="20">{escape(title)}</text>']
    parts += _legend(names) if len(names) > 1 else []
    y = _TOP if len(names) > 1 else _TOP - 20
    for group, values in bars.items():
        height = _BAR if stacked else _BAR * len(values)
        parts.append(_text(_LEFT - 8, y + height / 2, group, "end"))
        x = float(_LEFT)
        for number, value in enumerate(values.values()):
            width = value * scale
            top = y if stacked else y + number * _BAR
            parts.append(
                f'<rect class="s{number}" x="{x:.1f}" y="{top + 1}" width="{width:.1f}" '
                f'height="{_BAR - 2}"/>'
            )
            if stacked:
                x += width
            else:
                parts.append(_text(_LEFT + width + 5, top + _BAR / 2, _number(value)))
        if stacked:
            parts.append(_text(x + 5, y + _BAR / 2, _number(sum(values.values()))))
        y += height + _GAP
    body = "\n".join(parts)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" role="img" '
        f'width="{_WIDTH}" height="{y}">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n{body}\n</svg>\n"
    )


def _text(x: float, middle: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{middle + 4:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _legend(names: list[str]) -> list[str]:
    """Return the names of the series, each behind its colour."""
    parts, x = [], 12
    for number, name in enumerate(names):
        parts.append(f'<rect class="s{number}" x="{x}" y="32" width="12" height="12"/>')
        parts.append(_text(x + 17, 38, name))
        x += 40 + 7 * len(name)
    return parts
