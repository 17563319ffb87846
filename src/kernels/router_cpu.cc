#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "kernels/cuda_ops.h"
#include "kernels/parallel.h"
#include "kernels/router.h"
#include "kernels/vector_math.h"

namespace wideep::kernels {
namespace {

constexpr int kMaxBest = std::max(kMaxRouterTopK, kMaxRouterGroups);

// The `top_k` largest of what is offered, in descending order; ties go to what was offered first.
// NaN counts as -infinity.
class Best {
 public:
  explicit Best(int top_k) : top_k_(top_k) {}

  void offer(int id, float score) {
    if (std::isnan(score)) score = -std::numeric_limits<float>::infinity();
    if (count_ == top_k_) {
      if (!(score > scores_[count_ - 1])) return;
      --count_;
    }
    int place = count_++;
    for (; place > 0 && score > scores_[place - 1]; --place) {
      scores_[place] = scores_[place - 1];
      ids_[place] = ids_[place - 1];
    }
    scores_[place] = score;
    ids_[place] = id;
  }

  int count() const { return count_; }
  int id(int i) const { return ids_[i]; }
  float score(int i) const { return scores_[i]; }

 private:
  int top_k_;
  int count_ = 0;
  float scores_[kMaxBest];
  int ids_[kMaxBest];
};

void offer_all(const float* scores, int begin, int end, Best& best) {
  for (int id = begin; id < end; ++id) best.offer(id, scores[id]);
}

// Of the topk_group groups with the largest sum of their two best.
Best best_of_groups(const float* choice, int num_experts, const RouterParams& params) {
  Best best(params.top_k);
  const int group_size = num_experts / params.n_group;
  if (params.topk_group >= params.n_group) {
    offer_all(choice, 0, num_experts, best);
    return best;
  }
  Best best_groups(params.topk_group);
  for (int g = 0; g < params.n_group; ++g) {
    Best two(std::min(2, group_size));
    offer_all(choice, g * group_size, (g + 1) * group_size, two);
    best_groups.offer(g, two.count() == 2 ? two.score(0) + two.score(1) : two.score(0));
  }
  bool kept[kMaxRouterGroups] = {};
  for (int i = 0; i < best_groups.count(); ++i) kept[best_groups.id(i)] = true;
  // In ascending order, for the ties.
  for (int g = 0; g < params.n_group; ++g) {
    if (kept[g]) offer_all(choice, g * group_size, (g + 1) * group_size, best);
  }
  return best;
}

void route_token(const float* logits, int num_experts, const RouterParams& params, int32_t* ids,
                 float* weights) {
  float scores[kMaxRouterExperts];
  Best best(params.top_k);
  switch (params.scoring) {
    case RouterScoring::kSigmoidGroups: {
      float choice[kMaxRouterExperts];
      sigmoid_row(logits, num_experts, scores);
      for (int e = 0; e < num_experts; ++e) {
        choice[e] = params.bias != nullptr ? scores[e] + params.bias[e] : scores[e];
      }
      best = best_of_groups(choice, num_experts, params);
      for (int k = 0; k < params.top_k; ++k) weights[k] = scores[best.id(k)];
      break;
    }
    case RouterScoring::kSoftmax: {
      offer_all(logits, 0, num_experts, best);
      const float total = exp_row(logits, best.score(0), 1, num_experts, scores);
      for (int k = 0; k < params.top_k; ++k) weights[k] = scores[best.id(k)] / total;
      break;
    }
    case RouterScoring::kSigmoidOfTopK: {
      offer_all(logits, 0, num_experts, best);
      for (int k = 0; k < params.top_k; ++k) weights[k] = logits[best.id(k)];
      sigmoid_row(weights, params.top_k, weights);
      break;
    }
  }
  float total = 0;
  for (int k = 0; k < params.top_k; ++k) {
    ids[k] = best.id(k);
    total += weights[k];
  }
  // As the published code of DeepSeek-V3 guards against weights that are all 0.
  const float factor = params.normalize ? params.scaling / (total + 1e-20F) : params.scaling;
  for (int k = 0; k < params.top_k; ++k) weights[k] *= factor;
}

}  // namespace

void route(Stream& stream, const RouterParams& params) {
  const ConstMatrixView& logits = params.logits;
  const auto num_experts = static_cast<int>(logits.columns);
  CHECK(logits.dtype == DType::kF32 && num_experts <= kMaxRouterExperts);
  CHECK(params.top_k >= 1 && params.top_k <= std::min(num_experts, kMaxRouterTopK));
  if (params.scoring == RouterScoring::kSigmoidGroups) {
    CHECK(params.n_group >= 1 && params.n_group <= kMaxRouterGroups &&
          num_experts % params.n_group == 0);
    CHECK(params.topk_group >= 1 && params.topk_group <= params.n_group);
    CHECK(params.top_k <= params.topk_group * (num_experts / params.n_group));
  }
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::route(stream, params);
  }
  const int64_t num_tokens = params.num_tokens != nullptr ? *params.num_tokens : logits.rows;
  parallel_ranges(stream, logits.rows, 3.0 * num_experts, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      if (t >= num_tokens) {
        std::fill_n(params.ids + t * params.top_k, params.top_k, -1);
        std::fill_n(params.weights + t * params.top_k, params.top_k, 0.0F);
        continue;
      }
      route_token(logits.row<float>(t), num_experts, params, params.ids + t * params.top_k,
                  params.weights + t * params.top_k);
    }
  });
}

}  // namespace wideep::kernels
