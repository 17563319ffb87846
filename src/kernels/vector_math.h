// Exponentials of whole rows, for the ops of this folder. Within 2 units in the last place of what
// the standard library gives; the same for every length and place of a row in memory.
#pragma once

#include <cstdint>

namespace wideep::kernels {

// y[i] = exp((x[i] - shift) * scale); returns their sum. x and y may be the same.
float exp_row(const float* x, float shift, float scale, int64_t count, float* y);

// y[i] = 1 / (1 + exp(-x[i])).
void sigmoid_row(const float* x, int64_t count, float* y);

// y[i] = gate[i] / (1 + exp(-gate[i])) * up[i].
void silu_mul_row(const float* gate, const float* up, int64_t count, float* y);

// The largest of the finite x; -infinity where there is none.
float max_finite_row(const float* x, int64_t count);

}  // namespace wideep::kernels
