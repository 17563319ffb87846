#include "cli/report_html.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <vector>

#include "base/json.h"
#include "base/text.h"
#include "cli/report_page.h"

namespace wideep::cli {
namespace {

using eplb::LoadReport;
using eplb::LoadRow;
using eplb::LoadView;

// A view with what the page calls it. key is its colour's name in the style sheet.
struct NamedView {
  std::string_view key;
  std::string_view name;
  const LoadView* view;
};

std::vector<NamedView> named_views(const LoadReport& report) {
  std::vector<NamedView> views;
  if (report.recorded) {
    views.push_back({"recorded", report.projected ? "Before" : "Recorded", &*report.recorded});
  }
  if (report.projected) views.push_back({"projected", "After", &*report.projected});
  if (report.best_split) views.push_back({"best", "After, best split", &*report.best_split});
  return views;
}

std::string_view unit_of(const LoadReport& report, const NamedView& named) {
  if (!report.per_expert) return "rank";
  return named.key == "recorded" ? "expert" : "slot";
}

// Tokens to five digits: charts show no more, and the page stays small.
double round_tokens(double tokens) {
  if (tokens == 0) return 0;
  const double unit = std::pow(10.0, std::floor(std::log10(tokens)) - 4);
  return unit >= 1 ? std::round(tokens / unit) * unit
                   : std::round(tokens / unit) / std::round(1 / unit);
}

// {layers: [id], views: [{key, name, title, unit, places, mean: [layer], ratio: [layer],
// tokens: [layer * places + place]}]}, safe inside a script element.
std::string data_json(const LoadReport& report, const std::vector<NamedView>& views) {
  OrderedJson data = {{"layers", report.layers}, {"views", OrderedJson::array()}};
  for (const NamedView& named : views) {
    const std::string_view unit = unit_of(report, named);
    std::vector<double> mean;
    std::vector<double> ratio;
    for (const LoadRow& row : named.view->table.rows) {
      mean.push_back(row.mean);
      ratio.push_back(std::round(row.imbalance_ratio * 1e6) / 1e6);
    }
    std::vector<double> tokens;
    // The best split's places are not drawn, only its ratios.
    if (named.key != "best") {
      std::transform(named.view->tokens.begin(), named.view->tokens.end(),
                     std::back_inserter(tokens), round_tokens);
    }
    data["views"].push_back(
        {{"key", named.key},
         {"name", named.name},
         {"title", fmt::format("{}: {} {}s", named.name, named.view->num_places, unit)},
         {"unit", unit},
         {"places", named.view->num_places},
         {"mean", std::move(mean)},
         {"ratio", std::move(ratio)},
         {"tokens", std::move(tokens)}});
  }
  const std::string text = data.dump();
  std::string safe;
  for (const char c : text) safe += c == '<' ? std::string("\\u003c") : std::string(1, c);
  return safe;
}

std::string ratio_text(double ratio) {
  return ratio >= 0.01 || ratio == 0 ? fmt::format("{:.3f}", ratio) : fmt::format("{:.4f}", ratio);
}

// "before -> after" in the colours of the views, for what `text` makes of each drawn view.
template <typename Text>
std::string before_after(const std::vector<NamedView>& views, const Text& text) {
  std::string html;
  for (const NamedView& named : views) {
    if (named.key == "best") continue;
    if (!html.empty()) html += R"(<span class="arrow">&rarr;</span>)";
    html += fmt::format(R"(<span class="{}">{}</span>)", named.key, text(*named.view));
  }
  return html;
}

std::string summary_card(std::string_view title, const std::string& value,
                         const std::string& note) {
  return fmt::format("<div class=\"card\"><h2>{}</h2><p class=\"value\">{}</p><p>{}</p></div>\n",
                     title, value, note);
}

const LoadRow& worst_row(const LoadView& view) {
  return *std::max_element(
      view.table.rows.begin(), view.table.rows.end(),
      [](const LoadRow& a, const LoadRow& b) { return a.imbalance_ratio < b.imbalance_ratio; });
}

// Mean over max of the places' tokens, averaged over layers.
double busy_share(const LoadView& view) {
  double sum = 0;
  for (const LoadRow& row : view.table.rows) sum += 1 / (1 + row.imbalance_ratio);
  return sum / static_cast<double>(view.table.rows.size());
}

std::string summary(const LoadReport& report, const std::vector<NamedView>& views) {
  const std::string_view place = report.per_expert ? "expert or slot" : "rank";
  const std::string best = report.best_split
                               ? fmt::format(
                                     " With each iteration split as well as the plan allows: "
                                     "<span class=\"best\">{}</span>.",
                                     ratio_text(report.best_split->table.average.imbalance_ratio))
                               : "";
  std::string worst_note;
  for (const NamedView& named : views) {
    if (named.key == "best") continue;
    if (!worst_note.empty()) worst_note += ", ";
    worst_note += fmt::format("layer {} {}", worst_row(*named.view).layer, to_lower(named.name));
  }
  std::string html = "<section class=\"summary\" aria-label=\"Summary\">\n";
  html += summary_card(
      "Average imbalance ratio",
      before_after(views,
                   [](const LoadView& v) { return ratio_text(v.table.average.imbalance_ratio); }),
      fmt::format("What the fullest {} gets over the mean, as a share of the mean; average of the "
                  "layers. 0 is perfect.{}",
                  place, best));
  html += summary_card(
      "Most uneven layer",
      before_after(views,
                   [](const LoadView& v) { return ratio_text(worst_row(v).imbalance_ratio); }),
      fmt::format("Largest imbalance ratio: {}.", worst_note));
  html += summary_card(
      "Busy share",
      before_after(views,
                   [](const LoadView& v) { return fmt::format("{:.0f} %", 100 * busy_share(v)); }),
      fmt::format("Mean over fullest {0}: how much of the time of the experts an average {0} works "
                  "while the fullest one does.",
                  place));
  html += summary_card(
      "Ranks &times; slots",
      before_after(views,
                   [](const LoadView& v) {
                     return fmt::format("{} &times; {}", v.num_ranks, v.num_slots / v.num_ranks);
                   }),
      report.projected
          ? fmt::format("{} experts in {} slots, {} of them redundant.", report.num_experts,
                        report.projected->num_slots,
                        report.projected->num_slots - report.num_experts)
          : fmt::format("{} experts or slots, in contiguous blocks.", report.num_experts));
  return html + "</section>\n";
}

std::string header(const LoadReport& report, const ReportSource& source) {
  std::string facts;
  const auto fact = [&](std::string_view name, const std::string& value) {
    facts += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>", name, value);
  };
  fact("Statistics", escape_html(source.statistics));
  if (!source.plan.empty()) fact("Plan", escape_html(source.plan));
  fact("MoE layers", fmt::format("{}", report.layers.size()));
  fact("Iterations", fmt::format("{} ({} to {})", report.iter_stop - report.iter_start,
                                 report.iter_start, report.iter_stop - 1));
  if (report.top_k > 0) fact("Experts a token", fmt::format("{}", report.top_k));
  return fmt::format("<header><h1>Expert load</h1><dl class=\"facts\">{}</dl></header>\n", facts);
}

std::string legend(const std::vector<NamedView>& views, bool with_best) {
  std::string html;
  for (const NamedView& named : views) {
    if (named.key == "best" && !with_best) continue;
    html += fmt::format(R"(<span><i class="{}"></i>{}</span>)", named.key, named.name);
  }
  return html;
}

std::string charts(const LoadReport& report, const std::vector<NamedView>& views) {
  const std::string_view places = report.per_expert ? "experts or slots" : "ranks";
  return fmt::format(
      R"(<section class="card"><div class="head"><div><h2>Imbalance ratio of each layer</h2>
<p class="note">(max &minus; mean) / mean of the tokens of {0}, taken at each iteration, then
averaged. At 1 the fullest gets twice the mean, and the others wait for it.</p></div>
<div class="switch" id="axis" role="group" aria-label="Axis">
<button type="button" value="linear" aria-pressed="true">Linear</button>
<button type="button" value="log" aria-pressed="false">Logarithmic</button></div></div>
<div class="legend">{1}</div>
<div id="ratios"></div></section>
<section class="card"><div class="head"><div><h2>Where the tokens go</h2>
<p class="note">Tokens of each of the {0} over the mean of its layer, averaged over the
iterations. An even load is one flat colour.</p></div><div class="scale" id="scale"></div></div>
<div class="heats" id="heat"></div></section>
<section class="card"><div class="head"><div><h2>Loads of each layer</h2>
<p class="note">One bar for each of the {0}, averaged over the iterations; the dashed line is the
mean. The scale is the same in all layers and ends at <span id="limit"></span> &times; mean; a gap
marks a bar that was cut. The number is the imbalance ratio: it counts the peaks of single
iterations, which the bars average out.</p></div>
<div class="switch" id="order" role="group" aria-label="Order">
<button type="button" value="layer" aria-pressed="true">By layer</button>
<button type="button" value="ratio" aria-pressed="false">Most uneven first</button></div></div>
<div class="legend">{2}</div>
<div class="multiples" id="layers"></div></section>
)",
      places, legend(views, true), legend(views, false));
}

// The cells of one row; layer_index -1: the averages.
std::string table_cells(const std::vector<NamedView>& views, int layer_index) {
  std::string html;
  for (const NamedView& named : views) {
    const eplb::LoadTable& table = named.view->table;
    const LoadRow& row = layer_index < 0 ? table.average : table.rows[layer_index];
    if (named.key != "best") html += fmt::format("<td>{:.1f}</td>", row.mean);
    html += fmt::format("<td>{:.2f}</td><td>{}</td>", row.std, ratio_text(row.imbalance_ratio));
  }
  return html;
}

std::string table(const LoadReport& report, const std::vector<NamedView>& views) {
  std::string groups;
  std::string names;
  for (const NamedView& named : views) {
    const bool is_best = named.key == "best";
    groups += fmt::format(R"(<th colspan="{}" scope="colgroup" class="{}">{}</th>)",
                          is_best ? 2 : 3, named.key, named.name);
    if (!is_best) names += "<th scope=\"col\">mean</th>";
    names += "<th scope=\"col\">std</th><th scope=\"col\">imbalance ratio</th>";
  }
  std::string rows;
  for (size_t i = 0; i < report.layers.size(); ++i) {
    rows += fmt::format("<tr><th scope=\"row\">{}</th>{}</tr>\n", report.layers[i],
                        table_cells(views, static_cast<int>(i)));
  }
  return fmt::format(
      R"(<section class="card"><div class="head"><div><h2>Numbers</h2>
<p class="note">mean: tokens of a {0}, an iteration. std: sample standard deviation of the {0}s
(divided by n &minus; 1). Each is taken at every iteration, then averaged; the last row is the plain
mean of the layers.</p></div></div>
<div class="scroll" tabindex="0"><table>
<thead><tr><th></th>{1}</tr><tr><th scope="col">layer</th>{2}</tr></thead>
<tbody>
{3}</tbody><tfoot><tr><th scope="row">average</th>{4}</tr></tfoot></table></div></section>
)",
      report.per_expert ? "slot" : "rank", groups, names, rows, table_cells(views, -1));
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::string load_report_html(const LoadReport& report, const ReportSource& source) {
  CHECK(!report.layers.empty());
  const std::vector<NamedView> views = named_views(report);
  // The policy makes "needs nothing else" a promise that the browser keeps.
  return fmt::format(
      R"(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Expert load: {}</title>
<style>{}</style>
</head>
<body>
<main>
{}{}{}{}<footer>wideep eplb report</footer>
</main>
<div id="tip" role="status"></div>
<noscript><p>The charts need JavaScript; the summary and the table do not.</p></noscript>
<script type="application/json" id="data">{}</script>
<script>{}</script>
</body>
</html>
)",
      escape_html(source.statistics), kReportStyle, header(report, source), summary(report, views),
      charts(report, views), table(report, views), data_json(report, views), kReportScript);
}

}  // namespace wideep::cli
