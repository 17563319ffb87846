#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "base/check.h"
#include "base/random.h"
#include "kernels/parallel.h"
#include "kernels/sampling.h"
#include "kernels/vector_math.h"

namespace wideep::kernels {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

// The largest finite logit, ties to the smaller id; -1 for none.
int greedy_token(const float* logits, int vocab) {
  int best = -1;
  float most = kNone;
  for (int id = 0; id < vocab; ++id) {
    if (logits[id] > most && logits[id] < std::numeric_limits<float>::infinity()) {
      most = logits[id];
      best = id;
    }
  }
  return best;
}

// Walks tokens until their probabilities exceed a share `u` of `total`. Rounding may leave the walk
// short of it: then the last token that has a probability.
template <typename TokenOf>
int pick(const std::vector<float>& probabilities, int count, double share,
         const TokenOf& token_of) {
  double sum = 0;
  int last = -1;
  for (int i = 0; i < count; ++i) {
    const int token = token_of(i);
    if (probabilities[token] <= 0) continue;
    sum += probabilities[token];
    last = token;
    if (sum > share) return token;
  }
  return last;
}

// The tokens that top_k and top_p leave, the most probable first, ties to the smaller id. Sorts no
// more than it needs: few tokens hold nearly all of the probability.
struct Candidates {
  std::vector<int> ids;
  double total = 0;  // of their probabilities
};

Candidates candidates(const std::vector<float>& probabilities, const SamplingParams& sampling) {
  const auto vocab = static_cast<int>(probabilities.size());
  const int most = sampling.top_k > 0 ? std::min(sampling.top_k, vocab) : vocab;
  Candidates result;
  result.ids.resize(vocab);
  std::iota(result.ids.begin(), result.ids.end(), 0);
  const auto more_probable = [&](int a, int b) {
    return probabilities[a] != probabilities[b] ? probabilities[a] > probabilities[b] : a < b;
  };
  const auto sum = [&](int begin, int end) {
    double total = 0;
    for (int i = begin; i < end; ++i) total += probabilities[result.ids[i]];
    return total;
  };
  const auto begin = result.ids.begin();
  if (most < vocab) std::nth_element(begin, begin + most - 1, result.ids.end(), more_probable);
  // top_p is a share of what top_k left.
  const double goal = static_cast<double>(sampling.top_p) * sum(0, most);
  int sorted = 0;
  int kept = 0;
  while (kept < most && (kept == 0 || result.total < goal)) {
    if (kept == sorted) {
      sorted = std::min(most, std::max(64, 8 * sorted));
      if (sorted < most)
        std::nth_element(begin + kept, begin + sorted - 1, begin + most, more_probable);
      std::sort(begin + kept, begin + sorted, more_probable);
    }
    result.total += probabilities[result.ids[kept++]];
  }
  result.ids.resize(kept);
  return result;
}

int sample_row(const float* logits, int vocab, const SampleRequest& request) {
  const SamplingParams& sampling = request.sampling;
  const int greedy = greedy_token(logits, vocab);
  if (sampling.temperature <= 0 || greedy < 0) return greedy;
  std::vector<float> probabilities(vocab);
  for (int id = 0; id < vocab; ++id) {
    probabilities[id] = std::isfinite(logits[id]) ? logits[id] : kNone;
  }
  // The smallest normal temperature is as good as zero and has a finite inverse.
  const float scale = 1 / std::max(sampling.temperature, std::numeric_limits<float>::min());
  exp_row(probabilities.data(), logits[greedy], scale, vocab, probabilities.data());
  const double u = Random(sampling.seed, {static_cast<uint64_t>(request.position)}).uniform();
  if (sampling.top_k <= 0 && sampling.top_p >= 1) {
    const double total = std::accumulate(probabilities.begin(), probabilities.end(), 0.0);
    return pick(probabilities, vocab, u * total, [](int i) { return i; });
  }
  const Candidates left = candidates(probabilities, sampling);
  return pick(probabilities, static_cast<int>(left.ids.size()), u * left.total,
              [&](int i) { return left.ids[i]; });
}

}  // namespace

void sample(Stream& stream, ConstMatrixView logits, std::span<const SampleRequest> requests,
            std::span<int> tokens) {
  CHECK(logits.dtype == DType::kF32);
  CHECK(logits.rows == static_cast<int64_t>(requests.size()) && requests.size() == tokens.size());
  parallel_ranges(stream, logits.rows, 2.0 * static_cast<double>(logits.columns),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t r = begin; r < end; ++r) {
                      tokens[r] = sample_row(logits.row<float>(r), static_cast<int>(logits.columns),
                                             requests[r]);
                    }
                  });
}

}  // namespace wideep::kernels
