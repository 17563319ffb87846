#include "cli/watch_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/text.h"
#include "engine/metric_names.h"

namespace wideep::cli {
namespace {

namespace metric = engine::metric;

constexpr int kBarWidth = 24;

// Larger numbers than any job counts to are cut; NaN is 0.
int64_t to_count(double value) {
  return value > 0 ? static_cast<int64_t>(std::min(value, 9e18)) : 0;
}

// Finds the values of metrics.
class Values {
 public:
  Values(std::span<const MetricFamily> families, const std::string& name)
      : families_(families), name_(name) {}

  // 0 where there is none.
  double sum(std::string_view metric) const {
    const MetricFamily* family = find_family(families_, metric);
    double sum = 0;
    if (family == nullptr) return sum;
    for (const MetricSample& sample : family->samples) sum += sample.value;
    return sum;
  }
  int64_t count(std::string_view metric) const { return to_count(sum(metric)); }
  int64_t count(std::string_view metric, const MetricLabels& labels) const {
    const MetricFamily* family = find_family(families_, metric);
    if (family == nullptr) return 0;
    const auto found = std::ranges::find(family->samples, labels, &MetricSample::labels);
    return found == family->samples.end() ? 0 : to_count(found->value);
  }
  Status require(std::string_view metric) const {
    if (find_family(families_, metric) != nullptr) return Status::ok();
    return Status::invalid_input(fmt::format(
        "{}: {} is missing: this is not the metrics file of a wideep job", name_, metric));
  }

  // The values of a metric with the label layer, by its number.
  Result<std::map<int, double>> layers(std::string_view metric) const {
    std::map<int, double> values;
    const MetricFamily* family = find_family(families_, metric);
    if (family == nullptr) return values;
    for (const MetricSample& sample : family->samples) {
      const auto label =
          std::ranges::find(sample.labels, "layer", &MetricLabels::value_type::first);
      const auto layer = label == sample.labels.end() ? std::nullopt : parse_int(label->second);
      if (!layer || *layer < 0 || *layer > 1'000'000) {
        return Status::invalid_input(
            fmt::format("{}: {}: needs a label layer with the layer's number", name_, metric));
      }
      values[static_cast<int>(*layer)] = sample.value;
    }
    return values;
  }

 private:
  std::span<const MetricFamily> families_;
  const std::string& name_;
};

Status read_layers(const Values& values, WatchedJob& job) {
  ASSIGN_OR_RETURN(const auto now, values.layers(metric::kImbalance));
  ASSIGN_OR_RETURN(auto average, values.layers(metric::kImbalanceAverage));
  ASSIGN_OR_RETURN(auto transfers, values.layers(metric::kTransfers));
  ASSIGN_OR_RETURN(const auto in_order, values.layers(metric::kImbalanceInOrder));
  ASSIGN_OR_RETURN(const auto before, values.layers(metric::kBefore));
  ASSIGN_OR_RETURN(const auto after, values.layers(metric::kAfter));
  const auto optional_of = [](const std::map<int, double>& of_layers, int layer) {
    const auto found = of_layers.find(layer);
    return found == of_layers.end() ? std::nullopt : std::optional(found->second);
  };
  for (const auto& [layer, value] : now) {
    job.layers.push_back({.layer = layer,
                          .now = value,
                          .average = average[layer],
                          .in_order = optional_of(in_order, layer),
                          .before = optional_of(before, layer),
                          .after = optional_of(after, layer),
                          .transfers = to_count(transfers[layer])});
  }
  return Status::ok();
}

// 1,234,567
std::string grouped(int64_t number) {
  const std::string digits = fmt::format("{}", number);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::string bytes_text(int64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (value >= 1e9) return fmt::format("{:.2f} GB", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.1f} MB", value / 1e6);
  return fmt::format("{:.1f} kB", value / 1e3);
}

std::string ratio_text(std::optional<double> ratio) {
  return ratio ? fmt::format("{:.4f}", *ratio) : "-";
}

std::string state_text(const WatchedJob& job, const WatchedText& options) {
  switch (job_state(job, options.now, options.patience)) {
    case JobState::kEnded:
      return "ended";
    case JobState::kSilent:
      return fmt::format("SILENT for {:.0f} s: the job is gone or stopped",
                         options.now - job.heartbeat);
    case JobState::kStuck:
      return fmt::format("STUCK: no iteration for {:.0f} s", options.now - job.last_iteration);
    case JobState::kRunning:
      break;
  }
  return "running";
}

// `now` filled, and up to `in_order` what the balancer saves; `full` is the bar's whole width.
std::string bar_text(const WatchedLayer& layer, double full) {
  const auto cells = [full](double ratio) {
    const double share = full > 0 && std::isfinite(ratio) ? std::clamp(ratio / full, 0.0, 1.0) : 0;
    return static_cast<int>(std::lround(share * kBarWidth));
  };
  const int filled = cells(layer.now);
  const int saved = std::max(filled, cells(layer.in_order.value_or(0)));
  std::string bar;
  for (int i = 0; i < saved; ++i) bar += i < filled ? "█" : "░";
  return bar;
}

std::string layer_line(const std::string& name, const WatchedLayer& layer,
                       const std::string& transfers, const std::string& bar) {
  const std::string update =
      layer.before && layer.after
          ? fmt::format("{} -> {}", ratio_text(layer.before), ratio_text(layer.after))
          : "-";
  std::string line = fmt::format("{:<10}{:>10.4f}{:>10.4f}{:>10}{:>20}{:>11}  {}", name, layer.now,
                                 layer.average, ratio_text(layer.in_order), update, transfers, bar);
  line.resize(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

// Unweighted means over the layers; of the update none.
WatchedLayer mean_layer(const WatchedJob& job) {
  WatchedLayer mean;
  double in_order = 0;
  bool all_in_order = true;
  for (const WatchedLayer& layer : job.layers) {
    mean.now += layer.now;
    mean.average += layer.average;
    in_order += layer.in_order.value_or(0);
    all_in_order = all_in_order && layer.in_order.has_value();
  }
  const auto count = static_cast<double>(job.layers.size());
  mean.now /= count;
  mean.average /= count;
  if (all_in_order) mean.in_order = in_order / count;
  return mean;
}

// The layers to show, ascending: the most uneven ones where there are too many.
std::vector<WatchedLayer> shown_layers(const WatchedJob& job, int max_layers) {
  std::vector<WatchedLayer> layers = job.layers;
  const auto count = static_cast<size_t>(max_layers);
  if (max_layers == 0 || layers.size() <= count) return layers;
  std::ranges::stable_sort(layers, std::ranges::greater{}, &WatchedLayer::now);
  layers.resize(count);
  std::ranges::sort(layers, {}, &WatchedLayer::layer);
  return layers;
}

std::string layers_text(const WatchedJob& job, int max_layers) {
  const WatchedLayer mean = mean_layer(job);
  double full = 0;
  for (const WatchedLayer& layer : job.layers) {
    full = std::max({full, layer.now, layer.in_order.value_or(0)});
  }
  std::string text = fmt::format("\n{:<10}{:>10}{:>10}{:>10}{:>20}{:>11}\n", "imbalance", "now",
                                 "average", "in order", "last update", "transfers");
  const std::vector<WatchedLayer> layers = shown_layers(job, max_layers);
  for (const WatchedLayer& layer : layers) {
    text += layer_line(fmt::format("layer {}", layer.layer), layer, grouped(layer.transfers),
                       bar_text(layer, full));
  }
  if (layers.size() < job.layers.size()) {
    text += fmt::format("({} more even layers)\n", job.layers.size() - layers.size());
  }
  return text + layer_line("average", mean, grouped(job.transfers), bar_text(mean, full));
}

std::string balancer_text(const WatchedJob& job) {
  const int64_t plans = job.plans_moved + job.plans_kept;
  std::string text =
      fmt::format("\nmoves     {} experts ({}) in {} commits\n", grouped(job.transfers),
                  bytes_text(job.transfer_bytes), grouped(job.commits));
  text += fmt::format(
      "planner   {} plans: {} moved experts, {} kept them; {:.3f} s{}\n", grouped(plans),
      grouped(job.plans_moved), grouped(job.plans_kept), job.planner_seconds,
      plans == 0 ? ""
                 : fmt::format(" ({:.2f} ms a plan)",
                               1e3 * job.planner_seconds / static_cast<double>(plans)));
  return text + fmt::format("waiting   {:.3f} s for plans and transfers\n", job.wait_seconds);
}

}  // namespace

Result<WatchedJob> watched_job(std::span<const MetricFamily> families, const std::string& name) {
  const Values values(families, name);
  for (const auto needed : {metric::kRunning, metric::kHeartbeat, metric::kIterations}) {
    RETURN_IF_ERROR(values.require(needed));
  }
  WatchedJob job;
  job.running = values.sum(metric::kRunning) > 0;
  job.heartbeat = values.sum(metric::kHeartbeat);
  job.last_iteration = values.sum(metric::kLastIteration);
  job.iterations = values.count(metric::kIterations);
  job.tokens = values.count(metric::kTokens);
  job.requests_running = values.count(metric::kRequestsRunning);
  job.requests_waiting = values.count(metric::kRequestsWaiting);
  job.ranks = values.count(metric::kRanks);
  job.slots = values.count(metric::kSlots);
  job.transfers = values.count(metric::kTransfers);
  job.transfer_bytes = values.count(metric::kTransferBytes);
  job.commits = values.count(metric::kCommits);
  job.plans_moved = values.count(metric::kPlans, {{"outcome", "moved"}});
  job.plans_kept = values.count(metric::kPlans, {{"outcome", "kept"}});
  job.planner_seconds = values.sum(metric::kPlannerSeconds);
  job.wait_seconds = values.sum(metric::kWaitSeconds);
  RETURN_IF_ERROR(read_layers(values, job));
  return job;
}

JobState job_state(const WatchedJob& job, double now, double patience) {
  if (!job.running) return JobState::kEnded;
  if (now - job.heartbeat > patience) return JobState::kSilent;
  const bool has_work = job.requests_running > 0;
  return has_work && now - job.last_iteration > patience ? JobState::kStuck : JobState::kRunning;
}

std::string watch_text(const WatchedJob& job, const WatchedText& options) {
  std::string text = fmt::format("{}: {}\n", options.name, state_text(job, options));
  text += fmt::format(
      "iteration {}{}, {} tokens; requests: {} running, {} waiting\n", grouped(job.iterations),
      options.iterations_per_s < 0 ? "" : fmt::format(" ({:.1f}/s)", options.iterations_per_s),
      grouped(job.tokens), grouped(job.requests_running), grouped(job.requests_waiting));
  if (job.layers.empty()) return text + "no loads of experts yet\n";
  if (job.ranks > 0) text += fmt::format("{} ranks, {} slots a layer\n", job.ranks, job.slots);
  return text + layers_text(job, options.max_layers) + balancer_text(job);
}

std::string watch_line(const WatchedJob& job, const WatchedText& options) {
  std::string line = fmt::format("{}: iteration {}, {} tokens", state_text(job, options),
                                 job.iterations, job.tokens);
  if (!job.layers.empty()) {
    const WatchedLayer mean = mean_layer(job);
    line += fmt::format(", imbalance {:.4f} now, {:.4f} average, {} in order; {} transfers ({})",
                        mean.now, mean.average, ratio_text(mean.in_order), job.transfers,
                        bytes_text(job.transfer_bytes));
  }
  return line + "\n";
}

}  // namespace wideep::cli
