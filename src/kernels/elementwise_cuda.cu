#include "kernels/cuda_ops.h"
#include "kernels/cuda_rows.cuh"

namespace wideep::kernels::cuda {
namespace {

constexpr int kVector = 8;

template <typename T, typename Y>
struct Embedding {
  Rows<const T> table;
  int64_t vocab;
  const int* ids;
  Rows<Y> y;

  template <int kCount>
  __device__ void run(int64_t row, int64_t column) const {
    const int id = ids[row];
    device_check(id < vocab);
    float values[kCount] = {};
    if (id >= 0) load(table.at(id, column), values);
    store(values, y.at(row, column));
  }
};

template <typename X, typename Y>
struct SiluMul {
  Rows<const X> x;
  int64_t columns;
  Rows<Y> y;
  const int* num_rows;

  template <int kCount>
  __device__ void run(int64_t row, int64_t column) const {
    if (num_rows != nullptr && row >= *num_rows) return;
    float gate[kCount];
    float up[kCount];
    load(x.at(row, column), gate);
    load(x.at(row, columns + column), up);
#pragma unroll
    for (int i = 0; i < kCount; ++i) gate[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
    store(gate, y.at(row, column));
  }
};

template <typename X, typename Y>
struct Add {
  Rows<const X> x;
  Rows<Y> y;

  template <int kCount>
  __device__ void run(int64_t row, int64_t column) const {
    float values[kCount];
    float sums[kCount];
    load(x.at(row, column), values);
    load(y.at(row, column), sums);
#pragma unroll
    for (int i = 0; i < kCount; ++i) sums[i] += values[i];
    store(sums, y.at(row, column));
  }
};

template <typename X>
struct ScaleRows {
  const float* factors;
  Rows<X> x;

  template <int kCount>
  __device__ void run(int64_t row, int64_t column) const {
    const float factor = factors[row];
    float values[kCount];
    load(x.at(row, column), values);
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] *= factor;
    store(values, x.at(row, column));
  }
};

}  // namespace

void embedding(Stream& stream, ConstMatrixView table, std::span<const int> ids, MatrixView y) {
  CHECK(y.columns == table.columns && y.rows == static_cast<int64_t>(ids.size()));
  const bool has_vectors = has_aligned_rows(table) && has_aligned_rows(y);
  with_float_type(table.dtype, [&]<typename T>(T) {
    with_float_type(y.dtype, [&]<typename Y>(Y) {
      const Embedding<T, Y> op = {rows_of<T>(table), table.rows, ids.data(), rows_of<Y>(y)};
      map_rows<kVector>(stream, "embedding", y.rows, y.columns, has_vectors, op);
    });
  });
}

void silu_mul(Stream& stream, ConstMatrixView x, MatrixView y, const int* num_rows) {
  CHECK(x.rows == y.rows && x.columns == 2 * y.columns);
  const bool has_vectors = has_aligned_rows(x) && has_aligned_rows(y);
  with_float_type(x.dtype, [&]<typename X>(X) {
    with_float_type(y.dtype, [&]<typename Y>(Y) {
      const SiluMul<X, Y> op = {rows_of<X>(x), y.columns, rows_of<Y>(y), num_rows};
      map_rows<kVector>(stream, "silu_mul", y.rows, y.columns, has_vectors, op);
    });
  });
}

void add(Stream& stream, ConstMatrixView x, MatrixView y) {
  CHECK(x.rows == y.rows && x.columns == y.columns);
  const bool has_vectors = has_aligned_rows(x) && has_aligned_rows(y);
  with_float_type(x.dtype, [&]<typename X>(X) {
    with_float_type(y.dtype, [&]<typename Y>(Y) {
      const Add<X, Y> op = {rows_of<X>(x), rows_of<Y>(y)};
      map_rows<kVector>(stream, "add", y.rows, y.columns, has_vectors, op);
    });
  });
}

// The row of x that is added to every row of y is the same one: a stride of 0.
void add_bias(Stream& stream, const float* bias, MatrixView y) {
  const bool has_vectors = is_aligned(bias) && has_aligned_rows(y);
  with_float_type(y.dtype, [&]<typename Y>(Y) {
    const Add<float, Y> op = {{bias, 0}, rows_of<Y>(y)};
    map_rows<kVector>(stream, "add_bias", y.rows, y.columns, has_vectors, op);
  });
}

void scale_rows(Stream& stream, std::span<const float> factors, MatrixView x) {
  CHECK(x.rows == static_cast<int64_t>(factors.size()));
  with_float_type(x.dtype, [&]<typename X>(X) {
    const ScaleRows<X> op = {factors.data(), rows_of<X>(x)};
    map_rows<kVector>(stream, "scale_rows", x.rows, x.columns, has_aligned_rows(x), op);
  });
}

}  // namespace wideep::kernels::cuda
