// Ops that touch every element once.
#pragma once

#include <span>

#include "base/stream.h"
#include "base/tensor.h"

namespace wideep::kernels {

// y[t] = table[ids[t]]; table [vocab, columns] kF32 or kBF16, y [tokens, columns]. ids of other
// ranks' rows, below 0, give zeros.
void embedding(Stream& stream, ConstMatrixView table, std::span<const int> ids, MatrixView y);

// y = silu(gate) * up, x = [gate | up] of [rows, 2 * columns], y [rows, columns]. num_rows: memory
// of the stream's device that says how many of the rows are in use; null: all.
void silu_mul(Stream& stream, ConstMatrixView x, MatrixView y, const int* num_rows = nullptr);

// y += x.
void add(Stream& stream, ConstMatrixView x, MatrixView y);

// y[t] += bias for every row. bias [columns].
void add_bias(Stream& stream, const float* bias, MatrixView y);

// Row t of x is multiplied by factors[t].
void scale_rows(Stream& stream, std::span<const float> factors, MatrixView x);

}  // namespace wideep::kernels
