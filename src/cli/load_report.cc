#include "cli/load_report.h"

#include <utility>
#include <vector>

#include "cli/report_flags.h"
#include "cli/text_table.h"

namespace wideep::cli {
namespace {

using eplb::LoadReport;
using eplb::LoadRow;
using eplb::LoadView;

OrderedJson row_json(const LoadRow& row) {
  return {{"mean", row.mean}, {"std", row.std}, {"imbalance_ratio", row.imbalance_ratio}};
}

}  // namespace

std::string load_table_text(const LoadReport& report) {
  TextColumn mean{"mean", {}};
  TextColumn std{"std", {}};
  TextColumn ratio{"imbalance-ratio", {}};
  const auto add = [&](const LoadRow& row) {
    mean.values.push_back(row.mean);
    std.values.push_back(row.std);
    ratio.values.push_back(row.imbalance_ratio);
  };
  const eplb::LoadTable& table = report.main().table;
  for (const LoadRow& row : table.rows) add(row);
  add(table.average);
  return text_table(row_labels(report.layers), {mean, std, ratio});
}

OrderedJson load_view_json(const LoadView& view) {
  OrderedJson layers = OrderedJson::array();
  for (const LoadRow& row : view.table.rows) {
    OrderedJson layer = {{"layer", row.layer}};
    layer.update(row_json(row));
    const auto tokens = view.row(static_cast<int>(layers.size()));
    layer["tokens"] = std::vector<double>(tokens.begin(), tokens.end());
    layers.push_back(std::move(layer));
  }
  return {{"ep_size", view.num_ranks},
          {"num_slots", view.num_slots},
          {"average", row_json(view.table.average)},
          {"layers", std::move(layers)}};
}

}  // namespace wideep::cli
