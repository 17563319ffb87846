#include "kernels/cuda_device.cuh"
#include "kernels/cuda_ops.h"
#include "kernels/launch.cuh"

namespace wideep::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void factors_kernel(PositionFactorsParams params) {
  follow_previous_kernel();
  const int64_t t = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (t >= static_cast<int64_t>(params.positions.size())) return;
  const double steps = floor((params.positions.data()[t] + 1.0) / params.floor_scale);
  params.factors.data()[t] = static_cast<float>(log1p(steps) * params.attn_scale + 1);
}

}  // namespace

void position_factors(Stream& stream, const PositionFactorsParams& params) {
  CHECK(params.factors.size() == params.positions.size());
  const auto blocks = static_cast<unsigned>((params.positions.size() + kThreads - 1) / kThreads);
  if (blocks == 0) return;
  launch_kernel(stream, {blocks, kThreads}, factors_kernel, params);
  check_launch(stream, "position_factors");
}

}  // namespace wideep::kernels::cuda
