// One rank's part of a model: its weights, its share of every layer, and the forward pass.
//
// The engine owns the KV cache and decides what runs; the model owns weights and activations and
// takes part in the collectives of its groups. forward() is collective over the ranks of a replica:
// all of them call it for every iteration, with zero tokens if they have none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/stream.h"
#include "base/tensor.h"
#include "config/engine_config.h"
#include "config/mapping.h"
#include "config/model_config.h"
#include "dist/groups.h"
#include "models/weight_source.h"
#include "models/weight_type.h"
#include "moe/wide_ep.h"

namespace wideep::models {

// What the KV cache of this rank holds for one token in one layer, and for how many layers.
struct KvSpec {
  int num_layers = 0;  // of this pipeline stage
  int kv_heads = 0;    // of this rank; 1 with MLA
  int row_dim = 0;     // elements of a token and KV head: key and value, or MLA's latent + rope
  DType dtype = DType::kF32;

  int64_t bytes_per_token_and_layer() const {
    return int64_t{kv_heads} * row_dim * dtype_size(dtype);
  }
  int64_t bytes_per_token() const { return num_layers * bytes_per_token_and_layer(); }
};

// Memory of the KV cache: [num_layers, num_pages, page_size, kv_heads, row_dim].
struct KvMemory {
  std::byte* data = nullptr;
  int num_pages = 0;
  int page_size = 0;  // tokens
};

// A request's tokens in an iteration: rows [first_row, first_row + num_rows) of the batch are its
// positions [first_position, first_position + num_rows).
struct BatchSequence {
  int first_row = 0;
  int num_rows = 0;
  int first_position = 0;
  // Page i holds the positions [i * span, (i + 1) * span), span = page_size * cp: with context
  // parallelism a page has the same number on all cp ranks, and rank r keeps the r-th page_size
  // positions of the span.
  std::span<const int> pages;
};

// One iteration of this rank. With attention TP, CP and PP all ranks of a group are given the same
// batch; with attention DP each tp rank its own.
struct Batch {
  std::vector<int> token_ids;  // [tokens]
  // What ids below 0 stand for (kernels::take_sampled), of the device; null where there are none.
  const int* sampled_tokens = nullptr;
  std::vector<BatchSequence> sequences;  // their rows cover the tokens in order
  std::vector<int> logits_rows;          // ascending: the rows whose logits are wanted
  // [tp] tokens of every rank of the tp group in this iteration, with attention DP; else empty.
  std::vector<int> dp_tokens;
  // [tp] balancer_state() of every rank of the tp group before this iteration, with attention DP
  // and backend WideEP; else empty.
  std::vector<moe::RankState> balancer_states;
  // With attention DP: whether is_decode() of every rank.
  bool all_decode = false;

  // One row a sequence, and all logits wanted: what a decode step's graph computes.
  bool is_decode() const;
};

// Sees the experts that tokens were routed to, e.g. to count them. Called by forward(), on its
// thread.
class RoutingObserver {
 public:
  virtual ~RoutingObserver() = default;
  // ids [tokens, top_k] of this rank's rows [first_row, first_row + tokens) of the batch, in
  // decoder layer `layer`.
  virtual void on_routing(int layer, int first_row, std::span<const int32_t> ids, int top_k) = 0;
  // The slots that these choices were sent to, where experts are in slots (backend WideEP with a
  // balancer): [tokens, top_k] of the same rows, in one call or in a call for each chunk.
  virtual void on_slots(int layer, std::span<const int32_t> slots);
};

// Several observers as one, in the order that they were added.
class RoutingObserverList : public RoutingObserver {
 public:
  // Each once; they outlive their time in the list.
  void add(RoutingObserver& observer);
  void remove(RoutingObserver& observer);
  // Whom to call: nullptr, the only one, or this list.
  RoutingObserver* target();

  void on_routing(int layer, int first_row, std::span<const int32_t> ids, int top_k) override;
  void on_slots(int layer, std::span<const int32_t> slots) override;

 private:
  std::vector<RoutingObserver*> observers_;
};

// What is pointed to outlives the model, but for mapping and source, which create() alone needs.
struct ModelOptions {
  const ModelConfig* config = nullptr;
  const EngineConfig* engine = nullptr;  // parallel sizes and limits
  const Mapping* mapping = nullptr;
  dist::Groups* groups = nullptr;  // outlives the model
  WeightSource* source = nullptr;
  // Called before the first read with the bytes that this rank will read in all.
  std::function<void(int64_t bytes)> on_read_planned = {};
  // Of linear weights: kF32, kBF16, or, on a GPU, kF8E4M3 with scales of 128 x 128 blocks, where
  // embedding and output head stay kBF16. Norms are fp32, and routers are not rounded.
  DType weight_dtype = DType::kBF16;
  DType kv_dtype = DType::kBF16;  // kF32 or kBF16
  // What weights and activations may take of a GPU's memory; 0: whatever there is.
  int64_t available_bytes = 0;
  // kF32, or kBF16 to round rotary frequencies as a PyTorch module's .to(bfloat16) leaves them.
  // Wrong by up to 0.2 % of an angle, so for comparisons with such references only.
  DType rope_frequency_dtype = DType::kF32;
};

// Bytes that a model holds, for the allocation plan.
struct ModelMemory {
  int64_t weights = 0;
  int64_t activations = 0;
};

class Model {
 public:
  // Reads and packs this rank's weights. Collective. Sizes that do not divide are kInvalidInput
  // naming both numbers.
  static Result<std::unique_ptr<Model>> create(Stream& stream, const ModelOptions& options);
  virtual ~Model() = default;

  virtual KvSpec kv_spec() const = 0;
  virtual ModelMemory memory() const = 0;
  // Before the first forward(), and its page_size once and for all. The memory is the caller's, of
  // the stream's device, and outlives the model.
  virtual Status set_kv_memory(const KvMemory& memory) = 0;
  // Between calls of forward(); without observers routing costs nothing more.
  virtual void add_routing_observer(RoutingObserver& observer) = 0;
  virtual void remove_routing_observer(RoutingObserver& observer) = 0;

  // What backend WideEP has to say: null with CUTLASS.
  virtual moe::WideEp* wide_ep() = 0;

  // Runs the batch; logits [logits_rows, vocab_size] kF32 are written on every rank of the last
  // pipeline stage (the whole vocabulary, also with TP) and left alone on the others.
  // batch tokens <= EngineConfig::max_num_tokens.
  virtual Status forward(const Batch& batch, MatrixView logits) = 0;
};

}  // namespace wideep::models
