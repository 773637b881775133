#!/usr/bin/env python3
"""Turns the rows that quire-scale wrote into one self-contained HTML page of plots and tables.

The input is {"options": {...}, "rows": [{...}, ...]}, or the list of rows alone. A row is one run: one context
length with one codec pair. Values that a run did not measure are null or left out. Rows whose keys and values
were generated instead of prefilled ("synthetic": true) are drawn hollow and dashed and marked in the tables.
"""

import argparse
import html
import io
import json
import sys

MISSING = "–"
REQUIRED = ("context", "k_codec", "v_codec")
# Told apart by colour-blind readers, too (Okabe and Ito's palette, without its yellow).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


class InputError(Exception):
    """One sentence for the user."""


# ---- rows ----


def read_json(path, writer):
    """What a program wrote with --json; raises InputError."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give the file that {writer} --json wrote") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); write it again with {writer} --json") from error


def load(path):
    """(rows, options) of a file; raises InputError."""
    data = read_json(path, "quire-scale")
    rows, options = (data, {}) if isinstance(data, list) else (None, {})
    if isinstance(data, dict):
        rows, options = data.get("rows"), data.get("options", {})
    if not isinstance(rows, list) or not rows or not isinstance(options, dict):
        raise InputError(f"{path} holds no rows; write it with quire-scale --json")
    for number, row in enumerate(rows):
        missing = [key for key in REQUIRED if not isinstance(row, dict) or row.get(key) is None]
        if missing:
            raise InputError(f"{path}: row {number} has no {', '.join(missing)}; write it again with quire-scale")
        if not isinstance(row["context"], int) or row["context"] <= 0:
            raise InputError(f"{path}: row {number}: context is {row['context']!r}; it counts tokens, 1 or more")
    return rows, options


def pair(row):
    return f"{row['k_codec']}/{row['v_codec']}"


def kv_bytes(row):
    parts = [row.get(f"kv_bytes_{tier}") for tier in ("device", "host", "nvme")]
    return None if all(part is None for part in parts) else sum(part or 0 for part in parts)


def ppl_change(row):
    """Per cent by which perplexity is above that of the bf16 run."""
    if not row.get("ppl") or not row.get("ppl_ref"):
        return None
    return 100.0 * (row["ppl"] / row["ppl_ref"] - 1.0)


def field(key):
    return lambda row: row.get(key)


# ---- plots ----


def tokens(count):
    for unit, name in ((1 << 20, "M"), (1 << 10, "k")):
        if count >= unit and count % unit == 0:
            return f"{count // unit}{name}"
    return f"{count:,}"


def about(count):
    """A context length, short enough for an axis: 982k for 1,005,755."""
    if count < 1 << 10:
        return f"{count:.0f}"
    return f"{count / 2**10:.0f}k" if count < 1 << 20 else f"{count / 2**20:.3g}M"


def curves(rows, value):
    """{(pair, synthetic): [(context, value)]} in the order of the rows, points by context."""
    found = {}
    for row in rows:
        point = value(row)
        if point is not None:
            found.setdefault((pair(row), bool(row.get("synthetic"))), []).append((row["context"], point))
    return {key: sorted(points) for key, points in found.items()}


def draw(rows, colours, value, label, log=False, scale=1.0, line=None):
    """One plot against context length as SVG text; None when no row has the value."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "quire"  # the same rows give the same page
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullLocator

    found = curves(rows, value)
    if log:
        found = {key: [p for p in points if p[1] > 0] for key, points in found.items()}
    found = {key: points for key, points in found.items() if points}
    if not found:
        return None
    figure, axes = pyplot.subplots(figsize=(5.4, 3.4))
    for (name, synthetic), points in found.items():
        axes.plot([x for x, _ in points], [y * scale for _, y in points], color=colours[name], marker="o",
                  markersize=5, linewidth=1.8, linestyle="--" if synthetic else "-",
                  markerfacecolor="white" if synthetic else colours[name])
    if line is not None:
        axes.axhline(line[0] * scale, color="#888888", linewidth=1, linestyle=":")
        axes.annotate(line[1], (0.99, line[0] * scale), xycoords=("axes fraction", "data"), fontsize=8,
                      color="#666666", ha="right", va="bottom", xytext=(0, 2), textcoords="offset points")
    axes.set_xscale("log", base=2)
    contexts = sorted({x for points in found.values() for x, _ in points})
    axes.set_xticks(contexts)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: about(x)))
    if log:
        axes.set_yscale("log")
    else:
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0), high * 1.05 if high > 0 else 1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.6g}"))
    axes.set_xlabel("context, tokens")
    axes.set_title(label, loc="left", fontsize=11)
    axes.grid(True, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg"):]


def plots(rows, options, colours):
    """[(section, [svg, ...])]; a section without any measured value is left out."""
    budget = options.get("host_budget")
    line = (budget, f"host budget, {budget / 2**20:,.0f} MiB") if isinstance(budget, (int, float)) else None
    sections = [
        ("Memory", [
            draw(rows, colours, kv_bytes, "cache held in all tiers, MiB", log=True, scale=2.0**-20, line=line),
            draw(rows, colours, field("effective_bits"), "effective bits per value, every byte counted"),
        ]),
        ("Speed", [
            draw(rows, colours, field("decode_tok_s"), "decode, tokens per second"),
            draw(rows, colours, field("prefill_tok_s"), "prefill, tokens per second"),
        ]),
        ("Quality, against the same run with bf16 pages", [
            draw(rows, colours, ppl_change, "perplexity above bf16, per cent"),
            draw(rows, colours, field("kld_mean"), "mean KL divergence, nats", log=True),
        ]),
    ]
    found = [(name, [svg for svg in drawn if svg]) for name, drawn in sections]
    return [(name, drawn) for name, drawn in found if drawn]


# ---- tables ----


def number(value, digits=2):
    if value is None:
        return MISSING
    return f"{value:,.{digits}f}"


def mib(value):
    return number(None if value is None else value / 2**20, 1)


def needles(row):
    planted = row.get("needles")
    return f"{row.get('needles_found') or 0} of {planted}" if planted else MISSING


SUMMARY = [
    ("context", lambda row: tokens(row["context"])),
    ("K/V", pair),
    ("page bits", lambda row: number(row.get("page_bits"))),
    ("effective bits", lambda row: number(row.get("effective_bits"))),
    ("host MiB", lambda row: mib(row.get("kv_bytes_host"))),
    ("NVMe MiB", lambda row: mib(row.get("kv_bytes_nvme"))),
    ("prefill tok/s", lambda row: number(row.get("prefill_tok_s"), 0)),
    ("decode tok/s", lambda row: number(row.get("decode_tok_s"), 1)),
    ("p50 ms", lambda row: number(row.get("p50_ms"))),
    ("p99 ms", lambda row: number(row.get("p99_ms"))),
    ("perplexity", lambda row: number(row.get("ppl"), 3)),
    ("against bf16", lambda row: MISSING if ppl_change(row) is None else f"{ppl_change(row):+.2f} %"),
    ("mean KLD", lambda row: MISSING if row.get("kld_mean") is None else f"{row['kld_mean']:.5f}"),
    ("same top-1", lambda row: MISSING if row.get("same_top1") is None else f"{100 * row['same_top1']:.2f} %"),
    ("needles", needles),
]
SELECTION = [
    ("pages chosen by", lambda row: row.get("selection") or MISSING),
    ("prompt", lambda row: row.get("sparse_prefill") or MISSING),
    ("attended", lambda row: MISSING if row.get("attended") is None else f"{100 * row['attended']:.2f} %"),
    ("mass missed", lambda row: MISSING if row.get("missed_mass") is None else f"{100 * row['missed_mass']:.2f} %"),
    ("select s", lambda row: number(row.get("seconds_select"), 1)),
    ("attend s", lambda row: number(row.get("seconds_attend"), 1)),
    ("encode s", lambda row: number(row.get("seconds_encode"), 1)),
    ("I/O s", lambda row: number(row.get("seconds_io"), 1)),
    ("I/O waited s", lambda row: number(row.get("seconds_io_wait"), 1)),
]


def table(headings, lines, marks):
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    body = "".join(
        f"<tr{' class=synthetic' if synthetic else ''}>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in line)
        + "</tr>\n"
        for line, synthetic in zip(lines, marks)
    )
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>\n"


def summary_table(rows):
    # What only runs that select pages have, and where their time goes.
    selective = any(row.get("selection", "none") != "none" or row.get("sparse_prefill", "none") != "none" for row in rows)
    columns = SUMMARY + SELECTION if selective else SUMMARY

    def line(row):
        cells = [show(row) for _, show in columns]
        return [cells[0] + " synthetic", *cells[1:]] if row.get("synthetic") else cells

    marks = [bool(row.get("synthetic")) for row in rows]
    return table([heading for heading, _ in columns], [line(row) for row in rows], marks)


def raw(value):
    if value is None:
        return MISSING
    return value if isinstance(value, str) else json.dumps(value)


def full_table(rows):
    """Every key of every row as it stands in the file; one column per row, because there are many keys."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    headings = ["", *(f"{tokens(row['context'])} {pair(row)}" for row in rows)]
    return table(headings, [[key, *(raw(row.get(key)) for row in rows)] for key in keys], [False] * len(keys))


# ---- page ----

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 1180px;
       margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; }
p.note { color: #555; margin-top: 0; }
.legend span { display: inline-block; margin-right: 1.4rem; }
.legend i { display: inline-block; width: 1.6rem; border-top: 3px solid; vertical-align: middle;
            margin-right: .4rem; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; }
.plots svg { width: 560px; max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #e6e6e6; }
th { border-bottom: 2px solid #bbb; font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
tr.synthetic td { color: #777; font-style: italic; }
summary { cursor: pointer; margin: .6rem 0; }
"""


def distinct(rows, key):
    return ", ".join(dict.fromkeys(str(row[key]) for row in rows if row.get(key) is not None)) or "unknown"


def legend(rows, colours):
    entries = [f"<span><i style='border-color:{colour}'></i>{html.escape(name)}</span>"
               for name, colour in colours.items()]
    if any(row.get("synthetic") for row in rows):
        entries.append("<span><i style='border-top:2px dashed #666'></i>synthetic: generated keys and values, "
                       "not prefilled</span>")
    return f"<p class=legend>{''.join(entries)}</p>"


def page(rows, options):
    names = list(dict.fromkeys(pair(row) for row in rows))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    model = distinct(rows, "model")
    facts = (f"Quire {distinct(rows, 'version')}, {distinct(rows, 'isa')} kernels, {distinct(rows, 'threads')} "
             f"threads, seed {distinct(rows, 'seed')}.")
    sections = "".join(
        f"<h2>{html.escape(name)}</h2>\n<div class=plots>{''.join(drawn)}</div>\n"
        for name, drawn in plots(rows, options, colours)
    )
    shown_options = ""
    if options:
        shown_options = "<details><summary>Options of the run</summary>\n" + table(
            ["option", "value"], [[key, raw(value)] for key, value in options.items()], [False] * len(options)
        ) + "</details>\n"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Quire: {html.escape(model)} against context length</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>
<h1>{html.escape(model)}: the cache against context length</h1>
<p class=note>{html.escape(facts)} Perplexity and divergence are over the last tokens of the text.</p>
{summary_table(rows)}
{legend(rows, colours)}
{sections}
<h2>Every number</h2>
<details open><summary>All keys of all rows, as measured</summary>
{full_table(rows)}</details>
{shown_options}</body></html>
"""


def write_page(arguments, description, writer, make_page):
    """All of a report program: the page make_page(FILE), or one sentence and exit code 2."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows_json", help=f"what {writer} --json wrote")
    parser.add_argument("page_html", help="the page to write")
    options = parser.parse_args(arguments)
    try:
        text = make_page(options.rows_json)
        with open(options.page_html, "w", encoding="utf-8") as file:
            file.write(text)
        return 0
    except InputError as error:
        sentence = str(error)
    except ImportError:
        sentence = "matplotlib is missing; install python3-matplotlib"
    except OSError as error:
        sentence = f"{options.page_html}: {error.strerror}; choose a folder that can be written"
    print(f"{parser.prog}: {sentence}", file=sys.stderr)
    return 2


def main(arguments):
    return write_page(arguments, __doc__, "quire-scale", lambda path: page(*load(path)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
