#include "kernels/adapters/deep_gemm.h"

#include <fmt/format.h>

#include "kernels/adapters/deep_gemm_kernels.h"
#include "kernels/linear.h"
#include "kernels/op_context.h"

namespace wideep::kernels {
namespace {

// Rows of a masked group that every tile size for it divides.
constexpr int64_t kMaskedRows = 64;

bool is_aligned(const void* data, int64_t row_bytes) {
  return (reinterpret_cast<uintptr_t>(data) | static_cast<uintptr_t>(row_bytes)) % 16 == 0;
}

[[maybe_unused]] CUresult multiply(Stream& stream, const DeepGemmProduct& product) {
  switch (product.layout) {
    case DeepGemmProduct::Layout::kContiguous:
      return multiply_contiguous(stream, product);
    case DeepGemmProduct::Layout::kMasked:
      return multiply_masked(stream, product);
    default:
      return multiply_dense(stream, product);
  }
}

}  // namespace

bool deep_gemm_can_multiply(const DeepGemmProduct& p) {
  if constexpr (!kHasDeepGemm) return false;
  const bool is_fp8 = p.dtype == DType::kF8E4M3;
  if (!is_fp8 && (p.dtype != DType::kBF16 || p.layout == DeepGemmProduct::Layout::kDense)) {
    return false;
  }
  if (p.x.data.dtype != p.dtype || p.y.dtype != DType::kBF16 || p.out % 8 != 0) return false;
  const int size = dtype_size(p.dtype);
  bool fits = is_aligned(p.x.data.data, p.x.data.stride * size) &&
              is_aligned(p.weight, int64_t{p.in} * size) &&
              is_aligned(p.y.data, p.y.stride * dtype_size(p.y.dtype));
  if (is_fp8) fits = fits && is_aligned(p.x.scales, p.x.scale_stride * int64_t{sizeof(float)});
  if (p.layout == DeepGemmProduct::Layout::kMasked) {
    fits = fits && p.max_rows % kMaskedRows == 0 && p.max_rows <= kMaxMaskedRows;
  }
  // Scales of all groups are counted in 32 bits.
  const int64_t floats =
      p.groups * device_weight_bytes(p.out, p.in, p.dtype) / int64_t{sizeof(float)};
  return fits && p.groups <= kMaxGemmGroups && floats <= UINT32_MAX;
}

void deep_gemm_multiply(Stream& stream, const DeepGemmProduct& product) {
  CHECK(deep_gemm_can_multiply(product));
  if (product.x.data.rows == 0 || product.groups == 0) return;
  CUresult result = CUDA_SUCCESS;
  if constexpr (kHasDeepGemm) result = multiply(stream, product);
  if (result != CUDA_SUCCESS) {
    stream.fail(Status::unavailable(fmt::format(
        "CUDA: cuTensorMapEncodeTiled of a product of {} rows, {} groups of [{}, {}] {}: error {}",
        product.x.data.rows, product.groups, product.out, product.in, dtype_name(product.dtype),
        static_cast<int>(result))));
    return;
  }
  check_launch(stream, "deep_gemm_multiply");
}

}  // namespace wideep::kernels
