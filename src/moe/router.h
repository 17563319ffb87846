// The router of an MoE layer: scores of the experts, and the choice of a token's top_k.
#pragma once

#include <cstdint>
#include <span>

#include "base/stream.h"
#include "base/tensor.h"
#include "config/model_config.h"
#include "kernels/linear.h"

namespace wideep::moe {

class Router {
 public:
  // gate [num_experts, hidden_size] without rounding, whatever the model's type is, since the
  // choice of experts is sensitive: kF32, or kBF16 where that holds its values. bias [num_experts]:
  // DeepSeek's correction; null for none. Both are the caller's, outlive the router, and need their
  // values at forward() only.
  Router(const MoeModelConfig& config, const kernels::PackedWeight& gate,
         const std::span<const float>* bias);

  // x [tokens, hidden_size]; logits [tokens, num_experts] is scratch; ids and weights
  // [tokens, top_k].
  struct Output {
    MatrixView logits;
    int32_t* ids = nullptr;
    float* weights = nullptr;
    // Of the stream's device: tokens from there on go nowhere; null: all go.
    const int* num_tokens = nullptr;
  };
  void forward(Stream& stream, ConstMatrixView x, const Output& output) const;

 private:
  MoeModelConfig config_;
  const kernels::PackedWeight* gate_;
  const std::span<const float>* bias_;
};

}  // namespace wideep::moe
