#include "kernels/grouped_gemm.h"

#include "kernels/adapters/deep_gemm.h"
#include "kernels/simt_gemm.h"

namespace wideep::kernels {
namespace {

void check_shapes(const ScaledRows& x, const GroupedWeight& weight, const MatrixView& y) {
  CHECK(x.data.columns == weight.in_features && y.columns == weight.out_features);
  CHECK(x.data.rows == y.rows);
  CHECK((x.data.dtype == DType::kF8E4M3) == (weight.dtype == DType::kF8E4M3));
}

DeepGemmProduct product_of(const ScaledRows& x, const GroupedWeight& weight, const MatrixView& y) {
  DeepGemmProduct product;
  product.dtype = weight.dtype;
  product.x = x;
  product.weight = weight.data;
  product.groups = weight.groups;
  product.out = weight.out_features;
  product.in = weight.in_features;
  product.y = y;
  return product;
}

SimtGemmParams simt_params(const ScaledRows& x, const GroupedWeight& weight, const MatrixView& y) {
  SimtGemmParams params;
  params.x = x;
  params.weight = weight.data;
  params.stride_bytes = weight.stride_bytes();
  params.dtype = weight.dtype;
  params.groups = weight.groups;
  params.y = y;
  return params;
}

}  // namespace

void grouped_gemm_contiguous(Stream& stream, const ContiguousGemmParams& params) {
  check_shapes(params.x, params.weight, params.y);
  CHECK(stream.is_cuda() && params.x.data.rows % kGroupAlignment == 0);
  DeepGemmProduct product = product_of(params.x, params.weight, params.y);
  product.layout = DeepGemmProduct::Layout::kContiguous;
  product.groups_layout = params.offsets;
  product.counts = params.counts;
  if (deep_gemm_can_multiply(product)) return deep_gemm_multiply(stream, product);
  SimtGemmParams simt = simt_params(params.x, params.weight, params.y);
  simt.offsets = params.offsets;
  simt_gemm(stream, simt);
}

void grouped_gemm_masked(Stream& stream, const MaskedGemmParams& params) {
  check_shapes(params.x, params.weight, params.y);
  CHECK(stream.is_cuda() && params.x.data.rows == params.weight.groups * params.max_rows);
  DeepGemmProduct product = product_of(params.x, params.weight, params.y);
  product.layout = DeepGemmProduct::Layout::kMasked;
  product.groups_layout = params.counts;
  product.max_rows = params.max_rows;
  product.expected_rows = params.expected_rows;
  if (deep_gemm_can_multiply(product)) return deep_gemm_multiply(stream, product);
  SimtGemmParams simt = simt_params(params.x, params.weight, params.y);
  simt.counts = params.counts;
  simt.max_rows = params.max_rows;
  simt_gemm(stream, simt);
}

}  // namespace wideep::kernels
