// For tests of sampling, on any device.
#pragma once

#include <vector>

#include "kernels/sampling.h"

namespace wideep::kernels {

// The tokens of one batch.
inline std::vector<int> sample_now(Stream& stream, ConstMatrixView logits,
                                   const std::vector<SampleRequest>& requests) {
  std::vector<int> tokens(requests.size(), -7);
  const auto sampler = Sampler::create(stream, logits.rows).value();
  sampler->start(stream, logits, requests);
  sampler->take(stream, tokens);
  return tokens;
}

}  // namespace wideep::kernels
