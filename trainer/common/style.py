"""How every plot and picture looks: colours and matplotlib's settings."""

from __future__ import annotations

BLUE, ORANGE, GREEN, GREY, RED = "#2563a8", "#d9700f", "#2f8f5b", "#6b7280", "#b5342d"
STYLE = {
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
}
