"""A chart of the results: bars on a logarithmic scale, one group for each workload that has an alternative."""

import math
from xml.sax.saxutils import escape

from report import number

COLOURS = {"Hoistway": "#2563eb", "floor": "#9ca3af"}
OTHERS = ["#f59e0b", "#10b981", "#a855f7", "#ec4899"]
LEFT, WIDTH, BAR, GAP, TOP = 320, 860, 13, 14, 50


def svg(tables):
    shown = [t for t in tables if t.unit == "ms" and sum(bool(r.samples) and not r.floor for r in t.results) > 1
             and t.results[0].name == "Hoistway"]
    names = list(dict.fromkeys(r.name for t in shown for r in t.results if not r.floor and r.name != "Hoistway"))
    colours = {**COLOURS, **{name: OTHERS[at % len(OTHERS)] for at, name in enumerate(names)}}
    values = [r.median for t in shown for r in t.results if r.samples]
    low, high = (math.floor(math.log10(min(values, default=1))), math.ceil(math.log10(max(values, default=10))))
    room = WIDTH - LEFT - 70

    def x(value):
        return LEFT + room * (math.log10(value) - low) / max(1, high - low)

    parts, y = [], TOP
    for table in shown:
        results = [r for r in table.results if r.samples]
        middle = y + len(results) * BAR / 2 + 4
        parts.append(f'<text x="{LEFT - 10}" y="{middle:.0f}" text-anchor="end">{escape(table.title)}</text>')
        for result in results:
            name = "floor" if result.floor else result.name
            end = x(result.median)
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{max(1, end - LEFT):.1f}" height="{BAR - 2}" '
                         f'fill="{colours[name]}"><title>{escape(result.name)}</title></rect>')
            parts.append(f'<text x="{end + 4:.1f}" y="{y + BAR - 4}" class="small">{time(result.median)}</text>')
            y += BAR
        y += GAP
    grid = "".join(
        f'<line x1="{x(10 ** power):.1f}" x2="{x(10 ** power):.1f}" y1="{TOP - 6}" y2="{y - GAP}" class="grid"/>'
        f'<text x="{x(10 ** power):.1f}" y="{y + 4}" text-anchor="middle" class="small">{time(10 ** power)}</text>'
        for power in range(low, high + 1))
    legend, at = "", 10
    for name in ["Hoistway", *names, "floor"]:
        legend += f'<rect x="{at}" y="14" width="12" height="12" fill="{colours[name]}"/>' \
                  f'<text x="{at + 17}" y="24">{escape(name)}</text>'
        at += 40 + 7 * len(name)
    style = "text{font:12px system-ui,sans-serif;fill:#374151}.small{font-size:10px}.grid{stroke:#e5e7eb}"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 14}" role="img" '
            f'aria-label="Medians of times, on a logarithmic scale"><style>{style}</style>'
            f'<rect width="100%" height="100%" fill="#fff"/><text x="10" y="{y + 4}" class="small">'
            f'medians, less is better; logarithmic scale</text>{legend}{grid}{"".join(parts)}</svg>\n')


def time(milliseconds):
    return f"{number(milliseconds / 1000)} s" if milliseconds >= 1000 else f"{number(milliseconds)} ms"
