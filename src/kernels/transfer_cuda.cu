#include "kernels/cuda_ops.h"
#include "kernels/launch.cuh"
#include "kernels/op_context.h"

namespace wideep::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksOfMultiprocessor = 8;

struct Vectors {
  const uint4* from;
  uint4* to;
  int64_t count;
};

Vectors vectors_of(const CopyPiece& piece) {
  return {reinterpret_cast<const uint4*>(piece.from.data()), reinterpret_cast<uint4*>(piece.to),
          static_cast<int64_t>(piece.from.size() / sizeof(uint4))};
}

// By the whole grid, two vectors of a thread under way.
__device__ void copy(const Vectors& vectors) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (; i + step < vectors.count; i += 2 * step) {
    const uint4 first = __ldcs(vectors.from + i);
    const uint4 second = __ldcs(vectors.from + i + step);
    __stcs(vectors.to + i, first);
    __stcs(vectors.to + i + step, second);
  }
  if (i < vectors.count) __stcs(vectors.to + i, __ldcs(vectors.from + i));
}

__global__ void __launch_bounds__(kThreads, kBlocksOfMultiprocessor)
    copy_pair_kernel(Vectors first, Vectors second) {
  follow_previous_kernel();
  copy(first);
  copy(second);
}

}  // namespace

void copy_pair(Stream& stream, const CopyPiece& first, const CopyPiece& second) {
  const auto blocks = static_cast<unsigned>(stream.context().num_sms() * kBlocksOfMultiprocessor);
  launch_kernel(stream, {blocks, kThreads}, copy_pair_kernel, vectors_of(first),
                vectors_of(second));
  check_launch(stream, "copy_pair");
}

}  // namespace wideep::kernels::cuda
