#include "moe/router.h"

#include "config/limits.h"
#include "kernels/router.h"

namespace wideep::moe {
namespace {

static_assert(kMaxGroups <= kernels::kMaxRouterGroups, "what a configuration may ask for");

kernels::RouterScoring scoring_op(Scoring scoring) {
  switch (scoring) {
    case Scoring::kSigmoid:
      return kernels::RouterScoring::kSigmoidGroups;
    case Scoring::kSoftmax:
      return kernels::RouterScoring::kSoftmax;
    case Scoring::kSigmoidInput:
      return kernels::RouterScoring::kSigmoidOfTopK;
  }
  return kernels::RouterScoring::kSoftmax;
}

}  // namespace

Router::Router(const MoeModelConfig& config, const kernels::PackedWeight& gate,
               const std::span<const float>* bias)
    : config_(config), gate_(&gate), bias_(bias) {
  CHECK(gate.out_features == config.num_experts);
  CHECK(bias == nullptr || std::ssize(*bias) == config.num_experts);
}

void Router::forward(Stream& stream, ConstMatrixView x, const Output& output) const {
  kernels::linear(stream, x, *gate_, output.logits);
  kernels::RouterParams params;
  params.logits = output.logits;
  params.bias = bias_ == nullptr ? nullptr : bias_->data();
  params.scoring = scoring_op(config_.scoring);
  params.top_k = config_.top_k;
  params.n_group = config_.n_group;
  params.topk_group = config_.topk_group;
  params.normalize = config_.norm_topk_prob;
  params.scaling = static_cast<float>(config_.routed_scaling_factor);
  params.num_tokens = output.num_tokens;
  params.ids = output.ids;
  params.weights = output.weights;
  kernels::route(stream, params);
}

}  // namespace wideep::moe
