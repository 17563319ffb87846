#include "cli/bench_moe_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "cli/bench_report.h"

namespace wideep::cli {
namespace {

using moe::kNumPhases;
using moe::LayerProfile;
using moe::Phase;
using moe::phase_name;

// The order of a layer, with waiting at its end.
constexpr std::array<Phase, kNumPhases> kColumns = {
    Phase::kBalancer, Phase::kRouter,  Phase::kCounts,  Phase::kSplit,
    Phase::kDispatch, Phase::kExperts, Phase::kCombine, Phase::kWait};

double median_us(const MoeBenchRow& row) {
  return distribution_of(row.result.us).p50;
}

double tokens_per_second(const MoeBenchRow& row) {
  return row.tokens / (median_us(row) * 1e-6);
}

// Of a phase over the ranks.
Distribution over_ranks(const MoeBenchRow& row, Phase phase) {
  std::vector<double> us;
  for (const LayerProfile::Times& times : row.result.phases) {
    us.push_back(times[static_cast<size_t>(phase)]);
  }
  return distribution_of(std::move(us));
}

std::string ratio_text(const std::optional<double>& ratio) {
  return ratio ? fmt::format("{:.3f}", *ratio) : "-";
}

std::string line_of(const MoeBenchRow& row, std::span<const MoeBenchRow> rows) {
  const Distribution us = distribution_of(row.result.us);
  std::string line =
      fmt::format("{:<20} {:>9.1f} {:>9.1f} |",
                  row.is_balanced ? row.name + ", balanced" : row.name, us.p50, us.p90);
  for (const Phase phase : kColumns) {
    line += fmt::format(" {:>8.1f}", over_ranks(row, phase).average);
  }
  return line + fmt::format(" | {:>9.4f} {:>9} {:>9} {:>9} {:>10.0f}\n", row.result.imbalance,
                            ratio_text(times_reference(row, rows, MoeReference::kBalanced)),
                            ratio_text(times_reference(row, rows, MoeReference::kInOrder)),
                            row.placement == "online"
                                ? std::to_string(row.result.transfers + row.result.late_transfers)
                                : "-",
                            tokens_per_second(row));
}

OrderedJson phases_json(const MoeBenchRow& row) {
  OrderedJson json = OrderedJson::object();
  for (const Phase phase : kColumns) {
    const Distribution us = over_ranks(row, phase);
    json[std::string(phase_name(phase))] = {
        {"mean", us.average}, {"minimum", us.minimum}, {"maximum", us.maximum}};
  }
  return json;
}

OrderedJson json_of(const std::optional<double>& value) {
  return value ? OrderedJson(*value) : OrderedJson(nullptr);
}

}  // namespace

std::optional<double> times_reference(const MoeBenchRow& row, std::span<const MoeBenchRow> rows,
                                      MoeReference reference) {
  const bool is_balanced = reference == MoeReference::kBalanced;
  const std::string backend = is_balanced ? row.backend : "WideEP";
  const auto found = std::ranges::find_if(rows, [&](const MoeBenchRow& other) {
    return other.tokens == row.tokens && other.backend == backend &&
           other.placement == "in_order" && other.is_balanced == is_balanced;
  });
  if (found == rows.end()) return std::nullopt;
  return median_us(row) / median_us(*found);
}

std::string moe_bench_text(std::span<const MoeBenchRow> rows) {
  std::vector<int> sizes;
  for (const MoeBenchRow& row : rows) {
    if (std::ranges::find(sizes, row.tokens) == sizes.end()) sizes.push_back(row.tokens);
  }
  std::string text;
  for (const int tokens : sizes) {
    text += fmt::format("\n{} tokens a rank, us a layer\n{:<20} {:>9} {:>9} |", tokens, "",
                        "median", "p90");
    for (const Phase phase : kColumns) text += fmt::format(" {:>8}", phase_name(phase));
    text += fmt::format(" | {:>9} {:>9} {:>9} {:>9} {:>10}\n", "imbalance", "/balanced",
                        "/in order", "transfers", "tokens/s");
    for (const MoeBenchRow& row : rows) {
      if (row.tokens == tokens) text += line_of(row, rows);
    }
  }
  return text +
         "\nmedian, p90: calls on the slowest rank; phases: mean over ranks of profiled calls, in "
         "which they meet\nbefore they exchange data; wait: for the slowest rank to come; "
         "imbalance: (max - mean) / mean of the rows\nof ranks; /balanced: times the median of the "
         "backend's perfectly balanced routing; /in order: times that of\nWideEP without spare "
         "slots; tokens/s: of a rank through one layer\n";
}

OrderedJson moe_bench_json(std::span<const MoeBenchRow> rows) {
  OrderedJson results = OrderedJson::array();
  for (const MoeBenchRow& row : rows) {
    const models::MoeBenchResult& result = row.result;
    results.push_back(
        {{"tokens_a_rank", row.tokens},
         {"backend", row.backend},
         {"placement", row.placement},
         {"replica_choice", row.replica_choice},
         {"num_slots", row.num_slots},
         {"routing", row.is_balanced ? "balanced" : "skew"},
         {"us", distribution_json(distribution_of(result.us))},
         {"phases_us", phases_json(row)},
         {"imbalance_ratio", result.imbalance},
         {"times_balanced", json_of(times_reference(row, rows, MoeReference::kBalanced))},
         {"times_in_order", json_of(times_reference(row, rows, MoeReference::kInOrder))},
         {"tokens_per_second_a_rank", tokens_per_second(row)},
         {"transfers_in_warmup", result.transfers},
         {"transfers_in_calls", result.late_transfers},
         {"difference_to_first", json_of(row.difference)}});
  }
  return results;
}

}  // namespace wideep::cli
