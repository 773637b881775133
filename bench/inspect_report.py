#!/usr/bin/env python3
"""Turns what quire-inspect --json wrote into one self-contained HTML page of pictures.

usage: inspect_report.py FILE.json PAGE.html
"""

import html
import io
import json
import sys
from pathlib import Path

SIDES = ("keys", "values")


class InputError(Exception):
    """One sentence for the user."""


def load(path):
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if not data["heads"] or not data["layers"]:
            raise InputError(f"{path} holds no heads; write it again with quire-inspect --json")
        for head in data["heads"]:
            for side in SIDES:
                for key in ("low", "high", "rms", "output_error"):
                    head[side][key]
        for layer in data["layers"]:
            layer["kld_keys"], layer["kld_values"]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give what quire-inspect --json wrote") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); write it again with quire-inspect --json") from error
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} lacks {error}; write it again with quire-inspect --json") from error
    return data


def names(data):
    return [f"{head['layer']}.{head['head']}" for head in data["heads"]]


def label_rows(axes, data):
    rows = names(data)
    step = max(1, len(rows) // 30)
    axes.set_yticks(range(0, len(rows), step), rows[::step], fontsize=7)
    axes.set_ylabel("layer.head")


def channels(axes, figure, data, side):
    """Largest magnitude of every channel, on a logarithmic scale: outlier channels stand out as columns."""
    from matplotlib.colors import LogNorm

    grid = [[max(abs(low), abs(high), 1e-6) for low, high in zip(head[side]["low"], head[side]["high"])]
            for head in data["heads"]]
    image = axes.imshow(grid, aspect="auto", interpolation="nearest", norm=LogNorm(), cmap="viridis")
    figure.colorbar(image, ax=axes)
    axes.set_xlabel("channel")
    axes.set_title(f"{side}: largest magnitude per channel", loc="left", fontsize=10)
    label_rows(axes, data)


def errors(axes, figure, data, side):
    codecs = list(data["heads"][0][side]["output_error"])
    grid = [[max(head[side]["output_error"][codec], 1e-9) for codec in codecs] for head in data["heads"]]
    from matplotlib.colors import LogNorm

    image = axes.imshow(grid, aspect="auto", interpolation="nearest", norm=LogNorm(), cmap="magma")
    figure.colorbar(image, ax=axes)
    axes.set_xticks(range(len(codecs)), codecs, rotation=60, fontsize=7)
    axes.set_title(f"{side}: relative error of the head's attention", loc="left", fontsize=10)
    label_rows(axes, data)


def divergence(axes, data):
    layers = range(len(data["layers"]))
    for offset, side, colour in ((-0.2, "keys", "#0072B2"), (0.2, "values", "#D55E00")):
        axes.bar([layer + offset for layer in layers], [entry[f"kld_{side}"] for entry in data["layers"]], width=0.4,
                 label=side, color=colour)
    axes.set_xlabel("layer")
    axes.set_title(f"mean KL divergence with that layer alone in {data['alone']}", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8)


def picture(data):
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "quire"  # the same file gives the same page
    from matplotlib import pyplot

    height = max(3.2, 0.09 * len(data["heads"]))
    figure, axes = pyplot.subplots(3, 2, figsize=(13, 2 * height + 3.2), height_ratios=[height, height, 3.2])
    for column, side in enumerate(SIDES):
        channels(axes[0][column], figure, data, side)
        errors(axes[1][column], figure, data, side)
    divergence(axes[2][0], data)
    axes[2][1].axis("off")
    figure.tight_layout()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg"):]


def page(data):
    model = html.escape(str(data["options"]["model"]))
    facts = html.escape(f"{data['window']} tokens, the end of {data['text']}")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Quire: inside {model}</title>
<style>body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1320px; margin: 2rem auto; padding: 0 1.2rem; }}
svg {{ width: 100%; height: auto; }}</style></head><body>
<h1>{model}: keys and values per layer and head</h1><p>{facts}. Keys after RoPE.</p>
{picture(data)}</body></html>
"""


def main(arguments):
    if len(arguments) != 2 or "--help" in arguments:
        print(__doc__, file=sys.stdout if "--help" in arguments else sys.stderr)
        return 0 if "--help" in arguments else 2
    try:
        Path(arguments[1]).write_text(page(load(arguments[0])), encoding="utf-8")
    except InputError as error:
        print(f"inspect_report.py: {error}", file=sys.stderr)
        return 2
    except ImportError:
        print("inspect_report.py: matplotlib is missing; install python3-matplotlib", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"inspect_report.py: {arguments[1]}: {error.strerror}; choose a folder that can be written", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
