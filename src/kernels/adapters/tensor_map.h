// Descriptors of the copy engine (TMA): boxes of a matrix in global memory that a kernel loads into
// shared memory with one instruction.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <memory>

#include "base/status.h"

namespace wideep::kernels {

// A row-major matrix and the box that is copied at a time. All in elements but what says bytes.
struct TensorMapShape {
  CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_UINT8;
  const void* data = nullptr;  // aligned to 16 bytes
  int64_t columns = 0;
  int64_t rows = 0;
  int64_t row_bytes = 0;  // from row to row, a multiple of 16
  int box_columns = 0;
  int box_rows = 0;
  int swizzle_bytes = 0;  // 0, 32, 64 or 128: of the box in shared memory
};

// Makes descriptors through the driver, which is found at run time: programs link without it.
class TensorMapEncoder {
 public:
  static Result<std::unique_ptr<TensorMapEncoder>> create();

  // Nothing but arithmetic, some 100 ns. The driver refuses what breaks the rules above.
  CUresult encode(const TensorMapShape& shape, CUtensorMap& map) const;

 private:
  using Function = decltype(&cuTensorMapEncodeTiled);
  explicit TensorMapEncoder(Function function) : function_(function) {}

  Function function_;
};

}  // namespace wideep::kernels
