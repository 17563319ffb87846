// A warp's ways of moving one row: to several places at once, quantised on its way, and its scales.
#pragma once

#include <cstdint>

#include "alltoall/nvlink_device.cuh"
#include "alltoall/quantize.cuh"

namespace wideep::alltoall::device {

// Reads a row once, which nobody writes meanwhile, and writes it to all places.
template <int kVectors>
__device__ inline void spread_row(const std::byte* from, int vectors, const Places& places) {
  for (int base = lane_id(); base - lane_id() < vectors; base += 32 * kVectors) {
    uint4 data[kVectors];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int v = base + 32 * i;
      if (v < vectors) data[i] = ptx::load_input(from + int64_t{kVectorBytes} * v);
    }
    for_each_place(places, [&](std::byte* to) {
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const int v = base + 32 * i;
        if (v < vectors) ptx::store_row(to + int64_t{kVectorBytes} * v, data[i]);
      }
    });
  }
}

// Words of 4 bytes, for scales, whose rows need no alignment.
__device__ inline void spread_words(const float* from, int words, const Places& places) {
  for (int base = 0; base < words; base += 32) {
    const int w = base + lane_id();
    const float value = w < words ? from[w] : 0;
    for_each_place(places, [&](std::byte* to) {
      if (w < words) reinterpret_cast<float*>(to)[w] = value;
    });
  }
}

// Quantises a row of `groups` times 128 columns of BF16 to FP8 and writes it to all places; the
// scales go to `scales`, places in the same lanes, in whole vectors.
template <int kSteps>
__device__ inline void quantize_row(const std::byte* from, int groups, const Places& rows,
                                    const Places& scales) {
  constexpr int kLanesOfGroup = 8;
  const int vectors = groups * kLanesOfGroup;  // of 16 bytes of FP8
  uint4 kept = {0, 0, 0, 0};                   // lane i: the scales of step i of 32
  int step = 0;
  for (int base = 0; base < vectors; base += 32 * kSteps) {
    uint4 data[kSteps][2];
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int v = base + 32 * i + lane_id();
      data[i][0] = data[i][1] = {0, 0, 0, 0};
      if (v < vectors) {
        data[i][0] = ptx::load_input(from + int64_t{2 * kVectorBytes} * v);
        data[i][1] = ptx::load_input(from + int64_t{2 * kVectorBytes} * v + kVectorBytes);
      }
    }
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int v = base + 32 * i + lane_id();
      if (base + 32 * i >= vectors) break;
      float scale;
      data[i][0] = quantize16(data[i][0], data[i][1], scale);
      if (v >= vectors) scale = 0;
      uint4 four;
      four.x = __float_as_uint(__shfl_sync(kFullWarp, scale, 0));
      four.y = __float_as_uint(__shfl_sync(kFullWarp, scale, 8));
      four.z = __float_as_uint(__shfl_sync(kFullWarp, scale, 16));
      four.w = __float_as_uint(__shfl_sync(kFullWarp, scale, 24));
      if (step % 32 == lane_id()) kept = four;
      ++step;
      if (step % 32 == 0 || base + 32 * (i + 1) >= vectors) {
        const int first = (step - 1) / 32 * 32;
        for_each_place(scales, [&](std::byte* to) {
          if (first + lane_id() < step) {
            ptx::store_row(to + int64_t{kVectorBytes} * (first + lane_id()), kept);
          }
        });
      }
    }
    for_each_place(rows, [&](std::byte* to) {
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const int v = base + 32 * i + lane_id();
        if (v < vectors) ptx::store_row(to + int64_t{kVectorBytes} * v, data[i][0]);
      }
    });
  }
}

}  // namespace wideep::alltoall::device
