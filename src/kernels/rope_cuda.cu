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

// Queries and keys in one launch: the first heads of a row are queries.
template <typename X>
struct Rope {
  struct Heads {
    Rows<const X> x;
    int64_t x_head_stride;
    Rows<X> y;
    int64_t y_head_stride;
    uint32_t num_heads;
  };
  Heads queries;
  Heads keys;
  Rows<const float> table;
  int64_t n;
  bool interleaved;

  template <int kCount>
  __device__ void run(uint32_t head_of_all, int64_t pair) const {
    const uint32_t num_heads = queries.num_heads + keys.num_heads;
    const uint32_t row = head_of_all / num_heads;
    const uint32_t head = head_of_all % num_heads;
    if (head < queries.num_heads) {
      rotate<kCount>(queries, row, head, pair);
    } else {
      rotate<kCount>(keys, row, head - queries.num_heads, pair);
    }
  }

  template <int kCount>
  __device__ void rotate(const Heads& heads, uint32_t row, uint32_t head, int64_t pair) const {
    float cosines[kCount];
    float sines[kCount];
    load(table.at(row, pair), cosines);
    load(table.at(row, n + pair), sines);
    const X* x = heads.x.at(row, head * heads.x_head_stride);
    X* y = heads.y.at(row, head * heads.y_head_stride);
    float first[kCount];
    float second[kCount];
    if (interleaved) {
      float both[2 * kCount];
      load(x + 2 * pair, both);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        first[i] = both[2 * i];
        second[i] = both[2 * i + 1];
      }
    } else {
      load(x + pair, first);
      load(x + n + pair, second);
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float a = first[i];
      first[i] = a * cosines[i] - second[i] * sines[i];
      second[i] = second[i] * cosines[i] + a * sines[i];
    }
    if (interleaved) {
      float both[2 * kCount];
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        both[2 * i] = first[i];
        both[2 * i + 1] = second[i];
      }
      store(both, y + 2 * pair);
    } else {
      store(first, y + pair);
      store(second, y + n + pair);
    }
  }
};

template <typename X>
typename Rope<X>::Heads heads_of(const RopeHeads& heads) {
  return {rows_of<X>(heads.x), heads.x_head_stride, rows_of<X>(heads.y), heads.y_head_stride,
          static_cast<uint32_t>(heads.num_heads)};
}

bool can_load_vectors(const RopeHeads& heads) {
  return heads.num_heads == 0 ||
         (has_aligned_rows(heads.x) && has_aligned_rows(heads.y) &&
          heads.x_head_stride % (2 * kPairs) == 0 && heads.y_head_stride % (2 * kPairs) == 0);
}

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
  const RopeHeads& queries = params.queries;
  const RopeHeads& keys = params.keys;
  const ConstMatrixView& table = params.table;
  const DType dtype = queries.num_heads > 0 ? queries.x.dtype : keys.x.dtype;
  check_rope(params, dtype);
  const int64_t n = table.columns / 2;
  const int64_t heads = table.rows * (queries.num_heads + keys.num_heads);
  const bool has_vectors = has_aligned_rows(table) && n % kPairs == 0 &&
                           can_load_vectors(queries) && can_load_vectors(keys);
  with_float_type(dtype, [&]<typename X>(X) {
    const Rope<X> op = {heads_of<X>(queries), heads_of<X>(keys), rows_of<float>(table), n,
                        params.interleaved};
    map_rows<kPairs>(stream, "rope", heads, n, has_vectors, op);
  });
}

}  // namespace wideep::kernels::cuda
