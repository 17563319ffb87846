// The routed experts of one MoE layer, on one rank. Two backends: conventional_layer.h (CUTLASS),
// where every rank sees all tokens of its group, and wide_ep_layer.h (WideEP), where tokens go to
// the ranks of their slots.
#pragma once

#include <cstdint>
#include <span>

#include "base/arena.h"
#include "base/status.h"
#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/grouped_gemm.h"
#include "kernels/linear.h"
#include "kernels/side_stream.h"
#include "moe/layer_profile.h"

namespace wideep::moe {

struct MoeShape {
  int hidden_size = 0;
  int intermediate_size = 0;  // columns of an expert on this rank
  int top_k = 0;
  // Llama 4: the weight multiplies the expert's input, not its output.
  bool weight_scales_input = false;
};

struct MoeInput {
  ConstMatrixView x;               // [tokens, hidden]
  const int32_t* ids = nullptr;    // [tokens, top_k]
  const float* weights = nullptr;  // [tokens, top_k]
  // [tokens, hidden], added to the sum, for layers that add one; null: none.
  ConstMatrixView residual = {};
  kernels::SideStream* side = nullptr;  // joined before the residual is read; null: no need

  std::span<const int32_t> all_ids(int top_k) const {
    return {ids, static_cast<size_t>(x.rows * top_k)};
  }
  // Of `count` tokens from `begin` on.
  MoeInput token_range(int64_t begin, int64_t count, int top_k) const {
    MoeInput range = *this;
    range.x = x.row_range(begin, count);
    range.ids += begin * top_k;
    range.weights += begin * top_k;
    if (residual.data != nullptr) range.residual = residual.row_range(begin, count);
    return range;
  }
};

class MoeLayer {
 public:
  virtual ~MoeLayer() = default;

  // y [tokens, hidden] = the sum over the experts of this rank, or with attention DP of all ranks.
  // dp_tokens: with attention DP the tokens of every rank of the group, else empty. Collective
  // over the group: the number of chunks is the same on all ranks.
  virtual Status forward(Stream& stream, Arena& arena, const MoeInput& input,
                         std::span<const int> dp_tokens, MatrixView y) = 0;

  // Whether input.residual may be given: the shared expert's output, that is.
  virtual bool adds_residual() const { return false; }

  // Most that forward() takes of the arena where no rank has more than max_rows tokens.
  virtual int64_t scratch_bytes(int max_rows) const = 0;

  // Takes the times of the layer's phases from now on; null: none. It outlives its use here. With
  // one, forward() makes the ranks meet before they exchange data.
  void set_profile(LayerProfile* profile) { profile_ = profile; }

 protected:
  // See LayerProfile.
  void begin(Stream& stream, Phase phase) const {
    if (profile_ != nullptr) profile_->begin(stream, phase);
  }
  Status meet(Stream& stream, Phase phase) const {
    return profile_ == nullptr ? Status::ok() : profile_->meet(stream, phase);
  }
  LayerProfile* profile() const { return profile_; }

 private:
  LayerProfile* profile_ = nullptr;
};

// Weights of experts side by side. The memory is the caller's and outlives the layer.
struct ExpertWeights {
  std::span<const kernels::PackedWeight> gate_up;  // [2 * intermediate, hidden], gate above up
  std::span<const kernels::PackedWeight> down;     // [hidden, intermediate]
};

// The experts of a GPU, which lie side by side, as the grouped products take them.
kernels::GroupedWeight grouped(std::span<const kernels::PackedWeight> weights);

// y = down(silu(gate x) * up x) of every row, with the weights of its group: rows [offsets[g],
// offsets[g + 1]) with the g-th. x, y [rows, hidden]. Takes expert_scratch_bytes(rows) of the
// arena.
void run_experts(Stream& stream, Arena& arena, const ExpertWeights& experts,
                 std::span<const int> offsets, ConstMatrixView x, MatrixView y);
int64_t expert_scratch_bytes(int64_t rows, int intermediate_size);

// Chunks that `tokens` are cut into, at most max_num_tokens in each; at least one.
int num_chunks(int64_t tokens, int64_t max_num_tokens);

}  // namespace wideep::moe
