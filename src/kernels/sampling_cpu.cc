#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <limits>
#include <vector>

#include "base/check.h"
#include "base/random.h"
#include "kernels/cuda_ops.h"
#include "kernels/parallel.h"
#include "kernels/sampling.h"
#include "kernels/vector_math.h"

namespace wideep::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kBlock = 256;

// The largest finite logit, ties to the smaller id; -1 for none.
int greedy_token(const float* logits, int vocab) {
  const float most = max_finite_row(logits, vocab);
  for (int begin = 0; begin < vocab; begin += kBlock) {
    const int end = std::min(begin + kBlock, vocab);
    bool here = false;  // found for a block at a time: the compiler makes vectors of it
    for (int id = begin; id < end; ++id) here |= logits[id] == most;
    if (here && most > -kInfinity) {
      return static_cast<int>(std::find(logits + begin, logits + end, most) - logits);
    }
  }
  return -1;
}

// Proportional to exp(logit / temperature), 1 for the largest logit `most`.
struct Probabilities {
  Probabilities(const float* logits, int vocab, float most, float temperature) : values(vocab) {
    for (int id = 0; id < vocab; ++id) {
      values[id] = std::abs(logits[id]) < kInfinity ? logits[id] : -kInfinity;
    }
    const float scale = inverse_of_temperature(temperature);
    for (int begin = 0; begin < vocab; begin += kBlock) {
      const int count = std::min(kBlock, vocab - begin);
      block_sums.push_back(exp_row(&values[begin], most, scale, count, &values[begin]));
      total += block_sums.back();
    }
  }

  int vocab() const { return static_cast<int>(values.size()); }

  std::vector<float> values;
  std::vector<float> block_sums;  // of kBlock values each
  double total = 0;
};

// Walks id_of(0) to id_of(count - 1) until their probabilities exceed `share`. Rounding may leave
// the walk short of it: then the last token that has a probability.
template <typename IdOf>
int pick(const Probabilities& probabilities, int count, double share, const IdOf& id_of) {
  double sum = 0;
  int last = -1;
  for (int i = 0; i < count; ++i) {
    const int id = id_of(i);
    const float probability = probabilities.values[id];
    if (probability <= 0) continue;
    sum += probability;
    last = id;
    if (sum > share) break;
  }
  return last;
}

// Of all tokens, by id.
int pick_any(const Probabilities& probabilities, double share) {
  const std::vector<float>& sums = probabilities.block_sums;
  int chosen = -1;
  for (int block = 0; block < static_cast<int>(sums.size()); ++block) {
    if (sums[block] <= 0) continue;
    chosen = block;
    if (share < sums[block]) break;
    share -= sums[block];
  }
  const int begin = chosen * kBlock;
  const int count = std::min(kBlock, probabilities.vocab() - begin);
  return pick(probabilities, count, share, [&](int i) { return begin + i; });
}

// At least `count` probabilities are no less than this: the count-th largest of the blocks' maxima,
// for the largest blocks of which there are enough.
float bound_of_largest(const Probabilities& probabilities, int count) {
  const int block = std::min(kBlock, probabilities.vocab() / (4 * count));
  if (block < 8) return 0;
  std::vector<float> maxima;
  for (int begin = 0; begin + block <= probabilities.vocab(); begin += block) {
    maxima.push_back(max_finite_row(&probabilities.values[begin], block));
  }
  std::nth_element(maxima.begin(), maxima.begin() + count - 1, maxima.end(), std::greater<>());
  return maxima[count - 1];
}

// Ids of the probabilities that can be among the largest, by id.
std::vector<int> ids_to_sort(const Probabilities& probabilities, const SamplingParams& sampling) {
  // Without top_k: all tokens below this together have less than the 1 - top_p that is cut off;
  // half of it leaves room for rounding.
  const double cut = 0.5 * (1 - static_cast<double>(sampling.top_p)) * probabilities.total;
  const float bound = sampling.top_k > 0 ? bound_of_largest(probabilities, sampling.top_k)
                                         : static_cast<float>(cut / probabilities.vocab());
  std::vector<int> ids(probabilities.vocab());
  size_t count = 0;
  for (int id = 0; id < probabilities.vocab(); ++id) {
    ids[count] = id;
    count += static_cast<size_t>(probabilities.values[id] >= bound);
  }
  ids.resize(count);
  return ids;
}

// The tokens that top_k and top_p leave, the most probable first, ties to the smaller id, and the
// sum of their probabilities. Sorts no more than it needs: few tokens hold nearly all of the sum.
struct Candidates {
  Candidates(const Probabilities& probabilities, const SamplingParams& sampling)
      : ids(ids_to_sort(probabilities, sampling)) {
    const auto more_probable = [&](int a, int b) {
      const float p = probabilities.values[a];
      const float q = probabilities.values[b];
      return p != q ? p > q : a < b;
    };
    const auto begin = ids.begin();
    const auto size = static_cast<int>(ids.size());
    const int most = sampling.top_k > 0 ? std::min(sampling.top_k, size) : size;
    double all = probabilities.total;  // that top_p is a share of
    if (most < size) std::nth_element(begin, begin + most, ids.end(), more_probable);
    if (sampling.top_k > 0) {
      all = 0;
      for (int i = 0; i < most; ++i) all += probabilities.values[ids[i]];
    }
    const double goal = static_cast<double>(sampling.top_p) * all;
    int sorted = 0;
    int kept = 0;
    while (kept < most && (kept == 0 || total < goal)) {
      if (kept == sorted) {
        sorted = std::min(most, std::max(64, 8 * sorted));
        std::partial_sort(begin + kept, begin + sorted, begin + most, more_probable);
      }
      total += probabilities.values[ids[kept++]];
    }
    ids.resize(kept);
  }

  std::vector<int> ids;
  double total = 0;
};

int sample_row(const float* logits, int vocab, const SampleRequest& request) {
  const SamplingParams& sampling = request.sampling;
  const int greedy = greedy_token(logits, vocab);
  if (sampling.temperature <= 0 || greedy < 0) return greedy;
  const Probabilities probabilities(logits, vocab, logits[greedy], sampling.temperature);
  const double u = Random(sampling.seed, {static_cast<uint64_t>(request.position)}).uniform();
  if (sampling.top_k <= 0 && sampling.top_p >= 1) {
    return pick_any(probabilities, u * probabilities.total);
  }
  const Candidates left(probabilities, sampling);
  return pick(probabilities, static_cast<int>(left.ids.size()), u * left.total,
              [&](int i) { return left.ids[i]; });
}

class CpuSampler : public Sampler {
 public:
  explicit CpuSampler(int64_t max_rows) : last_(static_cast<size_t>(max_rows)) {}

  void start(Stream& stream, ConstMatrixView logits,
             std::span<const SampleRequest> requests) override {
    CHECK(logits.dtype == DType::kF32);
    CHECK(logits.rows == static_cast<int64_t>(requests.size()));
    CHECK_LT(static_cast<int>(batches_.size()), kMaxBatches);
    CHECK(requests.size() <= last_.size());
    parallel_ranges(stream, logits.rows, 2.0 * static_cast<double>(logits.columns),
                    [&](int64_t begin, int64_t end) {
                      for (int64_t r = begin; r < end; ++r) {
                        last_[r] = sample_row(logits.row<float>(r),
                                              static_cast<int>(logits.columns), requests[r]);
                      }
                    });
    batches_.emplace_back(last_.begin(), last_.begin() + std::ssize(requests));
  }

  void take(Stream&, std::span<int> tokens) override {
    CHECK(!batches_.empty() && batches_.front().size() == tokens.size());
    std::ranges::copy(batches_.front(), tokens.begin());
    batches_.pop_front();
  }

  const int* tokens() const override { return last_.data(); }

 private:
  std::vector<int> last_;  // [max_rows]
  std::deque<std::vector<int>> batches_;
};

}  // namespace

Result<std::unique_ptr<Sampler>> Sampler::create(const Stream& stream, int64_t max_rows) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::make_sampler(max_rows);
  }
  return std::unique_ptr<Sampler>(std::make_unique<CpuSampler>(max_rows));
}

void take_sampled(Stream& stream, const int* sampled, std::span<int> ids) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::take_sampled(stream, sampled, ids);
  }
  for (int& id : ids) {
    if (id < 0) id = std::max(sampled[-1 - id], 0);
  }
}

}  // namespace wideep::kernels
