// What the layers of backend WideEP share on one rank: the all-to-all, where experts are, and the
// online balancer that moves them.
//
// Iterations: the ranks of the EP group tell each other their RankState (it rides on the exchange
// that attention DP needs anyway) and all call begin_iteration() with the same states before the
// first layer. There counts of the last iteration are summed over the ranks and given to the
// planner; what the planners of all ranks have decided becomes moves; what has been staged on all
// ranks is committed. So a placement changes between two iterations, on all ranks between the same
// two.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "alltoall/alltoall.h"
#include "base/status.h"
#include "dist/communicator.h"
#include "eplb/online.h"
#include "moe/host_weights.h"
#include "moe/migration.h"
#include "moe/online_planner.h"
#include "moe/slot_chooser.h"
#include "moe/wide_ep_device.h"

namespace wideep::moe {

// What a rank tells the others of its EP group at the beginning of an iteration.
struct RankState {
  int64_t num_planned = 0;      // iterations whose decisions its planner has
  uint64_t placement_hash = 0;  // of all layers' slots
  // Iterations whose copies of experts are done on it (migration.h).
  int64_t num_copied = ExpertCopies::kAll;
};

// The load of one layer in one iteration.
struct LayerReport {
  int layer = 0;
  double imbalance = 0;  // (max - mean) / mean of the rows that ranks got, over all chunks
  // The same if each expert were on one rank, the experts in order.
  double unbalanced = 0;
};

// A decision of the planner.
struct LayerTurn {
  int layer = 0;
  eplb::LayerUpdate update;  // moved: the new placement's experts are on their way from now on
};

// What an iteration did, the same on all ranks but for the times.
struct IterationReport {
  int num_ranks = 0;
  int num_slots = 0;
  std::vector<LayerReport> layers;  // those with tokens
  MigrationWork migration;          // at its beginning
  std::vector<LayerTurn> turns;     // decisions that were taken up
  double planner_seconds = 0;       // of this rank's planner for them
  double wait_seconds = 0;          // of this rank in begin_iteration()
};

struct WideEpOptions {
  eplb::Shape shape;        // num_ranks: of the EP group
  std::vector<int> layers;  // decoder layers with experts on this rank, ascending
  // [layers][num_slots] to start from; an empty row: TensorRT-LLM's default assignment.
  std::vector<std::vector<int>> slots;
  eplb::ReplicaChoice replica_choice = eplb::ReplicaChoice::kPerBatch;
  alltoall::GroupShape all_to_all;  // on CPUs
  int64_t max_num_tokens = 0;       // of the group in one chunk
  // On GPUs, where it takes the place of all_to_all.
  std::optional<SlotExchangeOptions> exchange = std::nullopt;

  // 0: placements stay.
  int layer_updates_per_iter = 0;
  int max_transfers_per_iter = 1;  // experts that a rank receives in an iteration
  eplb::OnlineOptions online;
  WeightSource weight_source = WeightSource::kPeer;
  SharedMemoryOptions shared_memory = {};  // for WeightSource::kHost
  // For tests; see OnlinePlannerOptions.
  std::function<std::vector<int>(int, int64_t, std::span<const int>)> forced = {};
};

class WideEp {
 public:
  explicit WideEp(WideEpOptions options);

  // Collective over the EP group, which outlives this, once the weights are loaded.
  // slots: [layers][slots_per_rank] of this rank. stream: the GPU's, where there is one; it
  // outlives this as well.
  Status start(dist::Communicator& group, std::vector<std::vector<SlotBytes>> slots,
               Stream* stream = nullptr);

  // The store that experts are read from; null: peers.
  const HostWeights* host_weights() const { return host_weights_.get(); }

  RankState state();
  // Collective. states: [ranks] of the group. kAborted, on every rank, where placements differ.
  Status begin_iteration(std::span<const RankState> states);
  // After the last op of an iteration was put on the stream. kAborted where a peer of a GPU did not
  // come, as far as that is known by now: check() says so once the stream has been waited for.
  Status end_iteration();
  Status check() const;

  // For the layers.
  const WideEpOptions& options() const { return options_; }
  dist::Communicator& group() const { return *group_; }
  alltoall::AllToAll& all_to_all() const { return *all_to_all_; }
  SlotChooser& chooser(int layer_index) { return *choosers_[layer_index]; }
  WideEpDevice* device() const { return device_.get(); }  // null on CPUs
  ExpertCopies* copies() { return migration_ ? &migration_->copies() : nullptr; }
  // ids [pairs] of this rank's tokens; a chunk's rows went where the all-to-all's plan says.
  void count(int layer_index, std::span<const int32_t> ids);

  std::span<const int> slots(int layer_index) const { return options_.slots[layer_index]; }
  // Of the iteration that began last, once it is over: waits for it on a GPU. Loads are kept only
  // while they are observed; on a GPU, from before a step is captured on.
  void observe(bool observes = true);
  IterationReport report();
  // What it takes of a GPU beside weights and arena, before start().
  Result<int64_t> device_bytes() const;
  // May a decode step be captured in a graph?
  bool is_capturable() const;

 private:
  Status check_same_placements(std::span<const RankState> states) const;
  WideEpDevice::Options device_options() const;
  void take_device_rows();
  LayerReport report_layer(int layer_index) const;
  Status record_counts();
  Status take_decisions(std::span<const RankState> states);
  void place(LayerPlacement placement);
  uint64_t hash_placements() const;

  WideEpOptions options_;
  dist::Communicator* group_ = nullptr;
  std::unique_ptr<alltoall::AllToAll> all_to_all_;      // on CPUs
  std::unique_ptr<WideEpDevice> device_;                // on GPUs
  std::vector<std::unique_ptr<SlotChooser>> choosers_;  // [layers], on CPUs
  std::unique_ptr<HostWeights> host_weights_;
  std::unique_ptr<OnlinePlanner> planner_;
  std::optional<Migration> migration_;
  uint64_t placement_hash_ = 0;

  // Of the current iteration:
  int64_t iteration_ = -1;
  std::vector<int64_t> counts_;  // [layers, num_experts] of this rank's tokens
  bool observes_ = false;
  std::vector<int64_t> slot_rows_;  // [layers, num_slots] of all ranks, over all chunks
  IterationReport report_;          // without layers
};

// Slots, choices and online balancer as lines for people.
std::string describe(const WideEp& wide_ep);

}  // namespace wideep::moe
