// The types of a model's weights.
#pragma once

#include "base/dtype.h"

namespace wideep::models {

// The type of what stays as it is where linear weights are of this one.
constexpr DType unquantized(DType weight_dtype) {
  return weight_dtype == DType::kF32 ? DType::kF32 : DType::kBF16;
}

}  // namespace wideep::models
