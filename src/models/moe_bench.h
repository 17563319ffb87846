// Times the MoE layers of a model without the rest of it, on one rank of an EP group: routers and
// routed experts, as the decoder has them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "base/stream.h"
#include "dist/tensor_group.h"
#include "models/feed_forward.h"
#include "models/model.h"
#include "models/weights.h"
#include "moe/layer_profile.h"
#include "moe/move_bench.h"
#include "moe/wide_ep.h"

namespace wideep::models {

// What the calls of a measurement are given, of this rank.
struct MoeBenchInput {
  int tokens = 0;  // of every rank
  // Experts [batches][layers][tokens, top_k]; calls take the batches in turn.
  std::vector<std::vector<std::vector<int32_t>>> batches;
  int warmup = 0;  // calls before those that are timed
  // Warm-up calls wait for the planner of the online balancer, so that it has answered before
  // anything is timed.
  bool settle = false;
  int calls = 0;  // timed as they are, and as many again with a profile
};

// The same on all ranks but for y. Microseconds are of one layer: of a call, over its layers.
struct MoeBenchResult {
  // [calls] from a meeting of all ranks to the end of the last layer on the slowest rank, without
  // a profile.
  std::vector<double> us;
  // [ranks] means over calls, from the profiled calls.
  std::vector<moe::LayerProfile::Times> phases;
  double imbalance = 0;    // (max - mean) / mean of the rows of ranks, mean over layers and batches
  int transfers = 0;       // experts that moved in the warm-up
  int late_transfers = 0;  // and in the timed and profiled calls
  std::vector<float> y;    // some rows of the last layer's output for the first batch, of this rank
};

// kInvalidInput where the model has fewer MoE layers, or none are asked for.
Status check_moe_layers(const ModelConfig& model, int num_layers);

class MoeBench {
 public:
  // Collective. The model's first num_layers MoE layers; options as for Model::create(), with the
  // most tokens of a rank as max_num_tokens, and attention DP where there are several ranks.
  static Result<std::unique_ptr<MoeBench>> create(Stream& stream, const ModelOptions& options,
                                                  int num_layers);

  // Collective.
  Result<MoeBenchResult> measure(const MoeBenchInput& input);

  // Collective. What a move of an expert takes; none where nothing moves between GPUs. Afterwards
  // a layer's experts are others.
  Result<std::optional<moe::MoveTimes>> time_moves();

  int64_t weight_bytes() const { return store_.bytes(); }

 private:
  MoeBench(Stream& stream, const ModelOptions& options, int num_layers);
  int64_t scratch_bytes() const;
  Status allocate();
  Status fill_rows();
  Status meet();
  Status set_ids(const MoeBenchInput& input);
  Status exchange_states();
  void wait_for_planner() const;
  Status call(const MoeBenchInput& input, int number, moe::LayerProfile* profile);
  Status warm_up(const MoeBenchInput& input, MoeBenchResult& result);
  Status time_calls(const MoeBenchInput& input, MoeBenchResult& result);
  Status profile_calls(const MoeBenchInput& input, MoeBenchResult& result);
  Status observe_calls(const MoeBenchInput& input, MoeBenchResult& result);
  Result<double> sum_imbalance(const MoeBenchInput& input, int number);
  Result<std::vector<float>> fetch_y(const MoeBenchInput& input);

  Stream& stream_;
  const ModelOptions options_;
  const ModelConfig& config_;
  dist::Communicator& group_;
  WeightStore store_;
  std::unique_ptr<dist::TensorGroup> tensors_;  // null for one rank
  std::vector<std::unique_ptr<FeedForward>> layers_;
  Buffer x_;     // [max_num_tokens, hidden]
  Buffer y_;     // the same
  Buffer ids_;   // [batches][layers][tokens, top_k]
  Buffer flag_;  // what ranks add up to meet
  Buffer scratch_;
  std::vector<moe::RankState> states_;  // [ranks]
  int iteration_ = 0;
  RoutingObserver* observer_ = nullptr;  // nobody observes
  // Last, so that it goes first: it waits for ranks that still read this one's rows.
  std::unique_ptr<moe::WideEp> wide_ep_;  // null: backend CUTLASS
};

}  // namespace wideep::models
