#!/usr/bin/env python3
"""Merges the rows of frontier runs, sets them against the goals, and draws them: one JSON file, one HTML page.

usage: frontier.py --out DIR PART.json...

A part is {"rows": [...]} as quire-ppl --frontier --json writes it, or a list of rows with the same keys: so peers' rows
come in. DIR/frontier.json is the list of all rows, DIR/frontier.html shows them.
"""

import argparse
import html
import io
import json
import sys
from pathlib import Path

KEYS = ("model", "text", "context", "codec", "k_codec", "v_codec", "peer", "effective_bits", "page_bits", "ppl",
        "ppl_ref", "kld_mean", "kld_p999", "same_top1", "page_tokens")
USUAL_PAGE = 64  # tokens; rows with other pages say so
REQUIRED = ("model", "context", "page_bits", "ppl", "ppl_ref", "kld_mean")
COLOURS = {"tcq": "#D55E00", "rot": "#0072B2", "calibrated": "#000000", "nuq": "#009E73", "int": "#E69F00"}
# Peers by how their names begin: the same in every plot.
PEER_STYLES = {"llama.cpp": ("#B5A27F", "<"), "KIVI": ("#777777", "x"), "TurboQuant + ": ("#C98F8F", "2"),
               "TurboQuant": ("#7FA8C9", "^"), "KVQuant-1% + ": ("#8FB59A", "1"), "KVQuant": ("#AA7FB5", "v"), "": ("#999999", "*")}
MOST_BITS = 7  # in plots: beyond them nothing differs
MISSING = "–"

# What a row of a model has to reach at a context: at most so many page bits, so much mean divergence, and, where there
# is one, so much more perplexity (a share).
GOALS = {
    ("SmolLM2", 2048): ((8.5, 0.0001, None), (4.3, 0.0045, 0.008), (3.8, 0.007, None), (3.3, 0.018, 0.025),
                        (2.8, 0.038, None), (2.3, 0.12, None)),
    ("qwen3-tiny", 2048): ((4.2, 0.0030, None), (3.2, 0.010, None), (2.7, 0.018, None), (2.2, 0.050, None)),
}


class InputError(Exception):
    """One sentence for the user."""


# ---- rows ----


def load(path):
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give files of quire-ppl --frontier --json") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); write it again with quire-ppl --frontier --json") from error
    rows = data.get("rows") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        raise InputError(f"{path} holds no rows; write it again with quire-ppl --frontier --json")
    for number, row in enumerate(rows):
        missing = [key for key in REQUIRED if not isinstance(row, dict) or row.get(key) is None]
        if missing:
            raise InputError(f"{path}: row {number} has no {', '.join(missing)}")
    # A run has one size of pages: it stands among its options.
    options = data.get("options", {}) if isinstance(data, dict) else {}
    return [{key: row.get(key, options.get(key)) for key in KEYS} for row in rows]


def pages(row):
    """" p128" for a row with pages of 128 tokens, nothing for the usual ones."""
    return "" if row["page_tokens"] in (None, USUAL_PAGE) else f" p{row['page_tokens']}"


def name(row):
    codecs = row["codec"] or f"{row['k_codec']}/{row['v_codec']}"
    return f"{row['peer']}: {codecs}" if row["peer"] else codecs + pages(row)


def increase(row):
    """Relative increase of perplexity."""
    return row["ppl"] / row["ppl_ref"] - 1


def goals_of(row):
    for (model, context), goals in GOALS.items():
        if row["model"].startswith(model) and row["context"] == context:
            return goals
    return ()


def meets(row, goal):
    bits, divergence, perplexity = goal
    within = row["page_bits"] <= bits and row["kld_mean"] <= divergence
    return within and (perplexity is None or increase(row) <= perplexity)


def goals_met(row):
    return [goal for goal in goals_of(row) if meets(row, goal)]


def goal_text(goal):
    bits, divergence, perplexity = goal
    return f"≤ {bits} bits: {divergence:g}" + ("" if perplexity is None else f", +{100 * perplexity:g} %")


def groups(rows):
    """{(model, context): rows by bits}"""
    found = {}
    for row in rows:
        found.setdefault((row["model"], row["context"]), []).append(row)
    return {key: sorted(found[key], key=lambda row: (row["page_bits"], row["kld_mean"])) for key in sorted(found)}


def on_frontier(rows):
    """Whether no other row has fewer bits and less divergence; one flag per row."""
    return [not any(other["page_bits"] <= row["page_bits"] and other["kld_mean"] < row["kld_mean"] for other in rows)
            for row in rows]


# ---- tables ----


def number(value, digits):
    return MISSING if value is None else f"{value:.{digits}f}"


COLUMNS = [
    ("codecs", name),
    ("page bits", lambda row: number(row["page_bits"], 2)),
    ("eff. bits", lambda row: number(row["effective_bits"], 2)),
    ("ppl", lambda row: number(row["ppl"], 3)),
    ("loss", lambda row: f"{100 * increase(row):+.2f} %"),
    ("mean KLD", lambda row: number(row["kld_mean"], 5)),
    ("99.9 % KLD", lambda row: number(row["kld_p999"], 3)),
    ("same top1", lambda row: number(row["same_top1"], 4)),
    ("goal met", lambda row: "; ".join(goal_text(goal) for goal in goals_met(row))),
]


def print_table(rows):
    lines = [[title for title, _ in COLUMNS]] + [[cell(row) for _, cell in COLUMNS] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    for line in lines:
        print("  ".join(cell.rjust(width) if i else cell.ljust(width)
                        for i, (cell, width) in enumerate(zip(line, widths))).rstrip())


def best_for(goal, rows):
    """Of the rows within a goal's bits the one with the least divergence; None without any."""
    within = [row for row in rows if row["page_bits"] <= goal[0] and not row["peer"]]
    return min(within, key=lambda row: row["kld_mean"], default=None)


def goal_lines(rows):
    """One line per goal of these rows' model and context: reached or by how much not."""
    for goal in goals_of(rows[0]):
        best = best_for(goal, rows)
        if best is None:
            yield goal_text(goal), MISSING, "no row has so few bits"
            continue
        said = f"{name(best)}: {best['page_bits']:.2f} bits, {best['kld_mean']:.5f}, {100 * increase(best):+.2f} %"
        yield goal_text(goal), "met" if any(meets(row, goal) for row in rows if not row["peer"]) else "NOT MET", said


FIGURES = (("mean KLD", lambda row: row["kld_mean"]), ("99.9 % KLD", lambda row: row["kld_p999"]),
           ("perplexity", increase))


def behind(ours, peer):
    """The figures in which a row of ours is not better than a peer's."""
    return [title for title, value in FIGURES
            if value(peer) is not None and (value(ours) is None or value(ours) >= value(peer))]


def nearest(rows, peer, key):
    """Of our rows with no more bits than the peer's, by `key`, one that is behind in the fewest figures; None without any."""
    within = [row for row in rows if not row["peer"] and None not in (row[key], peer[key]) and row[key] <= peer[key]]
    return min(within, key=lambda row: (len(behind(row, peer)), row["kld_mean"]), default=None)


def peer_lines(rows):
    """One line per peer's row: which row of no more page bits is better in every figure, or the nearest to it; and the same of
    effective bits, where what is not in pages yet counts."""
    for peer in (row for row in rows if row["peer"]):
        best, in_all = (nearest(rows, peer, key) for key in ("page_bits", "effective_bits"))
        if best is None:
            yield name(peer), "NOT AHEAD", "no row has so few bits"
            continue
        missing = behind(best, peer)
        said = f"{name(best)}: {best['page_bits']:.2f} bits for {peer['page_bits']:.2f}"
        if missing:
            said += "; not in " + ", ".join(missing)
        elif in_all is None or behind(in_all, peer):
            said += "; not in effective bits"
        else:
            said += f"; in effective bits {name(in_all)}: {in_all['effective_bits']:.2f} for {peer['effective_bits']:.2f}"
        yield name(peer), "NOT AHEAD" if missing else "ahead", said


def html_table(rows):
    head = "".join(f"<th>{html.escape(title)}</th>" for title, _ in COLUMNS)
    flags = on_frontier(rows)
    body = "".join(
        f"<tr class='{'peer' if row['peer'] else ''}{' best' if best else ''}'>"
        + "".join(f"<td>{html.escape(cell(row))}</td>" for _, cell in COLUMNS) + "</tr>\n"
        for row, best in zip(rows, flags))
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>\n"


def lines_table(lines, title):
    lines = list(lines)
    if not lines:
        return ""
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>\n" for line in lines)
    return (f"<div class=wide><table><thead><tr><th>{title}</th><th></th><th>best row</th></tr>"
            f"</thead><tbody>{body}</tbody></table></div>\n")


def verdicts(rows):
    return (lines_table(goal_lines(rows), "goal: mean KLD in page bits") +
            lines_table(peer_lines(rows), "peer: mean and 99.9 % KLD, perplexity"))


# ---- plots ----


def series(row):
    """What a row belongs to in a plot: a peer, or a family of codecs."""
    if row["peer"]:
        return row["peer"]
    codec = row["k_codec"] or row["codec"]
    return codec.rstrip("0123456789.").split("@")[0] + pages(row)


def style(peer, title):
    """How a line is drawn: peers pale and dotted; a family in its colour, other pages than the usual ones dashed."""
    if peer:
        colour, marker = next(found for start, found in PEER_STYLES.items() if title.startswith(start))
        return {"color": colour, "marker": marker, "linestyle": ":", "linewidth": 1.1}
    family, *other_pages = title.split()
    return {"color": COLOURS.get(family, "#CC79A7"), "marker": "s" if other_pages else "o",
            "linestyle": "--" if other_pages else "-", "linewidth": 1.4}


def draw(rows, value, label, log):
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "quire"  # the same rows give the same page
    from matplotlib import pyplot

    found = {}
    for row in rows:
        y = value(row)
        if y is not None and (y > 0 or not log) and row["effective_bits"] is not None and row["page_bits"] < MOST_BITS:
            found.setdefault((bool(row["peer"]), series(row)), []).append((row["effective_bits"], y))
    if not found:
        return ""
    figure, axes = pyplot.subplots(figsize=(6.2, 4.6))
    for (peer, title), points in sorted(found.items(), key=lambda item: (not item[0][0], item[0][1])):
        axes.plot(*zip(*sorted(points)), label=title, markersize=5, **style(peer, title))
    if log:
        axes.set_yscale("log")
    else:  # most rows are within one per cent, some peers far beyond
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.set_xlabel("effective bits per value, every byte counted")
    axes.set_title(label, loc="left", fontsize=11)
    axes.grid(True, color="#e6e6e6", linewidth=0.8)
    axes.legend(fontsize=7.5, frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.07))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg"):]


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1320px; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; } p.note { color: #555; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } .plots svg { width: 420px; max-width: 100%; height: auto; }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #e6e6e6; }
th:first-child, td:first-child { text-align: left; } th { border-bottom: 2px solid #bbb; }
tr.peer td { color: #777; font-style: italic; } tr.best td { font-weight: 600; }
"""


def page(rows):
    parts = []
    for (model, context), of_group in groups(rows).items():
        plots = "".join(draw(of_group, value, label, log) for value, label, log in (
            (lambda row: row["kld_mean"], "mean KL divergence, nats", True),
            (lambda row: row["kld_p999"], "99.9 % KL divergence, nats", True),
            (lambda row: 100 * increase(row), "perplexity increase, per cent (logarithmic beyond 1)", False)))
        parts.append(f"<h2>{html.escape(model)}, context {context}</h2>\n{verdicts(of_group)}"
                     f"<div class=plots>{plots}</div>\n{html_table(of_group)}")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Quire: quality per bit</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>
<h1>Quality per bit</h1>
<p class=note>Keys and values are quantized during the prefill; divergence is from the same run with bf16 pages. Bold rows:
none has fewer page bits and less divergence. Italic rows: peers.</p>
{''.join(parts)}</body></html>
"""


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="folder for frontier.json and frontier.html")
    parser.add_argument("parts", nargs="+", help="files with rows")
    options = parser.parse_args(arguments)
    try:
        rows = [row for part in options.parts for row in load(part)]
        if not rows:
            raise InputError("there are no rows; run quire-ppl --frontier first")
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "frontier.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        for (model, context), of_group in groups(rows).items():
            print(f"\n{model}, context {context}")
            print_table(of_group)
            for line in goal_lines(of_group):
                print("  goal " + "  ".join(line))
            for line in peer_lines(of_group):
                print("  peer " + "  ".join(line))
        (options.out / "frontier.html").write_text(page(rows), encoding="utf-8")
    except InputError as error:
        print(f"frontier.py: {error}", file=sys.stderr)
        return 2
    except ImportError:
        print("frontier.py: matplotlib is missing; install python3-matplotlib", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"frontier.py: {error.filename}: {error.strerror}; choose a folder that can be written", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
