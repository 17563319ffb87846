#include "kernels/op_context.h"

#include <fmt/format.h>

#include "base/cuda.h"
#include "kernels/adapters/blas.h"
#include "kernels/adapters/tensor_map.h"

namespace wideep {

Result<std::unique_ptr<OpContext>> OpContext::create(const OpContextOptions& options) {
  std::unique_ptr<OpContext> context(new OpContext());
  RETURN_IF_CUDA_ERROR(cudaGetDevice(&context->device_));
  RETURN_IF_CUDA_ERROR(
      cudaDeviceGetAttribute(&context->num_sms_, cudaDevAttrMultiProcessorCount, context->device_));
  ASSIGN_OR_RETURN(context->workspace_, device_buffer(options.workspace_bytes));
  ASSIGN_OR_RETURN(context->pinned_, pinned_buffer(options.pinned_bytes));
  ASSIGN_OR_RETURN(context->blas_, kernels::Blas::create());
  ASSIGN_OR_RETURN(context->tensor_maps_, kernels::TensorMapEncoder::create());
  return context;
}

OpContext::OpContext() = default;
OpContext::~OpContext() = default;

namespace kernels {

void check_launch(Stream& stream, const char* op) {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return;
  stream.fail(Status::unavailable(fmt::format("CUDA: {}: {}", op, cudaGetErrorString(error))));
}

}  // namespace kernels

}  // namespace wideep
