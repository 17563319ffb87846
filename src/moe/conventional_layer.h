// Backend CUTLASS, the conventional path: every rank sees all tokens of its group and computes the
// experts, or the slices of experts, that it holds.
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

#include "dist/tensor_group.h"
#include "moe/moe_layer.h"

namespace wideep::moe {

class ConventionalLayer : public MoeLayer {
 public:
  // `experts`: those from first_expert on. `gather`: the tp group with attention DP, null with
  // attention TP; it outlives the layer. `max_num_tokens`: the most tokens of the group in one
  // chunk.
  struct Options {
    MoeShape shape;
    int first_expert = 0;
    ExpertWeights experts;
    dist::TensorGroup* gather = nullptr;
    int max_num_tokens = 0;
    bool on_gpu = false;
  };
  explicit ConventionalLayer(const Options& options);

  Status forward(Stream& stream, Arena& arena, const MoeInput& input,
                 std::span<const int> dp_tokens, MatrixView y) override;
  bool adds_residual() const override { return options_.on_gpu && options_.gather == nullptr; }
  int64_t scratch_bytes(int max_rows) const override;
  // The same of a layer on a GPU with num_experts of its own, of a group of `ranks`, whose experts
  // and group are not there yet.
  static int64_t device_scratch_bytes(const Options& options, int num_experts, int64_t max_rows,
                                      int64_t ranks);

 private:
  Status forward_gathered(Stream& stream, Arena& arena, const MoeInput& input,
                          std::span<const int> counts, MatrixView y) const;
  void run_own_experts(Stream& stream, Arena& arena, const MoeInput& input, MatrixView y) const;

  const Options options_;
  const MoeShape shape_;
};

}  // namespace wideep::moe
