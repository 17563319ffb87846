// Which experts a token goes to, and with what weights.
#pragma once

#include <cstdint>

#include "base/stream.h"
#include "base/tensor.h"

namespace wideep::kernels {

// Formulas: DeepSeek-V3 (arXiv 2412.19437, section 2.1.2), Qwen3-MoE and Llama 4 as in their
// published checkpoints' reference code.
enum class RouterScoring {
  // s = sigmoid(logits); groups of experts are ranked by the sum of their two largest s + bias and
  // the best topk_group groups stay; the top_k largest s + bias among them are chosen; weights are
  // s without the bias.
  kSigmoidGroups,
  kSoftmax,        // weights = softmax over all experts, of the top_k largest
  kSigmoidOfTopK,  // weights = sigmoid of the top_k largest logits
};

// Tables of a token are on the stack.
inline constexpr int kMaxRouterExperts = 1024;
inline constexpr int kMaxRouterGroups = 64;
inline constexpr int kMaxRouterTopK = 32;

// Ties go to the smaller expert id, the same on every device. A token's experts are in descending
// order of what they were chosen by.
struct RouterParams {
  ConstMatrixView logits;       // [tokens, num_experts]
  const float* bias = nullptr;  // [num_experts], kSigmoidGroups; null for none
  RouterScoring scoring = RouterScoring::kSoftmax;
  int top_k = 0;
  int n_group = 1;
  int topk_group = 1;
  bool normalize = false;  // weights of a token sum to 1 (before scaling)
  float scaling = 1;
  // Memory of the stream's device: tokens from there on only fill the batch up, and go nowhere (ids
  // -1, weights 0). Null: none do.
  const int* num_tokens = nullptr;
  int32_t* ids = nullptr;    // [tokens, top_k]
  float* weights = nullptr;  // [tokens, top_k]
};
void route(Stream& stream, const RouterParams& params);

}  // namespace wideep::kernels
