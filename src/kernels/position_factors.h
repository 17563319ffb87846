// Llama 4's temperature of attention: queries grow with the logarithm of their position.
#pragma once

#include <span>

#include "base/stream.h"

namespace wideep::kernels {

// factors[t] = log1p(floor((positions[t] + 1) / floor_scale)) * attn_scale + 1, in double.
struct PositionFactorsParams {
  std::span<const int> positions;  // [tokens]
  double floor_scale = 1;
  double attn_scale = 0;
  std::span<float> factors;  // [tokens]
};
void position_factors(Stream& stream, const PositionFactorsParams& params);

}  // namespace wideep::kernels
