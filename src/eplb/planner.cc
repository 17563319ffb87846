#include "eplb/planner.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/parallel.h"
#include "eplb/anneal.h"
#include "eplb/balance.h"
#include "eplb/baseline.h"
#include "eplb/draft_placement.h"
#include "eplb/evaluate.h"
#include "eplb/incremental.h"
#include "eplb/recourse.h"
#include "eplb/split.h"

namespace wideep::eplb {
namespace {

// Tokens that the loads of several scenarios are scaled to before they are added.
constexpr double kScenarioTokens = 1e9;

bool is_baseline(Algorithm algorithm) {
  return algorithm != Algorithm::kRecourse && algorithm != Algorithm::kBalanced;
}

// Everything that one layer is planned from.
struct LayerInput {
  Shape shape;
  std::vector<int64_t> tokens;
  Batches batches;
  std::span<const int> previous;  // empty: none
};

Status check_sizes(const Load& load, const PlanOptions& options) {
  const int experts = load.num_experts;
  const auto refuse = [](std::string message) { return Status::invalid_input(std::move(message)); };
  if (load.num_layers() == 0) return refuse("the load has no layer");
  if (options.ep_size < 1) return refuse(fmt::format("ep_size {}: must be >= 1", options.ep_size));
  if (options.num_slots % options.ep_size != 0) {
    return refuse(fmt::format("num_slots {} is not divisible by ep_size {}", options.num_slots,
                              options.ep_size));
  }
  if (options.num_slots < experts) {
    return refuse(fmt::format("num_slots {} is less than the {} experts: every expert needs a slot",
                              options.num_slots, experts));
  }
  if (!is_baseline(options.algorithm) && options.num_slots > int64_t{experts} * options.ep_size) {
    return refuse(fmt::format("num_slots {} is more than {} experts x {} ranks can use",
                              options.num_slots, experts, options.ep_size));
  }
  if (options.num_nodes < 1 || options.ep_size % options.num_nodes != 0) {
    return refuse(
        fmt::format("ep_size {} is not divisible by nodes {}", options.ep_size, options.num_nodes));
  }
  if (options.num_groups < 1 || experts % options.num_groups != 0) {
    return refuse(
        fmt::format("{} experts are not divisible by groups {}", experts, options.num_groups));
  }
  if (!is_baseline(options.algorithm) && experts % options.num_nodes != 0) {
    return refuse(
        fmt::format("{} experts are not divisible by nodes {}", experts, options.num_nodes));
  }
  if (options.alpha < 0 || options.alpha > 1) {
    return refuse(fmt::format("alpha {}: must be in [0, 1]", options.alpha));
  }
  return Status::ok();
}

Status check_same(const Load& load, const Load& other, std::string_view what) {
  if (load.num_experts != other.num_experts) {
    return Status::invalid_input(fmt::format("{} has {} experts, the load has {}", what,
                                             other.num_experts, load.num_experts));
  }
  if (load.layers != other.layers) {
    return Status::invalid_input(fmt::format("{} has other layers than the load", what));
  }
  return Status::ok();
}

Status check_previous(const Load& load, const Plan& previous, const PlanOptions& options) {
  if (previous.num_slots != options.num_slots || previous.num_experts != load.num_experts) {
    return Status::invalid_input(fmt::format(
        "the previous plan has {} slots for {} experts, the new one is to have {} for {}",
        previous.num_slots, previous.num_experts, options.num_slots, load.num_experts));
  }
  for (const int layer : load.layers) {
    if (std::binary_search(previous.layers.begin(), previous.layers.end(), layer)) continue;
    return Status::invalid_input(fmt::format("the previous plan has no layer {}", layer));
  }
  if (options.num_nodes > 1) {
    return Status::invalid_input("a previous plan cannot be improved node by node: use nodes 1");
  }
  return Status::ok();
}

Status check_input(const Workload& workload, const PlanOptions& options,
                   const std::vector<Workload>& scenarios, const Plan* previous) {
  RETURN_IF_ERROR(check_sizes(workload.load, options));
  if (options.algorithm == Algorithm::kCooccurrence &&
      (!workload.cooccurrence || workload.cooccurrence->layers != workload.load.layers ||
       workload.cooccurrence->num_experts != workload.load.num_experts)) {
    return Status::invalid_input(
        "algorithm cooccurrence needs recorded expert ids of every layer (rankN_raw.safetensors or "
        "an "
        "npy trace), not only counts");
  }
  for (const Workload& scenario : scenarios) {
    RETURN_IF_ERROR(check_same(workload.load, scenario.load, "a scenario"));
  }
  if (previous == nullptr) return Status::ok();
  return check_previous(workload.load, *previous, options);
}

std::span<const int> row_of_layer(const Plan& plan, int layer) {
  const auto found = std::lower_bound(plan.layers.begin(), plan.layers.end(), layer);
  return plan.row(static_cast<int>(found - plan.layers.begin()));
}

// The sum of the workloads' tokens; with several, each scaled to the same total.
std::vector<int64_t> join_tokens(const std::vector<const Workload*>& workloads, int i) {
  const auto first = workloads.front()->load.row(i);
  if (workloads.size() == 1) return {first.begin(), first.end()};
  std::vector<int64_t> joined(first.size(), 0);
  for (const Workload* workload : workloads) {
    const auto row = workload->load.row(i);
    const int64_t total = std::accumulate(row.begin(), row.end(), int64_t{0});
    if (total == 0) continue;
    const double scale = kScenarioTokens / static_cast<double>(total);
    for (size_t e = 0; e < row.size(); ++e) {
      joined[e] += static_cast<int64_t>(static_cast<double>(row[e]) * scale);
    }
  }
  return joined;
}

LayerInput layer_input(const std::vector<const Workload*>& workloads, const PlanOptions& options,
                       const Plan* previous, int i) {
  const Load& load = workloads.front()->load;
  LayerInput input;
  input.shape = {load.num_experts, options.num_slots, options.ep_size};
  input.tokens = join_tokens(workloads, i);
  for (const Workload* workload : workloads) {
    for (const Load& batch : workload->batches) {
      const auto row = batch.row(i);
      input.batches.emplace_back(row.begin(), row.end());
    }
    // A scenario without recorded batches is one batch of its own.
    if (workloads.size() > 1 && workload->batches.empty()) {
      const auto row = workload->load.row(i);
      input.batches.emplace_back(row.begin(), row.end());
    }
  }
  if (previous != nullptr) input.previous = row_of_layer(*previous, load.layers[i]);
  return input;
}

// Exchanges alone cannot always balance the replicas that were chosen: where a rank stays this far
// over what is possible, replicas are given to other experts too.
constexpr double kUnbalanced = 2e-3;

void rechoose_replicas(const LayerInput& input, bool keep_connected, DraftPlacement& placement) {
  const double bound = even_lower_bound(input.shape, input.tokens);
  if (placement.max_over_mean() <= bound + kUnbalanced) return;
  AnnealOptions options;
  options.keep_connected = keep_connected;
  placement = DraftPlacement::of(input.shape, input.tokens, anneal_slots(placement, {}, options));
}

std::vector<int> balanced_slots(const LayerInput& input) {
  const std::vector<double> weights(input.tokens.begin(), input.tokens.end());
  DraftPlacement placement(input.shape, input.tokens,
                           choose_replicas(weights, input.shape.num_slots, input.shape.num_ranks));
  placement.add_rest();
  balance(placement, {});
  rechoose_replicas(input, false, placement);
  placement.sort_slots();
  return placement.slots();
}

std::vector<int> recourse_slots(const LayerInput& input, uint64_t seed) {
  DraftPlacement placement = recourse_placement(input.shape, input.tokens);
  rechoose_replicas(input, true, placement);
  if (!input.batches.empty()) {
    AnnealOptions options;
    options.seed = seed;
    placement = DraftPlacement::of(input.shape, input.tokens,
                                   anneal_slots(placement, input.batches, options));
  }
  placement.sort_slots();
  return placement.slots();
}

std::vector<int> improved_slots(const LayerInput& input, const PlanOptions& options) {
  IncrementalOptions incremental;
  incremental.max_transfers = options.max_transfers;
  incremental.keep_connected = options.algorithm == Algorithm::kRecourse;
  return improve_placement(input.shape, input.tokens, input.previous, incremental);
}

// Which experts each node gets: whole groups where the nodes divide them, as evenly loaded as
// exchanging groups (or experts) between nodes makes them. [num_nodes][experts of the node].
std::vector<std::vector<int>> experts_of_nodes(const LayerInput& input,
                                               const PlanOptions& options) {
  const int num_experts = input.shape.num_experts;
  const bool by_group = options.num_groups % options.num_nodes == 0;
  const int num_items = by_group ? options.num_groups : num_experts;
  const int item_size = num_experts / num_items;
  std::vector<int64_t> item_tokens(num_items, 0);
  for (int expert = 0; expert < num_experts; ++expert) {
    item_tokens[expert / item_size] += input.tokens[expert];
  }
  DraftPlacement nodes({num_items, num_items, options.num_nodes}, item_tokens,
                       std::vector<int>(num_items, 1));
  nodes.add_rest();
  balance(nodes, {});
  nodes.sort_slots();
  std::vector<std::vector<int>> experts(options.num_nodes);
  for (int slot = 0; slot < num_items; ++slot) {
    for (int i = 0; i < item_size; ++i) {
      experts[nodes.shape().rank_of(slot)].push_back(nodes.expert(slot) * item_size + i);
    }
  }
  return experts;
}

std::vector<int64_t> select(std::span<const int64_t> values, const std::vector<int>& indices) {
  std::vector<int64_t> selected;
  for (const int i : indices) selected.push_back(values[i]);
  return selected;
}

std::vector<int> own_slots(const LayerInput& input, const PlanOptions& options) {
  return options.algorithm == Algorithm::kBalanced ? balanced_slots(input)
                                                   : recourse_slots(input, options.seed);
}

std::vector<int> slots_by_node(const LayerInput& input, const PlanOptions& options) {
  std::vector<int> slots;
  for (const std::vector<int>& experts : experts_of_nodes(input, options)) {
    LayerInput node;
    node.shape = {static_cast<int>(experts.size()), input.shape.num_slots / options.num_nodes,
                  input.shape.num_ranks / options.num_nodes};
    node.tokens = select(input.tokens, experts);
    for (const auto& batch : input.batches) node.batches.push_back(select(batch, experts));
    for (const int local : own_slots(node, options)) slots.push_back(experts[local]);
  }
  return slots;
}

std::vector<int> plan_layer(const LayerInput& input, const PlanOptions& options,
                            std::span<const int64_t> cooccurrence) {
  switch (options.algorithm) {
    case Algorithm::kTensorRtLlm:
      return tensorrt_llm_plan(input.shape, input.tokens);
    case Algorithm::kDeepSeek:
      return deepseek_plan(input.shape, input.tokens, {options.num_groups, options.num_nodes});
    case Algorithm::kCooccurrence:
      return cooccurrence_plan(input.shape, input.tokens, cooccurrence, options.alpha);
    case Algorithm::kRecourse:
    case Algorithm::kBalanced:
      break;
  }
  if (!input.previous.empty()) return improved_slots(input, options);
  return options.num_nodes > 1 ? slots_by_node(input, options) : own_slots(input, options);
}

LayerPlanReport report_layer(int layer, const LayerInput& input, std::span<const int> slots,
                             int64_t expert_bytes) {
  const Shape& shape = input.shape;
  LayerPlanReport report;
  report.layer = layer;
  report.even = max_over_mean(even_rank_tokens(shape, slots, input.tokens));
  report.optimal = mean_best_split(shape, slots, {input.tokens});
  report.batches = mean_best_split(shape, slots, input.batches);
  report.lower_bound = even_lower_bound(shape, input.tokens);
  report.duplicates = count_duplicates(shape, slots);
  report.components = count_components(shape, slots);
  if (!input.previous.empty()) {
    report.transfers = count_transfers(shape, input.previous, slots);
    report.bytes = report.transfers * expert_bytes;
  }
  return report;
}

}  // namespace

Result<PlanResult> make_plan(const Workload& workload, const PlanOptions& options,
                             const std::vector<Workload>& scenarios, const Plan* previous) {
  RETURN_IF_ERROR(check_input(workload, options, scenarios, previous));
  std::vector<const Workload*> workloads = {&workload};
  for (const Workload& scenario : scenarios) workloads.push_back(&scenario);

  const Load& load = workload.load;
  PlanResult result;
  result.plan.num_experts = load.num_experts;
  result.plan.num_slots = options.num_slots;
  result.plan.layers = load.layers;
  result.plan.slots.resize(int64_t{load.num_layers()} * options.num_slots);
  result.layers.resize(load.num_layers());
  parallel_for(load.num_layers(), options.threads, [&](int i) {
    const LayerInput input = layer_input(workloads, options, previous, i);
    std::span<const int64_t> cooccurrence;
    if (workload.cooccurrence) {
      const int64_t size = int64_t{load.num_experts} * load.num_experts;
      cooccurrence = std::span(workload.cooccurrence->counts).subspan(i * size, size);
    }
    const std::vector<int> slots = plan_layer(input, options, cooccurrence);
    std::copy(slots.begin(), slots.end(), result.plan.row(i).begin());
    result.layers[i] = report_layer(load.layers[i], input, slots, options.expert_bytes);
    if (options.on_layer_done) options.on_layer_done();
  });
  return result;
}

}  // namespace wideep::eplb
