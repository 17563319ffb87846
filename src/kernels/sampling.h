// Choosing the next token from logits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>

#include "base/status.h"
#include "base/stream.h"
#include "base/tensor.h"

namespace wideep::kernels {

struct SamplingParams {
  float temperature = 0;  // 0: greedy
  int top_k = 0;          // of the k largest logits only; 0: all
  float top_p = 1;        // of the fewest tokens whose probabilities reach top_p
  uint64_t seed = 0;
};

// What differences of logits are multiplied by. Temperatures are normal numbers: the smallest is as
// good as 0 and has a finite inverse, the largest as good as infinity.
inline float inverse_of_temperature(float temperature) {
  using Limits = std::numeric_limits<float>;
  return 1 / std::clamp(temperature, Limits::min(), Limits::max());
}

// One row of logits to be sampled; the random number is a function of seed and position alone, so
// that a request gives the same tokens in any batch, on any rank.
struct SampleRequest {
  SamplingParams sampling;
  int64_t position = 0;  // of the token that is sampled
};

// Samples batch after batch; a batch's tokens are on the stream's device at once, for the ops that
// come behind, and on the host when take() has waited for them.
class Sampler {
 public:
  // For batches of at most max_rows rows.
  static Result<std::unique_ptr<Sampler>> create(const Stream& stream, int64_t max_rows);
  virtual ~Sampler() = default;

  // Batches that may be under way, started and not taken.
  static constexpr int kMaxBatches = 2;

  // A token for each row of logits [rows, vocab] kF32. The largest logit, ties to the smaller id,
  // where temperature is 0. Filters in the order temperature, top_k, top_p. Logits that are not
  // finite are never chosen; a row without a finite one gives -1. On a CUDA stream vocab < 2^18.
  virtual void start(Stream& stream, ConstMatrixView logits,
                     std::span<const SampleRequest> requests) = 0;
  // The tokens of the oldest batch under way, which has as many rows.
  virtual void take(Stream& stream, std::span<int> tokens) = 0;

  // The tokens of the batch that was started last, in memory of the device; the place stays.
  virtual const int* tokens() const = 0;

 protected:
  Sampler() = default;
};

// An id below 0 stands for a token that has just been sampled: -1 - r for that of row r.
constexpr int id_of_sampled(int row) {
  return -1 - row;
}
// Puts them in place; those that could not be sampled become 0. `sampled`: of Sampler::tokens().
void take_sampled(Stream& stream, const int* sampled, std::span<int> ids);

}  // namespace wideep::kernels
