// Replay: what a placement would do over many iterations, simulated on the host for any number of
// ranks up to some thousands. It answers "which EP size, how many slots, which replica choice, is
// online balancing worth it" before any GPU is rented. docs/replay.md has the models and how far
// they go.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/status.h"
#include "eplb/batch_source.h"
#include "eplb/hardware_profile.h"
#include "eplb/online.h"
#include "eplb/replica_choice.h"
#include "eplb/types.h"

namespace wideep::eplb {

// Mean, 99th percentile (nearest rank: the smallest value with at least 99 % at or below it) and
// largest of a series; all 0 for none.
struct Summary {
  double mean = 0;
  double p99 = 0;
  double max = 0;
};
Summary summarize(std::span<const double> values);

// Batches come from `source` from this iteration on, until the next phase.
struct ReplayPhase {
  const BatchSource* source = nullptr;
  int64_t first_iteration = 0;
};

struct ReplayOptions {
  int num_iterations = 0;
  ReplicaChoice replica_choice = ReplicaChoice::kRoundRobin;
  HardwareProfile profile;
  MoeModel model;
  // True: layers are re-planned in turn, Plan::layer_updates_per_iter of them an iteration.
  bool online = false;
  OnlineOptions balancer;
  // Tokens of each batch whose destination ranks are counted, for send ranks.
  int send_rank_samples = 64;
  int threads = 0;                           // 0: all cores; does not change the result
  std::function<void()> on_layer_iteration;  // called from any thread
};

// Iterations [num_iterations]; each an average over the layers, except step_time, a sum.
struct ReplaySeries {
  std::vector<double> imbalance;   // (max - mean) / mean of the tokens of ranks
  std::vector<double> send_ranks;  // distinct ranks of a token
  std::vector<double> step_time;   // s of all MoE layers, see hardware_profile.h
};

struct ReplayLayer {
  int layer = 0;
  double imbalance = 0;       // mean over iterations
  double imbalance_none = 0;  // the same without balancing
  int64_t transfers = 0;
};

struct ReplayResult {
  ReplaySeries plan;  // the plan, as it changes where online
  ReplaySeries none;  // no balancing, on the same batches
  bool none_has_replicas = false;
  std::vector<int64_t> transfers;  // [num_iterations] slots copied from another rank, all layers
  std::vector<ReplayLayer> layers;
  int64_t transfer_bytes = 0;  // of one transfer
};

// Runs the plan on batches of `phases` (at least one, the first from iteration 0, all with the
// plan's experts and layers). Without balancing means: experts in order, in one slot each, where
// num_ranks divides them; else TensorRT-LLM's default assignment of the plan's slots. Deterministic
// for any number of threads. Time: iterations x layers x (drawing + splitting a batch); memory: a
// few numbers an iteration and layer.
Result<ReplayResult> replay(const std::vector<ReplayPhase>& phases, const Plan& plan, int num_ranks,
                            const ReplayOptions& options);

// Expected distinct ranks of a token whose experts' tokens are spread as tokens_of_slot says:
// sum over ranks of 1 - product over its experts of (1 - the expert's share on the rank), averaged
// over the tokens of `experts` [n, top_k] (-1: not routed); 0 where there are none.
double mean_send_ranks(const Shape& shape, const ReplicaTable& table,
                       std::span<const int64_t> tokens_of_slot, std::span<const int> experts,
                       int top_k);

}  // namespace wideep::eplb
