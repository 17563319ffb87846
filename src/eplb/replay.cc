#include "eplb/replay.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "base/parallel.h"
#include "eplb/evaluate.h"

namespace wideep::eplb {

Summary summarize(std::span<const double> values) {
  if (values.empty()) return {};
  std::vector<double> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  const size_t rank = (sorted.size() * 99 + 99) / 100;  // ceil(0.99 n), counted from 1
  return {.mean = std::accumulate(sorted.begin(), sorted.end(), 0.0) /
                  static_cast<double>(sorted.size()),
          .p99 = sorted[rank - 1],
          .max = sorted.back()};
}

double mean_send_ranks(const Shape& shape, const ReplicaTable& table,
                       std::span<const int64_t> tokens_of_slot, std::span<const int> experts,
                       int top_k) {
  std::vector<int64_t> expert_tokens(shape.num_experts);
  for (int e = 0; e < shape.num_experts; ++e) {
    for (const int slot : table.of(e)) expert_tokens[e] += tokens_of_slot[slot];
  }
  std::vector<double> miss(shape.num_ranks, 1.0);
  std::vector<int> touched;
  double sum = 0;
  int64_t routed = 0;
  for (size_t t = 0; t < experts.size(); t += static_cast<size_t>(top_k)) {
    touched.clear();
    for (const int expert : experts.subspan(t, static_cast<size_t>(top_k))) {
      if (expert < 0) continue;
      for (const int slot : table.of(expert)) {
        const double share = expert_tokens[expert] > 0
                                 ? static_cast<double>(tokens_of_slot[slot]) /
                                       static_cast<double>(expert_tokens[expert])
                                 : 1.0 / table.num_replicas(expert);
        miss[shape.rank_of(slot)] *= 1 - share;
        touched.push_back(shape.rank_of(slot));
      }
    }
    routed += !touched.empty();
    for (const int rank : touched) {
      sum += 1 - miss[rank];  // 0 at the second visit of a rank
      miss[rank] = 1;
    }
  }
  return routed > 0 ? sum / static_cast<double>(routed) : 0;
}

namespace {

// Of one layer in every iteration.
struct LayerSeries {
  ReplaySeries plan;
  ReplaySeries none;
  std::vector<int64_t> transfers;
  Status status;
};

void resize(ReplaySeries& series, int num_iterations) {
  series.imbalance.assign(num_iterations, 0);
  series.send_ranks.assign(num_iterations, 0);
  series.step_time.assign(num_iterations, 0);
}

double imbalance_ratio(const Shape& shape, std::span<const int64_t> tokens_of_slot) {
  std::vector<int64_t> rank_tokens(shape.num_ranks);
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    rank_tokens[shape.rank_of(slot)] += tokens_of_slot[slot];
  }
  return max_over_mean(rank_tokens) - 1;
}

// A placement under test and where its numbers go.
class Lane {
 public:
  Lane(const ReplayOptions& options, const Shape& shape, ReplicaChoice choice,
       std::span<const int> slots, std::vector<int64_t> quotas)
      : options_(options), shape_(shape), splitter_(choice, shape, slots, std::move(quotas)) {}

  bool needs_ranks() const { return splitter_.needs_sources(); }

  void run(int iteration, std::span<const int64_t> counts, std::span<const int> experts, int top_k,
           ReplaySeries& series) {
    const auto tokens_of_slot = splitter_.split(counts);
    const double send_ranks =
        mean_send_ranks(shape_, splitter_.table(), tokens_of_slot, experts, top_k);
    series.imbalance[iteration] = imbalance_ratio(shape_, tokens_of_slot);
    series.send_ranks[iteration] = send_ranks;
    MoeModel model = options_.model;
    model.top_k = top_k;
    series.step_time[iteration] =
        layer_time(options_.profile, model, shape_, tokens_of_slot, send_ranks).total();
  }

 private:
  const ReplayOptions& options_;
  Shape shape_;
  BatchSplitter splitter_;
};

// No balancing: see replay().
Shape none_shape(const Plan& plan, int num_ranks) {
  if (plan.num_experts % num_ranks == 0) return {plan.num_experts, plan.num_experts, num_ranks};
  return plan.shape(num_ranks);
}

// Everything that all layers share.
struct ReplayInput {
  const std::vector<ReplayPhase>& phases;
  const Plan& plan;
  const ReplayOptions& options;
  Shape shape;
  Shape none;
  std::vector<int> none_slots;
  Load quota_load;  // of the first phase
  UpdateSchedule schedule;

  const BatchSource& source(int64_t iteration) const {
    const BatchSource* source = nullptr;
    for (const ReplayPhase& phase : phases) {
      if (phase.first_iteration <= iteration) source = phase.source;
    }
    return *source;
  }
};

Status run_layer(const ReplayInput& input, int l, LayerSeries& series) {
  const ReplayOptions& options = input.options;
  const ReplicaChoice choice = options.replica_choice;
  const auto initial_quotas = [&] {
    if (choice != ReplicaChoice::kQuota) return std::vector<int64_t>();
    return plan_quotas(input.shape, input.plan.row(l), input.quota_load.row(l));
  };
  std::optional<Lane> lane;
  lane.emplace(options, input.shape, choice, input.plan.row(l), initial_quotas());
  Lane none(options, input.none, ReplicaChoice::kRoundRobin, input.none_slots, {});
  LayerBalancer balancer(input.plan.layers[l], input.shape, input.plan.row(l), options.balancer);
  // Where neither lane deals by source rank, the sums are enough and much faster to draw.
  const bool per_rank = lane->needs_ranks() || input.none.num_slots > input.none.num_experts;
  std::vector<int64_t> counts, totals(input.shape.num_experts);
  std::vector<int> experts;
  for (int i = 0; i < options.num_iterations; ++i) {
    const BatchSource& source = input.source(i);
    source.counts(i, l, per_rank, counts);
    source.token_experts(i, l, options.send_rank_samples, experts);
    lane->run(i, counts, experts, source.top_k(), series.plan);
    none.run(i, counts, experts, source.top_k(), series.none);
    if (options.online) {
      std::fill(totals.begin(), totals.end(), 0);
      for (size_t j = 0; j < counts.size(); ++j) totals[j % totals.size()] += counts[j];
      balancer.record(totals);
      if (input.schedule.is_turn(l, i)) {
        ASSIGN_OR_RETURN(const LayerUpdate update, balancer.take_turn());
        series.transfers[i] = update.transfers;
        // Moved slots and fresh quotas act from the next iteration on.
        if (update.moved || choice == ReplicaChoice::kQuota) {
          lane.emplace(
              options, input.shape, choice, balancer.slots(),
              choice == ReplicaChoice::kQuota ? balancer.quotas() : std::vector<int64_t>());
        }
      }
    }
    if (options.on_layer_iteration) options.on_layer_iteration();
  }
  return Status::ok();
}

Status check_input(const std::vector<ReplayPhase>& phases, const Plan& plan, int num_ranks,
                   const ReplayOptions& options) {
  if (options.num_iterations < 1) {
    return Status::invalid_input(
        fmt::format("--iterations {}: must be at least 1", options.num_iterations));
  }
  if (num_ranks < 1 || plan.num_slots % num_ranks != 0) {
    return Status::invalid_input(
        fmt::format("--ep_size {}: must divide the plan's {} slots", num_ranks, plan.num_slots));
  }
  if (plan.num_slots < plan.num_experts) {
    return Status::invalid_input(
        fmt::format("the plan has {} slots for {} experts", plan.num_slots, plan.num_experts));
  }
  CHECK(!phases.empty() && phases[0].first_iteration == 0);
  for (const ReplayPhase& phase : phases) {
    const BatchSource& source = *phase.source;
    CHECK_EQ(source.num_ranks(), num_ranks);
    if (source.num_experts() != plan.num_experts) {
      return Status::invalid_input(fmt::format("the load has {} experts but the plan {}",
                                               source.num_experts(), plan.num_experts));
    }
    if (source.num_layers() != plan.num_layers()) {
      return Status::invalid_input(fmt::format("the load has {} MoE layers but the plan {}",
                                               source.num_layers(), plan.num_layers()));
    }
    if (source.names_layers() && source.layers() != plan.layers) {
      return Status::invalid_input(fmt::format("the load's layers [{}] are not the plan's [{}]",
                                               fmt::join(source.layers(), ", "),
                                               fmt::join(plan.layers, ", ")));
    }
  }
  return Status::ok();
}

void add(const ReplaySeries& layer, double weight, ReplaySeries& sum) {
  for (size_t i = 0; i < sum.imbalance.size(); ++i) {
    sum.imbalance[i] += layer.imbalance[i] * weight;
    sum.send_ranks[i] += layer.send_ranks[i] * weight;
    sum.step_time[i] += layer.step_time[i];
  }
}

// Layers are added in their order, so that the sums have the same bits for any number of threads.
ReplayResult gather(const ReplayInput& input, const std::vector<LayerSeries>& layers) {
  ReplayResult result;
  const int num_iterations = input.options.num_iterations;
  resize(result.plan, num_iterations);
  resize(result.none, num_iterations);
  result.transfers.assign(num_iterations, 0);
  result.transfer_bytes = input.options.balancer.plan.expert_bytes;
  result.none_has_replicas = input.none.num_slots > input.none.num_experts;
  for (size_t l = 0; l < layers.size(); ++l) {
    const LayerSeries& series = layers[l];
    const double weight = 1.0 / static_cast<double>(layers.size());
    add(series.plan, weight, result.plan);
    add(series.none, weight, result.none);
    for (int i = 0; i < num_iterations; ++i) result.transfers[i] += series.transfers[i];
    result.layers.push_back({.layer = input.plan.layers[l],
                             .imbalance = summarize(series.plan.imbalance).mean,
                             .imbalance_none = summarize(series.none.imbalance).mean,
                             .transfers = std::accumulate(series.transfers.begin(),
                                                          series.transfers.end(), int64_t{0})});
  }
  return result;
}

}  // namespace

Result<ReplayResult> replay(const std::vector<ReplayPhase>& phases, const Plan& plan, int num_ranks,
                            const ReplayOptions& options) {
  RETURN_IF_ERROR(check_input(phases, plan, num_ranks, options));
  const Shape none = none_shape(plan, num_ranks);
  const ReplayInput input = {
      .phases = phases,
      .plan = plan,
      .options = options,
      .shape = plan.shape(num_ranks),
      .none = none,
      .none_slots = default_assignment(none),
      .quota_load = phases[0].source->total_load(),
      .schedule = UpdateSchedule(plan.num_layers(), plan.layer_updates_per_iter)};
  std::vector<LayerSeries> layers(plan.num_layers());
  parallel_for(plan.num_layers(), options.threads, [&](int l) {
    LayerSeries& series = layers[l];
    resize(series.plan, options.num_iterations);
    resize(series.none, options.num_iterations);
    series.transfers.assign(options.num_iterations, 0);
    series.status = run_layer(input, l, series);
  });
  for (const LayerSeries& series : layers) RETURN_IF_ERROR(series.status);
  return gather(input, layers);
}

}  // namespace wideep::eplb
