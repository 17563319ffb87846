#include "cli/balancer_history.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace wideep::cli {
namespace {

constexpr double kMegabyte = 1e6;

double mean_of(std::span<const moe::LayerReport> layers, double moe::LayerReport::*ratio) {
  double sum = 0;
  for (const moe::LayerReport& layer : layers) sum += layer.*ratio;
  return sum / static_cast<double>(layers.size());
}

}  // namespace

void BalancerHistory::add(const engine::IterationInfo& info) {
  if (info.balancer == nullptr) return;
  iterations_.push_back({info.number, info.all_tokens, *info.balancer});
}

std::vector<BalancerHistory::LayerSummary> BalancerHistory::layers() const {
  std::map<int, LayerSummary> layers;
  std::map<int, int64_t> counts;
  for (const Iteration& iteration : iterations_) {
    for (const moe::LayerReport& load : iteration.report.layers) {
      LayerSummary& layer = layers[load.layer];
      ++counts[load.layer];
      layer.mean += load.imbalance;
      layer.worst = std::max(layer.worst, load.imbalance);
      layer.in_order += load.unbalanced;
    }
    for (const moe::LayerTurn& turn : iteration.report.turns) {
      if (turn.update.moved) layers[turn.layer].transfers += turn.update.transfers;
    }
  }
  std::vector<LayerSummary> summaries;
  for (auto& [number, layer] : layers) {
    const auto count = static_cast<double>(std::max<int64_t>(1, counts[number]));
    layer.layer = number;
    layer.mean /= count;
    layer.in_order /= count;
    summaries.push_back(layer);
  }
  return summaries;
}

BalancerHistory::Totals BalancerHistory::totals() const {
  Totals totals;
  for (const Iteration& iteration : iterations_) {
    const moe::IterationReport& report = iteration.report;
    totals.transfers += report.migration.transfers;
    totals.bytes += report.migration.bytes;
    totals.commits += report.migration.commits;
    totals.planner_seconds += report.planner_seconds;
    totals.wait_seconds += report.wait_seconds;
    for (const moe::LayerTurn& turn : report.turns)
      ++(turn.update.moved ? totals.moved : totals.kept);
  }
  return totals;
}

OrderedJson BalancerHistory::json() const {
  CHECK(!iterations_.empty());
  const std::vector<LayerSummary> layers = this->layers();
  const Totals totals = this->totals();
  const auto column = [this](const auto& value) {
    OrderedJson values = OrderedJson::array();
    for (const Iteration& iteration : iterations_) values.push_back(value(iteration));
    return values;
  };
  // [layers][iterations]; null where a layer had no tokens.
  const auto matrix = [&](double moe::LayerReport::*ratio) {
    OrderedJson rows = OrderedJson::array();
    for (const LayerSummary& layer : layers) {
      rows.push_back(column([&](const Iteration& iteration) {
        const auto& loads = iteration.report.layers;
        const auto load = std::ranges::find(loads, layer.layer, &moe::LayerReport::layer);
        return load == loads.end() ? OrderedJson() : OrderedJson((*load).*ratio);
      }));
    }
    return rows;
  };
  const moe::IterationReport& last = iterations_.back().report;
  OrderedJson json = {{"ranks", last.num_ranks}, {"slots", last.num_slots}};
  json["layers"] = OrderedJson::array();
  json["summary"] = OrderedJson::array();
  for (const LayerSummary& layer : layers) {
    json["layers"].push_back(layer.layer);
    json["summary"].push_back({{"layer", layer.layer},
                               {"imbalance_ratio", layer.mean},
                               {"worst_imbalance_ratio", layer.worst},
                               {"imbalance_ratio_in_order", layer.in_order},
                               {"transfers", layer.transfers}});
  }
  json["totals"] = {
      {"transfers", totals.transfers},      {"transfer_bytes", totals.bytes},
      {"commits", totals.commits},          {"plans_moved", totals.moved},
      {"plans_kept", totals.kept},          {"planner_seconds", totals.planner_seconds},
      {"wait_seconds", totals.wait_seconds}};
  OrderedJson& iterations = json["iterations"];
  iterations["number"] = column([](const Iteration& i) { return i.number; });
  iterations["tokens"] = column([](const Iteration& i) { return i.tokens; });
  iterations["transfers"] = column([](const Iteration& i) { return i.report.migration.transfers; });
  iterations["transfer_bytes"] =
      column([](const Iteration& i) { return i.report.migration.bytes; });
  iterations["commits"] = column([](const Iteration& i) { return i.report.migration.commits; });
  iterations["planner_seconds"] =
      column([](const Iteration& i) { return i.report.planner_seconds; });
  iterations["wait_seconds"] = column([](const Iteration& i) { return i.report.wait_seconds; });
  iterations["imbalance_ratio"] = matrix(&moe::LayerReport::imbalance);
  iterations["imbalance_ratio_in_order"] = matrix(&moe::LayerReport::unbalanced);
  json["updates"] = OrderedJson::array();
  for (const Iteration& iteration : iterations_) {
    for (const moe::LayerTurn& turn : iteration.report.turns) {
      if (!turn.update.moved) continue;
      json["updates"].push_back({{"iteration", iteration.number},
                                 {"layer", turn.layer},
                                 {"imbalance_ratio_before", turn.update.before - 1},
                                 {"imbalance_ratio_after", turn.update.after - 1},
                                 {"transfers", turn.update.transfers}});
    }
  }
  return json;
}

std::string BalancerHistory::text() const {
  CHECK(!iterations_.empty());
  const moe::IterationReport& last = iterations_.back().report;
  std::string text = fmt::format(
      "imbalance ratio of {} ranks with {} slots, over {} iterations\n"
      "{:<10}{:>10}{:>10}{:>10}{:>11}\n",
      last.num_ranks, last.num_slots, iterations_.size(), "layer", "mean", "worst", "in order",
      "transfers");
  const auto line = [&text](const std::string& name, const LayerSummary& layer) {
    text += fmt::format("{:<10}{:>10.4f}{:>10.4f}{:>10.4f}{:>11}\n", name, layer.mean, layer.worst,
                        layer.in_order, layer.transfers);
  };
  LayerSummary average;
  const std::vector<LayerSummary> layers = this->layers();
  for (const LayerSummary& layer : layers) {
    line(fmt::format("{}", layer.layer), layer);
    const auto share = 1 / static_cast<double>(layers.size());
    average.mean += share * layer.mean;
    average.worst = std::max(average.worst, layer.worst);
    average.in_order += share * layer.in_order;
    average.transfers += layer.transfers;
  }
  line("average", average);
  const Totals totals = this->totals();
  if (totals.moved + totals.kept == 0) return text;
  return text + fmt::format(
                    "{} plans: {} moved experts, {} kept them; {} transfers ({:.1f} MB), {} "
                    "commits; planner {:.3f} s beside the model, which waited {:.3f} s\n",
                    totals.moved + totals.kept, totals.moved, totals.kept, totals.transfers,
                    static_cast<double>(totals.bytes) / kMegabyte, totals.commits,
                    totals.planner_seconds, totals.wait_seconds);
}

std::string iteration_line(const engine::IterationInfo& info) {
  std::string line =
      fmt::format("iteration {}: {} sequences, {} tokens, {} waiting, {} pages free", info.number,
                  info.num_sequences, info.num_tokens, info.num_waiting, info.num_free_pages);
  if (info.balancer == nullptr || info.balancer->layers.empty()) return line;
  const moe::IterationReport& report = *info.balancer;
  const auto worst = std::ranges::max_element(report.layers, {}, &moe::LayerReport::imbalance);
  line += fmt::format(
      "; {} tokens of all ranks, imbalance {:.4f} (layer {}: {:.4f}), in order {:.4f}",
      info.all_tokens, mean_of(report.layers, &moe::LayerReport::imbalance), worst->layer,
      worst->imbalance, mean_of(report.layers, &moe::LayerReport::unbalanced));
  for (const moe::LayerTurn& turn : report.turns) {
    if (!turn.update.moved) continue;
    line += fmt::format("; layer {}: {:.4f} -> {:.4f} planned, {} transfers", turn.layer,
                        turn.update.before - 1, turn.update.after - 1, turn.update.transfers);
  }
  if (report.migration.transfers > 0 || report.migration.commits > 0) {
    line += fmt::format("; {} experts sent, {} layers committed", report.migration.transfers,
                        report.migration.commits);
  }
  return line;
}

}  // namespace wideep::cli
