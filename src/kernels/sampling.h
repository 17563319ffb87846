// Choosing the next token from logits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

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

// tokens[r] for each row of logits [rows, vocab] kF32. The largest logit, ties to the smaller id,
// where temperature is 0. Filters in the order temperature, top_k, top_p. Logits that
// are not finite are never chosen; a row without a finite one gives -1. Requests and tokens are of
// the host, whatever the stream: it is waited for. On a CUDA stream vocab < 2^18.
void sample(Stream& stream, ConstMatrixView logits, std::span<const SampleRequest> requests,
            std::span<int> tokens);

}  // namespace wideep::kernels
