// The ops that only CUDA has, in a build without it: no stream there is one of CUDA, so a call is a
// mistake of ours.
#include "base/check.h"
#include "kernels/grouped_gemm.h"
#include "kernels/linear.h"
#include "kernels/quantize.h"

namespace wideep::kernels {

void store_device_weight_rows(Stream& stream, const DeviceWeightRowsParams&) {
  CHECK(stream.is_cuda() && !"in a build without CUDA");
}

void gather_quantize(Stream& stream, const GatherQuantizeParams&) {
  CHECK(stream.is_cuda() && !"in a build without CUDA");
}

void silu_mul_quantize(Stream& stream, const QuantizeParams&) {
  CHECK(stream.is_cuda() && !"in a build without CUDA");
}

void grouped_gemm_contiguous(Stream& stream, const ContiguousGemmParams&) {
  CHECK(stream.is_cuda() && !"in a build without CUDA");
}

void grouped_gemm_masked(Stream& stream, const MaskedGemmParams&) {
  CHECK(stream.is_cuda() && !"in a build without CUDA");
}

}  // namespace wideep::kernels
