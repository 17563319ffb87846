// The ops that only CUDA has, in a build without it: no stream there is one of CUDA, so a call is a
// mistake of ours.
#include "base/check.h"
#include "kernels/grouped_gemm.h"
#include "kernels/linear.h"
#include "kernels/quantize.h"
#include "kernels/replica_choice.h"

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

void arrange_scales(Stream& stream, const QuantizeParams&) {
  CHECK(stream.is_cuda() && !"in a build without CUDA");
}

void split_batch(Stream& stream, const SplitBatchParams&) {
  CHECK(stream.is_cuda() && !"in a build without CUDA");
}

void choose_slots(Stream& stream, const ChooseSlotsParams&) {
  CHECK(stream.is_cuda() && !"in a build without CUDA");
}

void add_row_sums(Stream& stream, const int32_t*, int, std::span<int32_t>) {
  CHECK(stream.is_cuda() && !"in a build without CUDA");
}

void count_ids(Stream& stream, std::span<const int32_t>, std::span<int32_t>) {
  CHECK(stream.is_cuda() && !"in a build without CUDA");
}

void grouped_gemm_contiguous(Stream& stream, const ContiguousGemmParams&) {
  CHECK(stream.is_cuda() && !"in a build without CUDA");
}

void grouped_gemm_masked(Stream& stream, const MaskedGemmParams&) {
  CHECK(stream.is_cuda() && !"in a build without CUDA");
}

}  // namespace wideep::kernels
