// Products of dense weights on a device: rows are brought to the type that the weight multiplies,
// in the context's workspace and as many at a time as fit there, and cuBLASLt multiplies.
#include <algorithm>

#include "kernels/adapters/blas.h"
#include "kernels/adapters/deep_gemm.h"
#include "kernels/convert_rows.h"
#include "kernels/cuda_ops.h"
#include "kernels/few_rows_dot.h"
#include "kernels/few_rows_gemm.h"
#include "kernels/linear.h"
#include "kernels/op_context.h"
#include "kernels/simt_gemm.h"

namespace wideep::kernels::cuda {
namespace {

// Rows that are worked on at once, where they need not all be: tiles stay full.
constexpr int64_t kRowStep = 256;

// The workspace behind what cuBLASLt may use.
class Scratch {
 public:
  explicit Scratch(const Stream& stream)
      : memory_(stream.context().workspace<std::byte>(
            stream.context().workspace_bytes() - Blas::kWorkspaceBytes, Blas::kWorkspaceBytes)) {}

  // How many of `rows` rows, of which each takes so many bytes, fit at once.
  int64_t rows_that_fit(int64_t rows, int64_t bytes_of_row) const {
    if (bytes_of_row == 0) return rows;
    const int64_t room = std::ssize(memory_) / bytes_of_row / kRowStep * kRowStep;
    CHECK(room > 0);
    return std::min(rows, room);
  }
  std::byte* at(int64_t offset) const { return memory_.data() + offset; }

 private:
  std::span<std::byte> memory_;
};

struct Product {
  ConstMatrixView x;  // of the weights' type where no x_type differs
  DType dtype = DType::kBF16;
  DType y_dtype = DType::kBF16;  // in which cuBLASLt writes
  MatrixView y;
};

// Calls multiply(x, y) for pieces of rows, x as dtype and y as y_dtype, and converts what differs.
template <typename Multiply>
void in_types(Stream& stream, const Product& product, const Multiply& multiply) {
  const auto& [x, dtype, y_dtype, y] = product;
  const Scratch scratch(stream);
  const int64_t x_bytes = x.dtype == dtype ? 0 : x.columns * dtype_size(dtype);
  const int64_t y_bytes = y.dtype == y_dtype ? 0 : y.columns * dtype_size(y_dtype);
  const int64_t step = scratch.rows_that_fit(x.rows, x_bytes + y_bytes);
  for (int64_t row = 0; row < x.rows; row += step) {
    const int64_t rows = std::min(step, x.rows - row);
    ConstMatrixView from = x.row_range(row, rows);
    const MatrixView to = y.row_range(row, rows);
    if (x_bytes > 0) {
      const MatrixView converted = {scratch.at(0), dtype, rows, x.columns, x.columns};
      convert_rows(stream, from, converted);
      from = converted;
    }
    MatrixView result = to;
    if (y_bytes > 0) result = {scratch.at(rows * x_bytes), y_dtype, rows, y.columns, y.columns};
    multiply(from, result);
    if (y_bytes > 0) convert_rows(stream, result, to);
  }
}

// y of kF32 is written as kBF16 first, to `scratch`.
DeepGemmProduct deep_gemm_product(const ScaledRows& x, const PackedWeight& weight, MatrixView y,
                                  std::byte* scratch) {
  DeepGemmProduct product;
  product.dtype = weight.dtype;
  product.x = x;
  product.weight = weight.data;
  product.out = weight.out_features;
  product.in = weight.in_features;
  product.y = y;
  if (y.dtype == DType::kF32) product.y = {scratch, DType::kBF16, y.rows, y.columns, y.columns};
  return product;
}

// Where DeepGEMM multiplies more rows, few of them go where they get the same bits sooner.
bool multiply_few_rows(Stream& stream, const DeepGemmProduct& more, const ScaledRows& x,
                       MatrixView y) {
  const FewRowsParams few = {x, more.weight, more.out, more.in, y};
  if (!deep_gemm_can_multiply(more) || !can_multiply_few_rows(few)) return false;
  few_rows_gemm(stream, few);
  return true;
}

void multiply_quantized(Stream& stream, const ScaledRows& x, const PackedWeight& weight,
                        MatrixView y, std::byte* scratch) {
  const DeepGemmProduct product = deep_gemm_product(x, weight, y, scratch);
  if (multiply_few_rows(stream, product, x, y)) return;
  if (deep_gemm_can_multiply(product)) {
    deep_gemm_multiply(stream, product);
    if (y.dtype == DType::kF32) convert_rows(stream, product.y, y);
    return;
  }
  SimtGemmParams params;
  params.x = x;
  params.weight = weight.data;
  params.dtype = weight.dtype;
  params.y = y;
  simt_gemm(stream, params);
}

// Bytes of a row of y on its way through kBF16.
int64_t rounded_bytes(const MatrixView& y) {
  return y.dtype == DType::kF32 ? y.columns * dtype_size(DType::kBF16) : 0;
}

// Rows are quantised piece by piece, and multiplied as they are; a few in one go.
void quantize_and_multiply(Stream& stream, ConstMatrixView x, const PackedWeight& weight,
                           MatrixView y) {
  const Scratch scratch(stream);
  // Of whole steps, which need no padding; a smaller rest fits where a step does.
  const int64_t bytes = quantized_bytes(kRowStep, x.columns) / kRowStep;
  const int64_t step = scratch.rows_that_fit(x.rows, bytes + rounded_bytes(y));
  for (int64_t row = 0; row < x.rows; row += step) {
    const int64_t rows = std::min(step, x.rows - row);
    const QuantizedRows quantized = quantized_rows(scratch.at(0), rows, x.columns);
    std::byte* const rounded = scratch.at(quantized_bytes(rows, x.columns));
    const ConstMatrixView from = x.row_range(row, rows);
    const MatrixView to = y.row_range(row, rows);
    const DeepGemmProduct product = deep_gemm_product(quantized, weight, to, rounded);
    if (multiply_few_rows(stream, product, {from}, to)) continue;
    quantize_rows(stream, {from, nullptr, quantized});
    multiply_quantized(stream, quantized, weight, to, rounded);
  }
}

void multiply(Stream& stream, const BlasProduct& product) {
  if (can_dot_few_rows(product)) {
    dot_few_rows(stream, product);
  } else {
    stream.context().blas().multiply(stream, product);
  }
}

// What cuBLASLt writes: floats from floats, and otherwise what is asked for.
DType output_of(DType weights, DType y) {
  return weights == DType::kF32 ? DType::kF32 : y;
}

}  // namespace

void linear(Stream& stream, ConstMatrixView x, const PackedWeight& weight, MatrixView y) {
  if (x.rows == 0) return;
  if (weight.dtype == DType::kF8E4M3) return quantize_and_multiply(stream, x, weight, y);
  const Product product = {x, weight.dtype, output_of(weight.dtype, y.dtype), y};
  in_types(stream, product, [&](const ConstMatrixView& rows, const MatrixView& result) {
    BlasProduct blas;
    blas.tokens = rows.rows;
    blas.out = weight.out_features;
    blas.in = weight.in_features;
    blas.dtype = weight.dtype;
    blas.x = {rows.data, rows.stride};
    blas.weight = {weight.data, weight.in_features};
    blas.y_dtype = result.dtype;
    blas.y = result.data;
    blas.y_stride = result.stride;
    multiply(stream, blas);
  });
}

void head_linear(Stream& stream, const HeadLinearParams& params) {
  if (params.x.rows == 0) return;
  const PackedWeight& first = params.weights[0];
  const int64_t distance = params.weights.size() > 1 ? params.weights[1].data - first.data : 0;
  for (size_t h = 1; h < params.weights.size(); ++h) {
    CHECK(params.weights[h].data - params.weights[h - 1].data == distance);
  }
  const Product product = {params.x, first.dtype, output_of(first.dtype, params.y.dtype), params.y};
  CHECK(product.y_dtype == params.y.dtype);  // gaps between heads are not ours to convert
  in_types(stream, product, [&](const ConstMatrixView& rows, const MatrixView& result) {
    BlasProduct blas;
    blas.tokens = rows.rows;
    blas.out = first.out_features;
    blas.in = first.in_features;
    blas.batch = std::ssize(params.weights);
    blas.dtype = first.dtype;
    blas.x = {rows.data, rows.stride, params.x_head_stride};
    blas.weight = {first.data, first.in_features, distance / dtype_size(first.dtype)};
    blas.y_dtype = result.dtype;
    blas.y = result.data;
    blas.y_stride = result.stride;
    blas.y_batch_stride = params.y_head_stride;
    multiply(stream, blas);
  });
}

}  // namespace wideep::kernels::cuda

namespace wideep::kernels {

void linear(Stream& stream, const ScaledRows& x, const PackedWeight& weight, MatrixView y) {
  CHECK(stream.is_cuda() && weight.dtype == DType::kF8E4M3 && x.scales != nullptr);
  CHECK(x.data.columns == weight.in_features && y.columns == weight.out_features);
  CHECK(x.data.rows == y.rows);
  const cuda::Scratch scratch(stream);
  const int64_t step = scratch.rows_that_fit(y.rows, cuda::rounded_bytes(y));
  for (int64_t row = 0; row < y.rows; row += step) {
    const int64_t rows = std::min(step, y.rows - row);
    const ScaledRows piece = {x.data.row_range(row, rows), x.scales + row, x.scale_stride};
    cuda::multiply_quantized(stream, piece, weight, y.row_range(row, rows), scratch.at(0));
  }
}

}  // namespace wideep::kernels
