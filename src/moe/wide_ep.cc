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
      slot_rows_(options_.layers.size() * options_.shape.num_slots) {
  CHECK_EQ(options_.layers.size(), options_.slots.size());
  for (std::vector<int>& slots : options_.slots) {
    if (slots.empty()) slots = eplb::default_assignment(options_.shape);
    if (options_.exchange) continue;
    choosers_.push_back(
        std::make_unique<SlotChooser>(options_.replica_choice, options_.shape, slots));
  }
  placement_hash_ = hash_placements();
}

WideEpDevice::Options WideEp::device_options() const {
  return {.exchange = *options_.exchange,
          .choice = options_.replica_choice,
          .num_layers = static_cast<int>(std::ssize(options_.layers))};
}

Status WideEp::start(dist::Communicator& group, std::vector<std::vector<SlotBytes>> slots,
                     Stream* stream) {
  CHECK_EQ(group.size(), options_.shape.num_ranks);
  CHECK((stream != nullptr) == options_.exchange.has_value());
  group_ = &group;
  if (stream != nullptr) {
    ASSIGN_OR_RETURN(device_, WideEpDevice::create(*stream, group, device_options()));
    if (observes_ || options_.layer_updates_per_iter > 0) device_->start_counting();
    for (size_t l = 0; l < options_.slots.size(); ++l) {
      device_->place(static_cast<int>(l), options_.slots[l], {});
    }
  } else {
    ASSIGN_OR_RETURN(all_to_all_, alltoall::AllToAll::create(group, options_.all_to_all));
  }
  if (options_.layer_updates_per_iter == 0 || options_.layers.empty()) return Status::ok();
  if (stream != nullptr && options_.weight_source == WeightSource::kHost) {
    return Status::invalid_input(
        "load_balancer.weight_source: host: experts of GPUs come from the GPUs that have them: use "
        "peer");
  }
  if (options_.weight_source == WeightSource::kHost) {
    ASSIGN_OR_RETURN(host_weights_, HostWeights::create(group, {.shape = options_.shape,
                                                                .placements = options_.slots,
                                                                .slots = slots,
                                                                .memory = options_.shared_memory}));
  }
  MigrationOptions migration;
  migration.shape = options_.shape;
  migration.group = &group;
  if (stream != nullptr) {
    const StagingShape staging = staging_shape(options_.shape, slots.front().front());
    ASSIGN_OR_RETURN(migration.copies, make_device_copies(*stream, group, staging));
  }
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

RankState WideEp::state() {
  if (planner_ == nullptr) return {.placement_hash = placement_hash_};
  return {planner_->num_planned(), placement_hash_, migration_->num_done()};
}

Status WideEp::begin_iteration(std::span<const RankState> states) {
  const auto start = std::chrono::steady_clock::now();
  CHECK_EQ(std::ssize(states), options_.shape.num_ranks);
  RETURN_IF_ERROR(check_same_placements(states));
  report_ = {};
  report_.num_ranks = options_.shape.num_ranks;
  report_.num_slots = options_.shape.num_slots;
  ++iteration_;
  if (planner_ != nullptr) {
    if (iteration_ > 0) RETURN_IF_ERROR(record_counts());
    const auto least = std::ranges::min_element(states, {}, &RankState::num_copied);
    ASSIGN_OR_RETURN(std::vector<LayerPlacement> committed, migration_->finish(least->num_copied));
    for (LayerPlacement& placement : committed) place(std::move(placement));
    RETURN_IF_ERROR(take_decisions(states));
    RETURN_IF_ERROR(migration_->issue());
    report_.migration = migration_->work();
  }
  if (report_.migration.commits > 0 || iteration_ % kHashInterval == 0) {
    placement_hash_ = hash_placements();
  }
  std::ranges::fill(slot_rows_, 0);
  if (device_ != nullptr) device_->begin_iteration();
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

void WideEp::observe(bool observes) {
  observes_ = observes;
  if (observes && device_ != nullptr) device_->start_counting();
}

Status WideEp::end_iteration() {
  if (ExpertCopies* moving = copies(); moving != nullptr) RETURN_IF_ERROR(moving->end_iteration());
  return device_ != nullptr ? device_->end_iteration() : Status::ok();
}

Status WideEp::check() const {
  return device_ != nullptr ? device_->exchange().check() : Status::ok();
}

bool WideEp::is_capturable() const {
  return device_ != nullptr && device_->exchange().is_capturable();
}

Result<int64_t> WideEp::device_bytes() const {
  ASSIGN_OR_RETURN(const int64_t bytes, WideEpDevice::device_bytes(device_options()));
  if (options_.layer_updates_per_iter == 0) return bytes;
  const auto& [hidden, intermediate, top_k, scales_input] = options_.exchange->layer;
  const DType dtype = options_.exchange->weights;
  const int64_t expert = kernels::device_weight_bytes(2 * intermediate, hidden, dtype) +
                         kernels::device_weight_bytes(hidden, intermediate, dtype);
  return bytes + expert * options_.shape.slots_per_rank();
}

// On GPUs every rank has the rows of all ranks already.
void WideEp::take_device_rows() {
  if (device_ == nullptr) return;
  std::ranges::copy(device_->rows_of_slots(), slot_rows_.begin());
}

Status WideEp::record_counts() {
  if (device_ == nullptr) {
    RETURN_IF_ERROR(group_->all_reduce_sum(std::span<int64_t>(counts_)));
  } else {
    take_device_rows();
    for (size_t l = 0; l < options_.layers.size(); ++l) {
      for (int slot = 0; slot < options_.shape.num_slots; ++slot) {
        counts_[l * options_.shape.num_experts + options_.slots[l][slot]] +=
            slot_rows_[l * options_.shape.num_slots + slot];
      }
    }
  }
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
  if (device_ != nullptr) return device_->place(layer, options_.slots[layer], placement.quotas);
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
  int64_t* of_slots = slot_rows_.data() + int64_t{layer_index} * options_.shape.num_slots;
  for (size_t i = 0; i < rows.size(); ++i) of_slots[i % options_.shape.num_slots] += rows[i];
}

LayerReport WideEp::report_layer(int layer_index) const {
  const eplb::Shape& shape = options_.shape;
  std::vector<int64_t> of_ranks(static_cast<size_t>(shape.num_ranks));
  std::vector<int64_t> in_order(static_cast<size_t>(shape.num_ranks));
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    const int64_t rows = slot_rows_[int64_t{layer_index} * shape.num_slots + slot];
    of_ranks[shape.rank_of(slot)] += rows;
    // The rank r of whose share_of(E, R, r) the expert is.
    const int64_t expert = options_.slots[layer_index][slot];
    in_order[((expert + 1) * shape.num_ranks - 1) / shape.num_experts] += rows;
  }
  return {options_.layers[layer_index], eplb::max_over_mean(of_ranks) - 1,
          eplb::max_over_mean(in_order) - 1};
}

IterationReport WideEp::report() {
  IterationReport report = report_;
  if (!observes_) return report;
  take_device_rows();
  const int64_t num_slots = options_.shape.num_slots;
  for (int l = 0; l < std::ssize(options_.layers); ++l) {
    const std::span<const int64_t> rows(slot_rows_.data() + l * num_slots,
                                        static_cast<size_t>(num_slots));
    if (std::ranges::all_of(rows, [](int64_t count) { return count == 0; })) continue;
    report.layers.push_back(report_layer(l));
  }
  return report;
}

std::string describe(const WideEp& wide_ep) {
  const WideEpOptions& options = wide_ep.options();
  std::string text = fmt::format(
      "WideEP: {} experts in {} slots, {} a rank; replica choice {}, combine {}\n",
      options.shape.num_experts, options.shape.num_slots, options.shape.slots_per_rank(),
      replica_choice_name(options.replica_choice), combine_mode_name(options.all_to_all.combine));
  if (wide_ep.device() != nullptr) {
    const Result<int64_t> bytes = wide_ep.device_bytes();
    text += fmt::format("all-to-all: {}; {:.2f} GiB of the GPU beside weights and scratch\n",
                        wide_ep.device()->exchange().name(),
                        bytes.is_ok() ? static_cast<double>(*bytes) / (1 << 30) : 0.0);
  }
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
