#include <cmath>

#include "kernels/cuda_ops.h"
#include "kernels/position_factors.h"

namespace wideep::kernels {

void position_factors(Stream& stream, const PositionFactorsParams& params) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::position_factors(stream, params);
  }
  CHECK(params.factors.size() == params.positions.size());
  for (size_t t = 0; t < params.positions.size(); ++t) {
    const double steps = std::floor((params.positions[t] + 1.0) / params.floor_scale);
    params.factors[t] = static_cast<float>(std::log1p(steps) * params.attn_scale + 1);
  }
}

}  // namespace wideep::kernels
