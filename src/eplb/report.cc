#include "eplb/report.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace wideep::eplb {
namespace {

// One iteration's numbers of one layer.
LoadRow row_of(std::span<const double> tokens) {
  const auto count = static_cast<double>(tokens.size());
  LoadRow row;
  row.mean = std::accumulate(tokens.begin(), tokens.end(), 0.0) / count;
  double squares = 0;
  for (const double t : tokens) squares += (t - row.mean) * (t - row.mean);
  row.std = tokens.size() > 1 ? std::sqrt(squares / (count - 1)) : 0;
  const double max = *std::max_element(tokens.begin(), tokens.end());
  row.imbalance_ratio = row.mean > 0 ? (max - row.mean) / row.mean : 0;
  return row;
}

void add(LoadRow& sum, const LoadRow& row) {
  sum.mean += row.mean;
  sum.std += row.std;
  sum.imbalance_ratio += row.imbalance_ratio;
}

LoadRow divide(LoadRow row, double count) {
  row.mean /= count;
  row.std /= count;
  row.imbalance_ratio /= count;
  return row;
}

LoadView view_of(const PlaceLoads& loads, int num_slots) {
  return {
      .num_ranks = loads.num_ranks,
      .num_slots = num_slots,
      .num_places = loads.num_places,
      .table = load_table(loads),
      .tokens = average_tokens(loads),
  };
}

}  // namespace

LoadTable load_table(const PlaceLoads& loads) {
  CHECK(loads.num_iterations > 0 && loads.num_places > 0);
  LoadTable table;
  table.average.layer = -1;
  for (int l = 0; l < loads.num_layers(); ++l) {
    LoadRow sum{.layer = loads.layers[l]};
    for (int i = 0; i < loads.num_iterations; ++i) add(sum, row_of(loads.row(i, l)));
    table.rows.push_back(divide(sum, loads.num_iterations));
    add(table.average, table.rows.back());
  }
  if (!table.rows.empty()) {
    table.average = divide(table.average, static_cast<double>(table.rows.size()));
  }
  return table;
}

std::vector<double> average_tokens(const PlaceLoads& loads) {
  const size_t width = static_cast<size_t>(loads.num_layers()) * loads.num_places;
  std::vector<double> average(width, 0.0);
  for (size_t i = 0; i < loads.tokens.size(); ++i) average[i % width] += loads.tokens[i];
  for (double& tokens : average) tokens /= loads.num_iterations;
  return average;
}

Result<LoadReport> make_load_report(const Statistics& statistics, const ReportOptions& options) {
  LoadReport report{
      .num_experts = statistics.num_experts,
      .top_k = statistics.top_k,
      .iter_start = statistics.iter_start,
      .iter_stop = statistics.iter_stop,
      .per_expert = options.per_expert,
      .layers = statistics.layers,
  };
  const Place place = options.per_expert ? Place::kSlot : Place::kRank;
  const int ep_size = options.ep_size > 0 ? options.ep_size : statistics.num_ranks;
  const Statistics& as_recorded = options.slots != nullptr ? *options.slots : statistics;
  const int recorded_ranks = options.plan == nullptr ? ep_size : as_recorded.num_ranks;
  const Result<PlaceLoads> recorded = recorded_loads(as_recorded, recorded_ranks, place);
  if (recorded.is_ok()) {
    report.recorded = view_of(*recorded, as_recorded.num_experts);
  } else if (options.plan == nullptr) {
    return recorded.status();
  }
  if (options.plan == nullptr) return report;

  const Plan& plan = *options.plan;
  ASSIGN_OR_RETURN(const PlaceLoads even,
                   projected_loads(statistics, plan, ep_size, place, ReplicaSplit::kEven));
  report.projected = view_of(even, plan.num_slots);
  ASSIGN_OR_RETURN(const PlaceLoads best,
                   projected_loads(statistics, plan, ep_size, place, ReplicaSplit::kBest));
  report.best_split = view_of(best, plan.num_slots);
  return report;
}

}  // namespace wideep::eplb
