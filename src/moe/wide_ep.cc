#include "moe/wide_ep.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>

#include "eplb/evaluate.h"

namespace wideep::moe {
namespace {

// Iterations between two looks at all placements. In between the hash of the last look is compared,
// which finds ranks that took different decisions, but not memory that was overwritten since.
constexpr int64_t kHashInterval = 16;

}  // namespace

WideEp::WideEp(WideEpOptions options)
    : options_(std::move(options)),
      counts_(options_.layers.size() * options_.shape.num_experts),
      rank_rows_(options_.layers.size() * options_.shape.num_ranks),
      expert_rows_(options_.layers.size() * options_.shape.num_experts) {
  CHECK_EQ(options_.layers.size(), options_.slots.size());
  for (std::vector<int>& slots : options_.slots) {
    if (slots.empty()) slots = eplb::default_assignment(options_.shape);
    choosers_.push_back(
        std::make_unique<SlotChooser>(options_.replica_choice, options_.shape, slots));
  }
  placement_hash_ = hash_placements();
}

Status WideEp::start(dist::Communicator& group, std::vector<std::vector<SlotBytes>> slots) {
  CHECK_EQ(group.size(), options_.shape.num_ranks);
  group_ = &group;
  ASSIGN_OR_RETURN(all_to_all_, alltoall::AllToAll::create(group, options_.all_to_all));
  if (options_.layer_updates_per_iter == 0 || options_.layers.empty()) return Status::ok();
  if (options_.weight_source == WeightSource::kHost) {
    ASSIGN_OR_RETURN(host_weights_, HostWeights::create(group, {.shape = options_.shape,
                                                                .placements = options_.slots,
                                                                .slots = slots,
                                                                .memory = options_.shared_memory}));
  }
  MigrationOptions migration;
  migration.shape = options_.shape;
  migration.group = &group;
  migration.slots = std::move(slots);
  migration.max_rounds_per_iter = options_.max_transfers_per_iter;
  migration.source = host_weights_.get();
  ASSIGN_OR_RETURN(migration_, Migration::create(std::move(migration)));
  OnlinePlannerOptions planner;
  planner.shape = options_.shape;
  planner.layers = options_.layers;
  planner.slots = options_.slots;
  planner.layer_updates_per_iter = options_.layer_updates_per_iter;
  planner.online = options_.online;
  planner.forced = options_.forced;
  planner_ = std::make_unique<OnlinePlanner>(std::move(planner));
  return Status::ok();
}

RankState WideEp::state() const {
  return {planner_ != nullptr ? planner_->num_planned() : 0, placement_hash_};
}

Status WideEp::begin_iteration(std::span<const RankState> states) {
  const auto start = std::chrono::steady_clock::now();
  CHECK_EQ(std::ssize(states), options_.shape.num_ranks);
  RETURN_IF_ERROR(check_same_placements(states));
  report_ = {};
  report_.num_ranks = options_.shape.num_ranks;
  report_.num_slots = options_.shape.num_slots;
  ++iteration_;
  std::ranges::fill(rank_rows_, 0);
  std::ranges::fill(expert_rows_, 0);
  if (planner_ != nullptr) {
    if (iteration_ > 0) RETURN_IF_ERROR(record_counts());
    ASSIGN_OR_RETURN(std::vector<LayerPlacement> committed, migration_->finish());
    for (LayerPlacement& placement : committed) place(std::move(placement));
    RETURN_IF_ERROR(take_decisions(states));
    RETURN_IF_ERROR(migration_->issue());
    report_.migration = migration_->work();
  }
  if (report_.migration.commits > 0 || iteration_ % kHashInterval == 0) {
    placement_hash_ = hash_placements();
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  report_.wait_seconds = seconds.count();
  return Status::ok();
}

Status WideEp::check_same_placements(std::span<const RankState> states) const {
  std::map<uint64_t, int> ranks_of_hash;
  for (const RankState& state : states) ++ranks_of_hash[state.placement_hash];
  if (ranks_of_hash.size() <= 1) return Status::ok();
  const auto most =
      std::ranges::max_element(ranks_of_hash, {}, [](const auto& entry) { return entry.second; });
  std::string ranks;
  for (size_t r = 0; r < states.size(); ++r) {
    if (states[r].placement_hash == most->first) continue;
    ranks += fmt::format("{}{}", ranks.empty() ? "" : ", ", group_->world_ranks()[r]);
  }
  return Status::aborted(fmt::format(
      "balancer: the placement of rank {} differs from that of the {} other ranks at iteration {}: "
      "its memory or its inputs are corrupt; restart the job",
      ranks, most->second, iteration_ + 1));
}

Status WideEp::record_counts() {
  RETURN_IF_ERROR(group_->all_reduce_sum(std::span<int64_t>(counts_)));
  planner_->record(counts_);
  std::ranges::fill(counts_, 0);
  return Status::ok();
}

Status WideEp::take_decisions(std::span<const RankState> states) {
  const auto least = std::ranges::min_element(states, {}, &RankState::num_planned);
  ASSIGN_OR_RETURN(std::vector<LayerDecision> decisions, planner_->take(least->num_planned));
  for (LayerDecision& decision : decisions) {
    report_.turns.push_back({options_.layers[decision.layer_index], decision.update});
    report_.planner_seconds += decision.seconds;
    LayerPlacement placement = {decision.layer_index, std::move(decision.slots),
                                std::move(decision.quotas)};
    if (decision.update.moved) {
      migration_->add(std::move(placement), options_.slots[decision.layer_index]);
    } else if (!placement.quotas.empty() &&
               placement.slots == options_.slots[decision.layer_index]) {
      // Quotas follow the load without any transfer.
      place(std::move(placement));
    }
  }
  return Status::ok();
}

void WideEp::place(LayerPlacement placement) {
  const int layer = placement.layer_index;
  options_.slots[layer] = std::move(placement.slots);
  choosers_[layer] = std::make_unique<SlotChooser>(
      options_.replica_choice, options_.shape, options_.slots[layer], std::move(placement.quotas));
}

// FNV-1a over all slots, a word at a time.
uint64_t WideEp::hash_placements() const {
  uint64_t hash = 0xcbf29ce484222325;
  for (const std::vector<int>& slots : options_.slots) {
    for (const int expert : slots) {
      hash = (hash ^ static_cast<uint64_t>(static_cast<uint32_t>(expert))) * 0x100000001b3;
    }
  }
  return hash;
}

void WideEp::count(int layer_index, std::span<const int32_t> ids) {
  const int num_experts = options_.shape.num_experts;
  if (planner_ != nullptr) {
    int64_t* counts = counts_.data() + int64_t{layer_index} * num_experts;
    for (const int32_t id : ids) {
      if (id >= 0) ++counts[id];
    }
  }
  if (!observes_) return;
  const std::span<const int32_t> rows = all_to_all_->rows_of_slots();
  const eplb::Shape& shape = options_.shape;
  int64_t* of_ranks = rank_rows_.data() + int64_t{layer_index} * shape.num_ranks;
  int64_t* of_experts = expert_rows_.data() + int64_t{layer_index} * num_experts;
  for (int source = 0; source < shape.num_ranks; ++source) {
    for (int slot = 0; slot < shape.num_slots; ++slot) {
      const int32_t count = rows[int64_t{source} * shape.num_slots + slot];
      of_ranks[shape.rank_of(slot)] += count;
      of_experts[options_.slots[layer_index][slot]] += count;
    }
  }
}

IterationReport WideEp::report() const {
  IterationReport report = report_;
  if (!observes_) return report;
  const eplb::Shape& shape = options_.shape;
  for (size_t l = 0; l < options_.layers.size(); ++l) {
    const std::span<const int64_t> ranks(rank_rows_.data() + l * shape.num_ranks,
                                         static_cast<size_t>(shape.num_ranks));
    if (std::ranges::all_of(ranks, [](int64_t rows) { return rows == 0; })) continue;
    std::vector<int64_t> in_order(static_cast<size_t>(shape.num_ranks));
    for (int e = 0; e < shape.num_experts; ++e) {
      // The rank r of whose share_of(E, R, r) the expert is.
      const int rank =
          static_cast<int>(((int64_t{e} + 1) * shape.num_ranks - 1) / shape.num_experts);
      in_order[rank] += expert_rows_[l * shape.num_experts + e];
    }
    report.layers.push_back(
        {options_.layers[l], eplb::max_over_mean(ranks) - 1, eplb::max_over_mean(in_order) - 1});
  }
  return report;
}

std::string describe(const WideEp& wide_ep) {
  const WideEpOptions& options = wide_ep.options();
  std::string text = fmt::format(
      "WideEP: {} experts in {} slots, {} a rank; replica choice {}, combine {}\n",
      options.shape.num_experts, options.shape.num_slots, options.shape.slots_per_rank(),
      replica_choice_name(options.replica_choice), combine_mode_name(options.all_to_all.combine));
  if (options.layer_updates_per_iter == 0) return text;
  text += fmt::format(
      "online balancer: {} layer updates and at most {} experts to a rank an iteration, from {}\n",
      options.layer_updates_per_iter, options.max_transfers_per_iter,
      options.weight_source == WeightSource::kHost ? "the host's weights" : "peers");
  if (const HostWeights* host = wide_ep.host_weights(); host != nullptr) {
    text += fmt::format("host weights: {:.1f} MB of shared memory{}{}\n",
                        static_cast<double>(host->bytes_of_host()) / 1e6,
                        host->note().empty() ? "" : "; ", host->note());
  }
  return text;
}

}  // namespace wideep::moe
