// Loops over the elements of matrices on the device, a vector of a row at a time, for ops that are
// bound by memory: 16-byte accesses where the rows allow it, one element elsewhere.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "base/check.h"
#include "base/tensor.h"
#include "kernels/cuda_device.cuh"
#include "kernels/launch.cuh"

namespace wideep::kernels {

// A matrix of the device as kernels take it.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;

  __device__ T* at(int64_t row, int64_t column) const { return data + row * stride + column; }
};

template <typename T, typename Byte>
auto rows_of(const BasicMatrixView<Byte>& view) {
  return Rows<std::remove_pointer_t<decltype(view.template row<T>(0))>>{view.template row<T>(0),
                                                                        view.stride};
}

// Elements as they are in memory: 4 or 8, from 16-byte boundaries (4 of bf16: 8-byte ones); or
// fewer, from anywhere. What a kernel keeps while further loads are under way: converting waits.
template <typename T, int kCount>
struct Packed {
  using Word = std::conditional_t<(kCount < 4), T,
                                  std::conditional_t<kCount * sizeof(T) % 16 == 0, uint4, uint2>>;
  static constexpr int kWords = kCount * sizeof(T) / sizeof(Word);
  Word words[kWords];
};

template <int kCount, typename T>
__device__ Packed<T, kCount> load_packed(const T* from) {
  using Result = Packed<T, kCount>;
  Result result;
#pragma unroll
  for (int i = 0; i < Result::kWords; ++i) {
    result.words[i] = reinterpret_cast<const typename Result::Word*>(from)[i];
  }
  return result;
}

template <typename T, int kCount>
__device__ void widen(const Packed<T, kCount>& from, float (&to)[kCount]) {
  if constexpr (kCount < 4 || sizeof(T) == 4) {
    const auto* values = reinterpret_cast<const T*>(from.words);
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i] = to_float(values[i]);
  } else {
    const auto* pairs = reinterpret_cast<const __nv_bfloat162*>(from.words);
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      const float2 pair = __bfloat1622float2(pairs[i / 2]);
      to[i] = pair.x;
      to[i + 1] = pair.y;
    }
  }
}

template <int kCount, typename T>
__device__ void load(const T* from, float (&to)[kCount]) {
  widen(load_packed<kCount>(from), to);
}

template <int kCount, typename T>
__device__ void store(const float (&from)[kCount], T* to) {
  if constexpr (kCount < 4) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i] = from_float<T>(from[i]);
  } else if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      *reinterpret_cast<float4*>(to + i) = {from[i], from[i + 1], from[i + 2], from[i + 3]};
    }
  } else {
    using Vector = std::conditional_t<kCount == 8, uint4, uint2>;
    Vector vector;
    auto* pairs = reinterpret_cast<__nv_bfloat162*>(&vector);
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      pairs[i / 2] = __floats2bfloat162_rn(from[i], from[i + 1]);
    }
    *reinterpret_cast<Vector*>(to) = vector;
  }
}

// Stops the kernel, and with it the stream, where a caller broke an op's rule: a device's CHECK.
__device__ inline void device_check(bool condition) {
  if (!condition) __trap();
}

// Whether every row of the view begins at a multiple of 16 bytes.
template <typename Byte>
bool has_aligned_rows(const BasicMatrixView<Byte>& view) {
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 &&
         (view.rows <= 1 || view.stride * dtype_size(view.dtype) % 16 == 0);
}
inline bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

inline constexpr int kMapThreads = 256;

template <int kVector, typename Op>
__global__ void __launch_bounds__(kMapThreads)
    map_kernel(uint32_t count, uint32_t vectors_per_row, const __grid_constant__ Op op) {
  follow_previous_kernel();
  const uint32_t i = blockIdx.x * kMapThreads + threadIdx.x;
  if (i >= count) return;
  op.template run<kVector>(i / vectors_per_row, i % vectors_per_row * kVector);
}

// Calls op.run<kVector>(row, column) on the device for every vector of rows x columns: kVector
// columns at once where `has_vectors`, one elsewhere. The launch is checked under `name`.
template <int kVector, typename Op>
void map_rows(Stream& stream, const char* name, int64_t rows, int64_t columns, bool has_vectors,
              const Op& op) {
  const int width = has_vectors && columns % kVector == 0 ? kVector : 1;
  const int64_t count = rows * (columns / width);
  if (count == 0) return;
  CHECK(count <= std::numeric_limits<uint32_t>::max() - kMapThreads);
  const auto blocks = static_cast<unsigned>((count + kMapThreads - 1) / kMapThreads);
  const auto per_row = static_cast<uint32_t>(columns / width);
  const auto total = static_cast<uint32_t>(count);
  if (width == kVector) {
    launch_kernel(stream, {blocks, kMapThreads}, map_kernel<kVector, Op>, total, per_row, op);
  } else {
    launch_kernel(stream, {blocks, kMapThreads}, map_kernel<1, Op>, total, per_row, op);
  }
  check_launch(stream, name);
}

}  // namespace wideep::kernels
