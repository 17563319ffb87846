// Rows of floats from one type to another, on a CUDA stream: what products do with rows of a type
// that they do not multiply.
#pragma once

#include "base/stream.h"
#include "base/tensor.h"

namespace wideep::kernels {

// y = x; both kF32 or kBF16, of one shape.
void convert_rows(Stream& stream, ConstMatrixView x, MatrixView y);

}  // namespace wideep::kernels
