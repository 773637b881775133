#!/usr/bin/env python3
"""Turns the rows that quire-micro wrote into one self-contained HTML page of pictures and tables."""

import html
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import report  # bench/report.py: style, tables, colours

REQUIRED = ("case", "k_codec", "v_codec", "key_space", "group", "n_q", "n_kv", "threads", "isa", "seconds",
            "bytes", "floor_seconds", "share", "error")


def load(path):
    """The rows of a file; raises report.InputError."""
    rows = report.read_json(path, "quire-micro")
    if not isinstance(rows, list) or not rows:
        raise report.InputError(f"{path} holds no rows; write it with quire-micro --json")
    for number, row in enumerate(rows):
        missing = [key for key in REQUIRED if not isinstance(row, dict) or key not in row]
        if missing:
            raise report.InputError(f"{path}: row {number} has no {', '.join(missing)}; write it with quire-micro")
    return rows


# ---- pictures: shares of the floor, a bar for each group and number of threads ----


def codecs(row):
    return report.pair(row) + (" pre_rope" if row["key_space"] == "pre_rope" else "")


def kind(row):
    """Rows of one picture."""
    queries = f", {row['n_q']} queries" if row["n_q"] > 1 else ""
    return row["case"] + queries, row["isa"]


def variant(row):
    """Bars of one colour."""
    group = f"G {row['group']}, " if row["group"] else ""
    return f"{group}{row['threads']} thread{'s' if row['threads'] > 1 else ''}"


def draw(rows, title):
    """Shares by codec as SVG text."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "quire"  # the same rows give the same page
    from matplotlib import pyplot

    names = list(dict.fromkeys(codecs(row) for row in rows))
    variants = list(dict.fromkeys(variant(row) for row in rows))
    width = 0.8 / len(variants)
    figure, axes = pyplot.subplots(figsize=(5.4, 3.4))
    for i, wanted in enumerate(variants):
        mine = [row for row in rows if variant(row) == wanted]
        at = [names.index(codecs(row)) - 0.4 + (i + 0.5) * width for row in mine]
        axes.bar(at, [row["share"] for row in mine], width * 0.92, label=wanted,
                 color=report.COLOURS[i % len(report.COLOURS)])
        for x, row in zip(at, mine):
            low, high = row.get("share_p25"), row.get("share_p75")
            if low is not None and high is not None:
                axes.plot([x, x], [low, high], color="#333333", linewidth=0.8)
    axes.axhline(1, color="#888888", linewidth=1, linestyle=":")
    axes.set_xticks(range(len(names)))
    axes.set_xticklabels(names, rotation=35, ha="right", fontsize=8)
    axes.set_ylim(0, max(1.05, 1.05 * max(row["share"] for row in rows)))
    axes.set_title(title, loc="left", fontsize=11)
    axes.legend(fontsize=7, frameon=False, ncol=2)
    axes.grid(True, axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg"):]


def pictures(rows):
    kinds = list(dict.fromkeys(kind(row) for row in rows if row["isa"] != "scalar"))
    return "".join(draw([row for row in rows if kind(row) == wanted], f"{wanted[0]}, {wanted[1]}: share of the floor")
                   for wanted in kinds)


# ---- tables ----


def milliseconds(key):
    return lambda row: report.number(None if row.get(key) is None else row[key] * 1e3, 3)


def plain(key, digits):
    return lambda row: report.number(row.get(key), digits)


def bound(row):
    return "dots" if (row.get("mac_seconds") or 0) > (row.get("read_seconds") or 0) else "read"


SUMMARY = [
    ("case", lambda row: row["case"]),
    ("K/V", codecs),
    ("isa", lambda row: row["isa"]),
    ("G", lambda row: report.raw(row["group"])),
    ("n_q", lambda row: report.raw(row["n_q"])),
    ("n_kv", lambda row: report.tokens(row["n_kv"])),
    ("threads", lambda row: report.raw(row["threads"])),
    ("ms", milliseconds("seconds")),
    ("p25 ms", milliseconds("seconds_p25")),
    ("p75 ms", milliseconds("seconds_p75")),
    ("GB/s", plain("gb_per_s", 2)),
    ("floor ms", milliseconds("floor_seconds")),
    ("bound", bound),
    ("share", plain("share", 3)),
    ("cpu share", plain("cpu_share", 3)),
    ("error", lambda row: report.MISSING if row["error"] is None else f"{row['error']:.1e}"),
]


def summary_table(rows):
    return report.table([heading for heading, _ in SUMMARY], [[show(row) for _, show in SUMMARY] for row in rows],
                        [False] * len(rows))


def full_table(rows):
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return report.table(keys, [[report.raw(row.get(key)) for key in keys] for row in rows], [False] * len(rows))


def page(rows):
    facts = (f"Quire {report.distinct(rows, 'version')} on {report.distinct(rows, 'cpu')}. The floor is a plain read "
             "of the same bytes, or the multiply-accumulates at the measured peak of their instruction, whichever "
             "takes longer. Medians of rounds in which case and floor take turns; lines are quartiles.")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Quire: kernels against their floor</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{report.STYLE}</style></head><body>
<h1>Kernels against their floor</h1>
<p class=note>{html.escape(facts)}</p>
<div class=plots>{pictures(rows)}</div>
<h2>Rows</h2>
{summary_table(rows)}
<details><summary>All keys of all rows, as measured</summary>
{full_table(rows)}</details>
</body></html>
"""


def main(arguments):
    return report.write_page(arguments, __doc__, "quire-micro", lambda path: page(load(path)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
