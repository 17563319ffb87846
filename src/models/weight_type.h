// The types of a model's weights, and of what they are multiplied with.
#pragma once

#include "base/dtype.h"
#include "base/stream.h"

namespace wideep::models {

// The type of what stays as it is where linear weights are of this one.
constexpr DType unquantized(DType weight_dtype) {
  return weight_dtype == DType::kF32 ? DType::kF32 : DType::kBF16;
}

// The type of activations: of products with tensor cores where there are some.
inline DType activation_dtype(const Stream& stream, DType weight_dtype) {
  return stream.is_cuda() ? unquantized(weight_dtype) : DType::kF32;
}

}  // namespace wideep::models
