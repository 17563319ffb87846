#include "kernels/adapters/tensor_map.h"

#include <cuda_runtime_api.h>

#include "base/cuda.h"

namespace wideep::kernels {
namespace {

constexpr unsigned kDriverVersion = 12000;  // the first that has the function

CUtensorMapSwizzle swizzle_of(int bytes) {
  switch (bytes) {
    case 32:
      return CU_TENSOR_MAP_SWIZZLE_32B;
    case 64:
      return CU_TENSOR_MAP_SWIZZLE_64B;
    case 128:
      return CU_TENSOR_MAP_SWIZZLE_128B;
    default:
      CHECK(bytes == 0);
      return CU_TENSOR_MAP_SWIZZLE_NONE;
  }
}

}  // namespace

Result<std::unique_ptr<TensorMapEncoder>> TensorMapEncoder::create() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  RETURN_IF_CUDA_ERROR(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                        kDriverVersion, cudaEnableDefault, &found));
  if (found != cudaDriverEntryPointSuccess || function == nullptr) {
    return Status::unavailable(
        "CUDA: the driver has no cuTensorMapEncodeTiled: it must be of CUDA 12 or newer");
  }
  return std::unique_ptr<TensorMapEncoder>(
      new TensorMapEncoder(reinterpret_cast<Function>(function)));
}

CUresult TensorMapEncoder::encode(const TensorMapShape& shape, CUtensorMap& map) const {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(shape.columns),
                               static_cast<cuuint64_t>(shape.rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(shape.row_bytes)};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(shape.box_columns),
                             static_cast<cuuint32_t>(shape.box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  return function_(&map, shape.type, 2, const_cast<void*>(shape.data), sizes, strides, box, steps,
                   CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle_of(shape.swizzle_bytes),
                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

}  // namespace wideep::kernels
