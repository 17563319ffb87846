#include "kernels/op_bench_kernels.h"

#include "kernels/cuda_device.cuh"

namespace wideep::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kLoads = 4;  // of 16 bytes, in flight in a thread

// splitmix64, then Box and Muller's transform of its halves.
__global__ void fill_normal_kernel(__nv_bfloat16* y, int64_t count, float deviation,
                                   uint64_t seed) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * kThreads) {
    uint64_t bits = (static_cast<uint64_t>(i) + (seed << 40) + 1) * 0x9e3779b97f4a7c15U;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9U;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebU;
    bits ^= bits >> 31;
    const float u = (static_cast<float>(static_cast<uint32_t>(bits)) + 1.0F) * 0x1p-32F;
    const float v = static_cast<float>(static_cast<uint32_t>(bits >> 32)) * 0x1p-32F;
    y[i] = __float2bfloat16_rn(deviation * sqrtf(-2.0F * logf(u)) * cospif(2.0F * v));
  }
}

__global__ void copy_kernel(const uint4* from, int64_t count, uint4* to) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (; i + (kLoads - 1) * step < count; i += kLoads * step) {
    uint4 words[kLoads];
#pragma unroll
    for (int k = 0; k < kLoads; ++k) words[k] = from[i + k * step];
#pragma unroll
    for (int k = 0; k < kLoads; ++k) to[i + k * step] = words[k];
  }
  for (; i < count; i += step) to[i] = from[i];
}

__global__ void read_kernel(const uint4* from, int64_t count, uint32_t* sink) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  uint32_t sum = 0;
  for (; i + (kLoads - 1) * step < count; i += kLoads * step) {
    uint4 words[kLoads];
#pragma unroll
    for (int k = 0; k < kLoads; ++k) words[k] = from[i + k * step];
#pragma unroll
    for (int k = 0; k < kLoads; ++k) sum |= words[k].x ^ words[k].y ^ words[k].z ^ words[k].w;
  }
  if (sum == 0x12345678U) *sink = sum;  // keeps the loads
}

}  // namespace

void fill_normal(Stream& stream, MatrixView y, float deviation, uint64_t seed) {
  CHECK(y.dtype == DType::kBF16 && (y.stride == y.columns || y.rows <= 1));
  const auto blocks = static_cast<unsigned>(stream.context().num_sms() * 8);
  fill_normal_kernel<<<blocks, kThreads, 0, stream_of(stream)>>>(
      y.row<__nv_bfloat16>(0), y.rows * y.columns, deviation, seed);
  check_launch(stream, "fill_normal");
}

void copy_by_threads(Stream& stream, std::span<const std::byte> from, std::byte* to) {
  const auto blocks = static_cast<unsigned>(stream.context().num_sms() * 8);
  copy_kernel<<<blocks, kThreads, 0, stream_of(stream)>>>(
      reinterpret_cast<const uint4*>(from.data()), static_cast<int64_t>(from.size() / 16),
      reinterpret_cast<uint4*>(to));
  check_launch(stream, "copy_by_threads");
}

void read_bytes(Stream& stream, std::span<const std::byte> from, uint32_t* sink) {
  const auto blocks = static_cast<unsigned>(stream.context().num_sms() * 8);
  read_kernel<<<blocks, kThreads, 0, stream_of(stream)>>>(
      reinterpret_cast<const uint4*>(from.data()), static_cast<int64_t>(from.size() / 16), sink);
  check_launch(stream, "read_bytes");
}

}  // namespace wideep::kernels
