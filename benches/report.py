"""The results as a table and as JSON."""

import json
import os
import platform


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 1 else f"{value:.2f}"


def text(tables):
    """A Markdown table, which is readable on a terminal too."""
    rows = [["workload", "", "median", "min … max", "n", "× Hoistway", "× floor"]]
    for table in tables:
        first, floor = table.results[0], next((r for r in table.results if r.floor), None)
        title = f"{table.title}, {table.unit}"
        for result in table.results:
            if result.missing or not result.samples:
                rows.append([title, result.name, f"not measured: {result.missing.splitlines()[0]}", "", "", "", ""])
            else:
                spread = f"{number(min(result.samples))} … {number(max(result.samples))}"
                ratios = [table.cost(result, other) for other in (first, floor)]
                if result is first:
                    ratios[0] = None
                if result is floor:
                    ratios[1] = None
                rows.append([title, result.name, number(result.median), spread, str(len(result.samples)),
                             *(number(ratio) if ratio else "" for ratio in ratios)])
            title = ""
    narrow = [row for row in rows if not row[2].startswith("not ")]
    widths = [max(2, *(len(row[column]) for row in (rows if column < 2 else narrow))) for column in range(7)]
    aligned = [[cell.ljust(width) if column < 2 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths))] for row in rows]
    rule = ["-" * width if column < 2 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [aligned[0], rule, *aligned[1:]])


def machine():
    """The facts that the figures depend on."""
    with open("/proc/cpuinfo") as file:
        models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) >> 20
    return {"processors": os.cpu_count(), "model": models[0] if models else platform.machine(), "memory_gib": memory,
            "kernel": platform.release(), "load": round(os.getloadavg()[0], 1)}


def to_json(tables, facts):
    return json.dumps({**facts, "tables": [table.to_json() for table in tables]}, indent=1, ensure_ascii=False) + "\n"
