#include "eplb/projection.h"

#include <fmt/format.h>

#include <algorithm>

#include "eplb/evaluate.h"
#include "eplb/split.h"

namespace wideep::eplb {
namespace {

PlaceLoads empty_loads(const Statistics& statistics, const Shape& shape, Place place) {
  PlaceLoads loads{
      .num_ranks = shape.num_ranks,
      .num_places = place == Place::kRank ? shape.num_ranks : shape.num_slots,
      .num_iterations = statistics.num_iterations(),
      .layers = statistics.layers,
  };
  loads.tokens.resize(static_cast<size_t>(loads.num_iterations) * loads.num_layers() *
                      loads.num_places);
  return loads;
}

// Adds tokens of slots [num_slots] to their places.
template <typename T>
void add_slots(const Shape& shape, std::span<const T> tokens_of_slot, std::span<double> places) {
  const int slots_per_place = shape.num_slots / static_cast<int>(places.size());
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    places[slot / slots_per_place] += static_cast<double>(tokens_of_slot[slot]);
  }
}

void project_even(const Statistics& statistics, int layer_index, const Shape& shape,
                  std::span<const int> slots, PlaceLoads& loads) {
  const std::vector<int> replicas = count_replicas(shape, slots);
  std::vector<double> tokens_of_slot(shape.num_slots);
  for (int i = 0; i < loads.num_iterations; ++i) {
    const auto tokens = statistics.row(i, layer_index);
    for (int slot = 0; slot < shape.num_slots; ++slot) {
      tokens_of_slot[slot] = static_cast<double>(tokens[slots[slot]]) / replicas[slots[slot]];
    }
    add_slots<double>(shape, tokens_of_slot, loads.row(i, layer_index));
  }
}

void project_best(const Statistics& statistics, int layer_index, const Shape& shape,
                  std::span<const int> slots, PlaceLoads& loads) {
  Splitter splitter(shape, slots);
  std::vector<int64_t> tokens_of_slot(shape.num_slots);
  for (int i = 0; i < loads.num_iterations; ++i) {
    splitter.split(statistics.row(i, layer_index), tokens_of_slot);
    add_slots<int64_t>(shape, tokens_of_slot, loads.row(i, layer_index));
  }
}

Status check_sizes(const Plan& plan, int num_experts, int num_ranks) {
  if (num_experts != plan.num_experts) {
    return Status::invalid_input(fmt::format(
        "projection: the plan places {} experts, but the counts have {} columns{}",
        plan.num_experts, num_experts,
        num_experts == plan.num_slots
            ? ", one a slot: they were recorded with a balancer active; project counts that were "
              "recorded without one"
            : "; both must be of the same model"));
  }
  if (num_ranks < 1 || plan.num_slots % num_ranks != 0) {
    return Status::invalid_input(
        fmt::format("projection: num_slots {} of the plan is not divisible by ep_size {}; give the "
                    "EP size that the plan was made for with --ep_size",
                    plan.num_slots, num_ranks));
  }
  return Status::ok();
}

}  // namespace

Result<Placement> contiguous_placement(int num_experts, std::span<const int> layers,
                                       int num_ranks) {
  if (num_ranks < 1 || num_experts % num_ranks != 0) {
    return Status::invalid_input(
        fmt::format("ep_size: {} ranks cannot share {} experts or slots evenly: choose an ep_size "
                    "that divides {}, or project a plan",
                    num_ranks, num_experts, num_experts));
  }
  Placement placement{.shape = {num_experts, num_experts, num_ranks},
                      .layers = {layers.begin(), layers.end()}};
  const std::vector<int> row = default_assignment(placement.shape);
  for (size_t i = 0; i < layers.size(); ++i) {
    placement.slots.insert(placement.slots.end(), row.begin(), row.end());
  }
  return placement;
}

Result<Placement> plan_placement(const Plan& plan, int num_experts, std::span<const int> layers,
                                 int num_ranks) {
  RETURN_IF_ERROR(check_sizes(plan, num_experts, num_ranks));
  Placement placement{.shape = plan.shape(num_ranks), .layers = {layers.begin(), layers.end()}};
  for (const int layer : layers) {
    const auto it = std::lower_bound(plan.layers.begin(), plan.layers.end(), layer);
    if (it == plan.layers.end() || *it != layer) {
      return Status::invalid_input(
          fmt::format("projection: layer {} is in the counts, but not among the plan's layers {} "
                      "to {}; a plan needs every MoE layer, those of MTP too",
                      layer, plan.layers.empty() ? 0 : plan.layers.front(),
                      plan.layers.empty() ? 0 : plan.layers.back()));
    }
    const auto row = plan.row(static_cast<int>(it - plan.layers.begin()));
    placement.slots.insert(placement.slots.end(), row.begin(), row.end());
  }
  return placement;
}

Result<PlaceLoads> recorded_loads(const Statistics& statistics, int num_ranks, Place place) {
  ASSIGN_OR_RETURN(const Placement placement,
                   contiguous_placement(statistics.num_experts, statistics.layers, num_ranks));
  const Shape& shape = placement.shape;
  PlaceLoads loads = empty_loads(statistics, shape, place);
  for (int i = 0; i < loads.num_iterations; ++i) {
    for (int l = 0; l < loads.num_layers(); ++l) {
      add_slots<int64_t>(shape, statistics.row(i, l), loads.row(i, l));
    }
  }
  return loads;
}

Result<PlaceLoads> projected_loads(const Statistics& statistics, const Plan& plan, int num_ranks,
                                   Place place, ReplicaSplit split) {
  ASSIGN_OR_RETURN(const Placement placement,
                   plan_placement(plan, statistics.num_experts, statistics.layers, num_ranks));
  PlaceLoads loads = empty_loads(statistics, placement.shape, place);
  const auto project = split == ReplicaSplit::kEven ? project_even : project_best;
  for (int l = 0; l < loads.num_layers(); ++l) {
    project(statistics, l, placement.shape, placement.row(l), loads);
  }
  return loads;
}

}  // namespace wideep::eplb
