// Products of up to four rows with small bf16 weights, where cuBLASLt's kernels have hardly begun
// when the weight could have been read: heads of latent attention, routers.
#pragma once

#include "base/stream.h"
#include "kernels/adapters/blas.h"

namespace wideep::kernels {

inline constexpr int64_t kMostDotRows = 4;
// Of all weights of a product. cuBLASLt reads larger ones at 75 % of the memory's rate and more.
inline constexpr int64_t kMostDotBytes = int64_t{32} << 20;

// kBF16 operands in whole vectors of 16 bytes, at most 16384 inputs.
bool can_dot_few_rows(const BlasProduct& product);
void dot_few_rows(Stream& stream, const BlasProduct& product);

}  // namespace wideep::kernels
