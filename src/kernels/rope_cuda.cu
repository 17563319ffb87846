#include <algorithm>

#include "kernels/cuda_ops.h"
#include "kernels/cuda_rows.cuh"

namespace wideep::kernels::cuda {
namespace {

constexpr int kPairs = 4;  // of a thread: 8 elements

// Travels with the launch: a copy that a CUDA graph keeps.
struct Frequencies {
  double of_pair[kMaxRopePairs];
};

struct RopeTable {
  const int* positions;
  Frequencies inv_freq;
  int64_t n;
  double factor;
  Rows<float> table;

  template <int kCount>
  __device__ void run(int64_t row, int64_t i) const {
    static_assert(kCount == 1);
    double sine = 0;
    double cosine = 0;
    sincos(positions[row] * inv_freq.of_pair[i], &sine, &cosine);
    *table.at(row, i) = static_cast<float>(cosine * factor);
    *table.at(row, n + i) = static_cast<float>(sine * factor);
  }
};

template <typename X>
struct Rope {
  Rows<X> x;
  uint32_t num_heads;
  int64_t head_stride;
  Rows<const float> table;
  int64_t n;

  template <int kCount>
  __device__ void angles(int64_t row, int64_t pair, float (&cosines)[kCount],
                         float (&sines)[kCount]) const {
    load(table.at(row, pair), cosines);
    load(table.at(row, n + pair), sines);
  }
};

// Pairs (2i, 2i + 1).
template <typename X>
struct InterleavedRope : Rope<X> {
  template <int kCount>
  __device__ void run(uint32_t head, int64_t pair) const {
    const uint32_t row = head / this->num_heads;
    float cosines[kCount];
    float sines[kCount];
    this->angles(row, pair, cosines, sines);
    X* at = this->x.at(row, head % this->num_heads * this->head_stride + 2 * pair);
    float v[2 * kCount];
    load(at, v);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float first = v[2 * i];
      v[2 * i] = first * cosines[i] - v[2 * i + 1] * sines[i];
      v[2 * i + 1] = v[2 * i + 1] * cosines[i] + first * sines[i];
    }
    store(v, at);
  }
};

// Pairs (i, i + n).
template <typename X>
struct HalvesRope : Rope<X> {
  template <int kCount>
  __device__ void run(uint32_t head, int64_t pair) const {
    const uint32_t row = head / this->num_heads;
    float cosines[kCount];
    float sines[kCount];
    this->angles(row, pair, cosines, sines);
    X* at = this->x.at(row, head % this->num_heads * this->head_stride + pair);
    float first[kCount];
    float second[kCount];
    load(at, first);
    load(at + this->n, second);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float a = first[i];
      first[i] = a * cosines[i] - second[i] * sines[i];
      second[i] = second[i] * cosines[i] + a * sines[i];
    }
    store(first, at);
    store(second, at + this->n);
  }
};

}  // namespace

void rope_table(Stream& stream, const RopeTableParams& params) {
  const MatrixView& table = params.table;
  const auto n = static_cast<int64_t>(params.inv_freq.size());
  CHECK(table.dtype == DType::kF32 && table.columns == 2 * n && n <= kMaxRopePairs);
  CHECK(table.rows == static_cast<int64_t>(params.positions.size()));
  RopeTable op = {params.positions.data(), {}, n, params.factor, rows_of<float>(table)};
  std::copy(params.inv_freq.begin(), params.inv_freq.end(), op.inv_freq.of_pair);
  map_rows<1>(stream, "rope_table", table.rows, n, false, op);
}

void rope(Stream& stream, const RopeParams& params) {
  const MatrixView& x = params.x;
  const ConstMatrixView& table = params.table;
  CHECK(table.dtype == DType::kF32 && table.rows == x.rows && table.columns % 2 == 0);
  const int64_t n = table.columns / 2;
  if (params.num_heads == 0) return;
  CHECK(x.columns >= (params.num_heads - 1) * params.head_stride + 2 * n);
  const bool has_vectors = has_aligned_rows(x) && has_aligned_rows(table) &&
                           params.head_stride % (2 * kPairs) == 0 && n % kPairs == 0;
  with_float_type(x.dtype, [&]<typename X>(X) {
    const Rope<X> op = {rows_of<X>(x), static_cast<uint32_t>(params.num_heads), params.head_stride,
                        rows_of<float>(table), n};
    const int64_t heads = x.rows * params.num_heads;
    if (params.interleaved) {
      map_rows<kPairs>(stream, "rope", heads, n, has_vectors, InterleavedRope<X>{op});
    } else {
      map_rows<kPairs>(stream, "rope", heads, n, has_vectors, HalvesRope<X>{op});
    }
  });
}

}  // namespace wideep::kernels::cuda
