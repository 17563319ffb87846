// The feed-forward half of a decoder layer: a dense MLP, or routed experts with a shared one.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/tensor.h"
#include "config/mapping.h"
#include "config/model_config.h"
#include "dist/groups.h"
#include "dist/tensor_group.h"
#include "models/forward_pass.h"
#include "models/model.h"
#include "models/weights.h"
#include "moe/moe_layer.h"
#include "moe/router.h"
#include "moe/slot_bytes.h"
#include "moe/wide_ep.h"

namespace wideep::models {

class FeedForward {
 public:
  virtual ~FeedForward() = default;
  // x and y [own rows, hidden_size]. With attention TP y is this rank's part, complete after a sum
  // over the tp group; with attention DP it is complete. dp_rows: own rows of every rank of the tp
  // group with attention DP, else empty.
  virtual Status forward(const ForwardPass& pass, ConstMatrixView x, std::span<const int> dp_rows,
                         MatrixView y) const = 0;
  virtual int64_t scratch_bytes(int max_rows) const = 0;
  // The slots of this rank, with backend WideEP; else none.
  virtual moe::ExpertWeights slot_weights() const { return {}; }
  // The two parts of an MoE layer that are not the shared expert; null where it is dense.
  virtual const moe::Router* router() const { return nullptr; }
  virtual moe::MoeLayer* experts() const { return nullptr; }
};

struct FeedForwardOptions {
  const ModelOptions* model = nullptr;
  Coordinates rank;
  int layer = 0;
  std::string prefix;               // of the layer's tensors: "model.layers.3."
  dist::TensorGroup* tp = nullptr;  // null for a group of one rank
  bool on_gpu = false;
  RoutingObserver* const* observer = nullptr;  // where the model keeps its observer, null or not
  moe::WideEp* wide_ep = nullptr;              // null: backend CUTLASS
};

// The memory of the slots of this rank, after the store's load(); none without slots.
std::vector<moe::SlotBytes> slot_bytes(const WeightStore& store, const FeedForward& layer);

// Plans the weights in the store; they are there after its load().
std::unique_ptr<FeedForward> make_feed_forward(const FeedForwardOptions& options,
                                               WeightStore& store);

}  // namespace wideep::models
