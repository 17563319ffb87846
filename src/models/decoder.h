// The decoder that all three families are: embedding, layers of attention and feed-forward around a
// residual, norm, head. What differs between families is in attention.*, feed_forward.* and the
// model's config.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/arena.h"
#include "base/buffer.h"
#include "base/stream.h"
#include "config/mapping.h"
#include "dist/tensor_group.h"
#include "kernels/attention_tables.h"
#include "models/attention.h"
#include "models/batch_tables.h"
#include "models/decode_graphs.h"
#include "models/feed_forward.h"
#include "models/forward_pass.h"
#include "models/model.h"
#include "models/rope_frequencies.h"
#include "models/weights.h"

namespace wideep::models {

class Decoder : public Model {
 public:
  static Result<std::unique_ptr<Model>> create(Stream& stream, const ModelOptions& options);

  KvSpec kv_spec() const override;
  ModelMemory memory() const override;
  Status set_kv_memory(const KvMemory& memory) override;
  void add_routing_observer(RoutingObserver& observer) override {
    observers_.add(observer);
    observer_ = observers_.target();
  }
  void remove_routing_observer(RoutingObserver& observer) override {
    observers_.remove(observer);
    observer_ = observers_.target();
  }
  moe::WideEp* wide_ep() override { return wide_ep_.get(); }
  Status forward(const Batch& batch, MatrixView logits) override;

 private:
  struct Layer {
    const std::span<const float>* input_norm = nullptr;
    const std::span<const float>* post_attention_norm = nullptr;
    std::unique_ptr<Attention> attention;
    std::unique_ptr<FeedForward> feed_forward;
  };
  // Activations [own rows, hidden_size] on their way through the layers: the state before layer l
  // is residual + delta, whose sum is left to the next norm.
  struct Hidden {
    MatrixView residual;
    MatrixView delta;
    MatrixView x;  // normalised
  };

  Decoder(Stream& stream, const ModelOptions& options);
  void plan_weights();
  Status start_wide_ep();
  Status begin_wide_ep(const Batch& batch);
  Status make_groups();
  Status plan_activations();
  Status check_memory() const;
  Layer plan_layer(int layer);
  int64_t scratch_bytes() const;

  // The rows that a decode step is padded to for its graph; 0: it runs eagerly.
  int graph_rows(const Batch& batch) const;
  Result<ForwardPass> begin_pass(const Batch& batch, int graph_rows, Arena& arena);
  Status run_pass(ForwardPass pass, const Batch& batch, MatrixView logits);
  std::vector<int> own_rows_of_dp(const ForwardPass& pass, const Batch& batch) const;
  kernels::KvCacheView cache_of(int local_layer) const;

  Status run_layers(const ForwardPass& pass, std::span<const int> dp_rows, const Hidden& hidden);
  Status begin_stage(const ForwardPass& pass, const Hidden& hidden);
  Status send_stage(const Hidden& hidden);
  Status write_logits(const ForwardPass& pass, const Batch& batch, const Hidden& hidden,
                      MatrixView logits);
  Result<ConstMatrixView> head_input(const ForwardPass& pass, const Batch& batch,
                                     const Hidden& hidden);
  Status gather_logits(ConstMatrixView own, MatrixView logits, Arena& arena);
  // Sums the parts of the tp group; nothing with attention DP.
  Status reduce(MatrixView y);

  bool is_attention_dp() const { return options_.engine->parallel.enable_attention_dp; }
  bool is_first_stage() const { return rank_.pp_rank == 0; }
  bool is_last_stage() const { return rank_.pp_rank == options_.mapping->pp() - 1; }
  // Ranks that share heads, dense layers and the output head.
  int attention_tp() const { return is_attention_dp() ? 1 : options_.mapping->tp(); }
  int attention_tp_rank() const { return is_attention_dp() ? 0 : rank_.tp_rank; }

  Stream* stream_;
  const Mapping mapping_;
  ModelOptions options_;
  const ModelConfig& config_;
  Coordinates rank_;
  Mapping::Layers range_;  // decoder layers of this stage
  RopeFrequencies rope_;
  KvMemory kv_memory_;
  RoutingObserverList observers_;
  RoutingObserver* observer_ = nullptr;  // their target, which layers look at

  WeightStore store_;
  std::unique_ptr<BatchTables> tables_;                         // of the current batch
  std::unique_ptr<kernels::AttentionTables> attention_tables_;  // on a GPU
  // What layers exchange; null for a group of one rank.
  std::unique_ptr<dist::TensorGroup> tp_;
  std::unique_ptr<dist::TensorGroup> cp_;
  std::unique_ptr<dist::TensorGroup> pp_;
  const ConstMatrixView* embedding_ = nullptr;
  const kernels::PackedWeight* head_ = nullptr;  // this rank's part of the vocabulary
  const std::span<const float>* final_norm_ = nullptr;
  std::vector<Layer> layers_;
  Buffer scratch_;
  int64_t activation_bytes_ = 0;  // scratch, and what backend WideEP takes beside it
  // The last two go first: WideEp waits for ranks that still read this one's activations, and a
  // communicator of NCCL's for the end of the graphs that hold its calls.
  std::unique_ptr<moe::WideEp> wide_ep_;  // null: backend CUTLASS
  DecodeGraphs graphs_;
};

}  // namespace wideep::models
