#!/usr/bin/env python3
"""The last page and the last lines of the demo: three runs of the same traffic, from their reports.

usage: tools/demo_page.py FOLDER

FOLDER has the --report_json of `wideep bench throughput` as none.json, offline.json and online.json,
and the two halves of the traffic as before_shift.jsonl and after_shift.jsonl. Writes page.html (needs nothing else)
and summary.json, and prints the table.
"""

import html
import itertools
import json
import pathlib
import sys

RUNS = [  # file, name, colour's name in the style sheet
    ("none", "no balancer: experts in order", "none"),
    ("offline", "offline plan of the first languages", "offline"),
    ("online", "online balancer", "online"),
]

STYLE = """
:root { color-scheme: light dark; --ground: #f5f6f8; --card: #fff; --ink: #151a21; --muted: #5a6473;
  --line: #dfe4ea; --grid: #e8ecf1; --none: #bf4f00; --offline: #0a66ad; --online: #00805e; }
@media (prefers-color-scheme: dark) { :root { --ground: #0d1117; --card: #161b22; --ink: #e7ebf1;
  --muted: #9aa5b4; --line: #2a313c; --grid: #242b35; --none: #f0954f; --offline: #5eb0ee; --online: #35c796; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 48px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.01em; }
h2 { font-size: 16px; margin: 0 0 4px; }
p { margin: 0 0 8px; color: var(--muted); max-width: 92ch; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px; margin-top: 16px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 8px 0; }
.legend i { display: inline-block; width: 18px; height: 3px; border-radius: 2px; margin-right: 6px;
  vertical-align: middle; background: currentColor; }
.legend span { color: var(--muted); }
.none { color: var(--none); } .offline { color: var(--offline); } .online { color: var(--online); }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 12px; fill: var(--muted); }
svg .phase { font-weight: 600; fill: var(--ink); }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--grid); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.scroll { overflow-x: auto; }
"""


def mean(values):
    values = [value for value in values if value is not None]
    return sum(values) / len(values) if values else 0.0


class Run:
    """One report: imbalance of each iteration, averaged over the layers, over the tokens so far."""

    def __init__(self, folder, file, name, colour):
        report = json.loads((folder / f"{file}.json").read_text())
        self.name, self.colour, self.report = name, colour, report
        self.balancer = report["balancer"]
        iterations = self.balancer["iterations"]
        tokens = iterations["tokens"]
        # The last iterations, when the requests run out, have too few tokens to be compared.
        end = max(i + 1 for i, count in enumerate(tokens) if count >= max(tokens) / 2)
        columns = list(zip(*iterations["imbalance_ratio"]))[:end]  # [iterations][layers]
        self.imbalance = [mean(column) for column in columns]
        self.transfers = iterations["transfers"][:end]
        self.done = list(itertools.accumulate(tokens[:end]))

    def part(self, begin, end):
        """Imbalance averaged over the iterations that end between two numbers of tokens."""
        return mean(y for x, y in zip(self.done, self.imbalance) if begin < x <= end)


def smooth(values, width=5):
    """Each value with those before it, so that nothing shows before it happens."""
    return [mean(values[max(0, i + 1 - width):i + 1]) for i in range(len(values))]


def nice_step(top, count):
    raw = top / count
    power = 10.0 ** len(str(int(raw))) / 10 if raw >= 1 else 1.0
    while power > raw:
        power /= 10
    return next(f * power for f in (1, 2, 5, 10) if f * power >= raw * 0.999)


class Chart:
    """An SVG with axes: x in tokens, y from 0."""

    WIDTH, LEFT, RIGHT, TOP, BOTTOM = 1040, 52, 12, 28, 44

    def __init__(self, height, x_max, y_max, label):
        self.height, self.x_max = height, x_max
        step = nice_step(y_max, 5)
        count = int(y_max / step + 0.999)
        self.y_max = count * step
        digits = 0 if step >= 1 else len(f"{step:.10f}".rstrip("0").split(".")[1])
        self.parts = [f'<svg viewBox="0 0 {self.WIDTH} {height}" role="img" aria-label="{label}">']
        for i in range(count + 1):
            y = self.y(i * step)
            self.parts.append(
                f'<line x1="{self.LEFT}" x2="{self.WIDTH - self.RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
                f'stroke="var(--grid)"/><text x="{self.LEFT - 8}" y="{y + 4:.1f}" '
                f'text-anchor="end">{i * step:.{digits}f}</text>')
        step = nice_step(x_max, 8)
        for i in range(int(x_max / step) + 1):
            self.parts.append(f'<text x="{self.x(i * step):.1f}" y="{height - 24}" '
                              f'text-anchor="middle">{i * step / 1000:g}k</text>')
        self.parts.append(f'<text x="{self.WIDTH / 2}" y="{height - 6}" text-anchor="middle">'
                          "tokens that went through the model</text>")

    def x(self, value):
        return self.LEFT + value / self.x_max * (self.WIDTH - self.LEFT - self.RIGHT)

    def y(self, value):
        bottom = self.height - self.BOTTOM
        return bottom - value / self.y_max * (bottom - self.TOP)

    def line(self, xs, ys, colour, width, opacity):
        points = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(xs, ys))
        self.parts.append(f'<polyline points="{points}" fill="none" stroke="var(--{colour})" '
                          f'stroke-width="{width}" stroke-opacity="{opacity}" stroke-linejoin="round"/>')

    def bars(self, xs, ys, colour):
        left = 0
        for x, y in zip(xs, ys):
            if y:
                top, bottom = self.y(y), self.y(0)
                width = max(1, self.x(x) - self.x(left) - 1)
                self.parts.append(f'<rect x="{self.x(left):.1f}" y="{top:.1f}" width="{width:.1f}" '
                                  f'height="{bottom - top:.1f}" fill="var(--{colour})"/>')
            left = x

    def phases(self, shift, before, after):
        x = self.x(shift)
        self.parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{self.TOP - 18}" y2="{self.height - self.BOTTOM}" '
                          'stroke="var(--muted)" stroke-dasharray="4 4"/>')
        for place, anchor, text in [(x - 8, "end", before), (x + 8, "start", after)]:
            self.parts.append(f'<text class="phase" x="{place:.1f}" y="{self.TOP - 8}" '
                              f'text-anchor="{anchor}">{text}</text>')

    def svg(self):
        return "\n".join(self.parts) + "\n</svg>"


def tokens_of(path):
    """Tokens of a data set that go through the model: the last token of an answer does not."""
    total = 0
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        total += len(entry["input_ids"]) + entry["output_tokens"] - 1
    return total


def rows_of(runs, shift, end):
    """A dict for each row of the table."""
    rows = []
    for run in runs:
        totals = run.balancer["totals"]
        rows.append({
            "name": run.name, "ranks": run.balancer["ranks"], "slots": run.balancer["slots"],
            # Both halves without their first part, where the online balancer is still learning; the
            # first one also without its end, where requests of the second half are let in already.
            "before_shift": run.part(0.4 * shift, 0.8 * shift),
            "at_shift": run.part(shift, shift + 0.4 * (end - shift)),
            "after_shift": run.part(shift + 0.4 * (end - shift), end),
            "transfers": totals["transfers"], "transfer_megabytes": totals["transfer_bytes"] / 1e6,
            "planner_seconds": totals["planner_seconds"], "wait_seconds": totals["wait_seconds"],
            "seconds": run.report["results"]["seconds"],
            "tokens_per_second": run.report["results"]["total_tokens_per_second"],
        })
    return rows


COLUMNS = [  # words, key, format
    ("ranks", "ranks", "d"), ("slots", "slots", "d"), ("before", "before_shift", ".4f"),
    ("at shift", "at_shift", ".4f"), ("after", "after_shift", ".4f"), ("transfers", "transfers", "d"),
    ("MB", "transfer_megabytes", ".1f"), ("planner s", "planner_seconds", ".2f"),
    ("waited s", "wait_seconds", ".2f"),
]


def print_table(rows):
    print(f"  {'imbalance ratio of the ranks':<36}" + "".join(f"{words:>10}" for words, _, _ in COLUMNS))
    for row in rows:
        print(f"  {row['name']:<36}" + "".join(f"{format(row[key], style):>10}" for _, key, style in COLUMNS))


def page(runs, rows, shift, end):
    peak = max(max(smooth(run.imbalance)) for run in runs)
    chart = Chart(420, end, peak, "Imbalance ratio over the tokens")
    for run in runs:
        chart.line(run.done, [min(y, chart.y_max) for y in run.imbalance], run.colour, 1, 0.35)
        chart.line(run.done, smooth(run.imbalance), run.colour, 2.5, 1)
    chart.phases(shift, "German and Russian", "Chinese and Python code")
    online = runs[-1]
    moves = Chart(200, end, max(1, *online.transfers), "Experts moved in each iteration")
    moves.bars(online.done, online.transfers, "online")
    moves.phases(shift, "", "")
    legend = "".join(f'<div class="{run.colour}"><i></i><span>{html.escape(run.name)}, '
                     f'{run.balancer["ranks"]} ranks, {run.balancer["slots"]} slots</span></div>' for run in runs)
    head = "".join(f"<th>{words}</th>" for words, _, _ in COLUMNS)
    body = "".join(
        f"<tr><td>{html.escape(row['name'])}</td>"
        + "".join(f"<td>{format(row[key], style)}</td>" for _, key, style in COLUMNS) + "</tr>\n"
        for row in rows)
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Expert load while the traffic changes</title><style>{STYLE}</style></head>
<body><main>
<h1>Expert load while the traffic changes</h1>
<p>Three runs of <code>wideep bench throughput</code> on models/dsv3-tiny over the same
{end:,} tokens of requests, which change their languages in the middle.</p>
<section class="card"><h2>Imbalance ratio of the ranks</h2>
<p>(max &minus; mean) / mean of the tokens of ranks, of each iteration, averaged over the layers: how much longer the
fullest rank works than the average one. Thin: each iteration; thick: the mean of the last five. The last
iterations, when the requests run out, are left out.</p>
<div class="legend">{legend}</div>
{chart.svg()}</section>
<section class="card"><h2>Experts that the online balancer moved</h2>
<p>Sent from rank to rank in each iteration, while the model runs.</p>
{moves.svg()}</section>
<section class="card"><h2>Numbers</h2>
<p>Imbalance ratio before the languages change (from 0.4 to 0.8 of the first half of the traffic), at the shift (the first
0.4 of the second half) and after it (the rest). planner: time of the planner's thread; waited: time that iterations spent on the balancer.</p>
<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead><tbody>
{body}</tbody></table></div></section>
</main></body></html>
"""


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    runs = [Run(folder, *run) for run in RUNS]
    shift = tokens_of(folder / "before_shift.jsonl")
    end = max(run.done[-1] for run in runs)
    rows = rows_of(runs, shift, end)
    (folder / "page.html").write_text(page(runs, rows, shift, end), encoding="utf-8")
    first = runs[0].report
    summary = {"benchmark": "demo", "command": "make demo", "machine": first["machine"], "versions": first["versions"],
               "model": first["model"], "tokens": end, "tokens_before_shift": shift, "runs": rows}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print()
    print_table(rows)
    print("""
  (max - mean) / mean of the tokens of ranks, averaged over iterations and layers: how much longer the fullest
  rank works than the average one, which is what every layer waits for. before: German and Russian; at shift
  and after: Chinese and Python code, for which the offline plan was not made.""")
    print(f"\nThe page with the plot: {folder}/page.html")


if __name__ == "__main__":
    main()
