// The routed experts of one MoE layer, backend CUTLASS: every rank sees all tokens of its group and
// computes the experts, or the slices of experts, that it holds.
//
// Attention TP: all ranks of the tp group have the same tokens already, and the sums over ranks are
// left to the caller, who adds the shared expert's part and reduces both at once. Attention DP:
// tokens are gathered from the tp group, and each rank gets back the sums of its own.
//
// MoE TP, EP and hybrid ETP differ only in what a rank holds: rank (moe_tp_rank, moe_ep_rank) has
// slice moe_tp_rank of the experts of moe_ep_rank.
#pragma once

#include <cstdint>
#include <span>

#include "base/arena.h"
#include "base/status.h"
#include "base/stream.h"
#include "base/tensor.h"
#include "dist/communicator.h"
#include "kernels/linear.h"

namespace wideep::moe {

// The experts [first_expert, first_expert + gate_up.size()) of this rank. The memory is the
// caller's and outlives the layer.
struct ExpertWeights {
  int first_expert = 0;
  std::span<const kernels::PackedWeight> gate_up;  // [2 * intermediate, hidden], gate above up
  std::span<const kernels::PackedWeight> down;     // [hidden, intermediate]
};

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
};

class MoeLayer {
 public:
  // `gather`: the tp group with attention DP, null with attention TP; it outlives the layer.
  // `max_num_tokens`: the most tokens of the group in one chunk.
  MoeLayer(const MoeShape& shape, const ExpertWeights& experts, dist::Communicator* gather,
           int max_num_tokens);

  // y [tokens, hidden] = the sum over the experts of this rank, or with attention DP of all ranks.
  // dp_tokens: with attention DP the tokens of every rank of the group, else empty. Collective
  // over the group: the number of chunks is the same on all ranks.
  Status forward(Stream& stream, Arena& arena, const MoeInput& input,
                 std::span<const int> dp_tokens, MatrixView y) const;

  // Most that forward() takes of the arena where no rank has more than max_rows tokens.
  int64_t scratch_bytes(int max_rows) const;

 private:
  Status forward_gathered(Stream& stream, Arena& arena, const MoeInput& input,
                          std::span<const int> counts, MatrixView y) const;
  void run_experts(Stream& stream, Arena& arena, const MoeInput& input, MatrixView y) const;
  int chunks(int64_t tokens) const;

  MoeShape shape_;
  ExpertWeights experts_;
  dist::Communicator* gather_;
  int max_num_tokens_;
};

}  // namespace wideep::moe
