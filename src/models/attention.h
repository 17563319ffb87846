// An attention layer of this rank: its heads, from a normalised hidden state to its part of the
// output.
//
// Tensor parallelism: a rank has a run of consecutive query heads and the KV heads they use; where
// there are fewer KV heads than ranks, neighbours keep copies. With MLA the latent has one head, so
// every rank keeps all of it, and the projections down to the latents are not sharded.
//
// Context parallelism: queries and new keys are gathered from the cp group, each rank attends to
// the pages it holds, and partial results go back to the rows' ranks, which merge them by their
// log-sum-exp. The same for prefill and decode.
#pragma once

#include <memory>
#include <string>

#include "base/arena.h"
#include "base/status.h"
#include "base/tensor.h"
#include "config/model_config.h"
#include "kernels/attention.h"
#include "models/forward_pass.h"
#include "models/weights.h"

namespace wideep::models {

// The heads [heads.begin, heads.end) of a rank and the KV heads that they use.
struct HeadShare {
  Share heads;
  Share kv_heads;
};
// num_attention_heads % tp == 0; KV heads divide tp or are divided by it, or there is one (MLA).
HeadShare head_share(const ModelConfig& config, int tp, int tp_rank);

class Attention {
 public:
  virtual ~Attention() = default;

  // x and y [own rows, hidden_size]; cache: this layer's pages. y is the part of this rank's heads:
  // complete after a sum over the tp group. Collective over the cp group.
  virtual Status forward(const ForwardPass& pass, ConstMatrixView x,
                         const kernels::KvCacheView& cache, MatrixView y) const = 0;

  virtual int num_heads() const = 0;
  // Of a key and a value where prompts attend to themselves before absorption; 0: they do not.
  struct SelfDims {
    int k_dim = 0;
    int v_dim = 0;
  };
  virtual SelfDims self_dims() const { return {}; }
  // The layout of the cache: all but data, dtype and page_size.
  virtual kernels::KvCacheView cache_layout() const = 0;
  // Most that forward() takes of the arena for a batch of max_rows.
  virtual int64_t scratch_bytes(int max_rows, int cp) const = 0;
};

struct AttentionOptions {
  const ModelConfig* config = nullptr;
  int layer = 0;
  std::string prefix;  // of the tensors: "model.layers.3.self_attn."
  HeadShare share;
  DType weight_dtype = DType::kBF16;
  bool on_gpu = false;
};

// Plans the weights in the store; they are there after its load().
std::unique_ptr<Attention> make_attention(const AttentionOptions& options, WeightStore& store);

}  // namespace wideep::models
