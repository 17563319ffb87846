// What a loader asks of a source of weights: a part of one matrix, or of one vector.
#pragma once

#include <cstdint>
#include <string>

namespace wideep::models {

// Rows [row_begin, row_end) and columns [column_begin, column_end) of a matrix as it is computed
// with: [out_features, in_features].
struct MatrixRequest {
  std::string name;         // of the checkpoint's tensor
  int expert = -1;          // >= 0: this matrix of a tensor that stacks one for each expert
  bool transposed = false;  // the tensor holds [in_features, out_features], as Llama 4's experts do
  int64_t row_begin = 0;
  int64_t row_end = 0;
  int64_t column_begin = 0;
  int64_t column_end = 0;

  int64_t rows() const { return row_end - row_begin; }
  int64_t columns() const { return column_end - column_begin; }
  int64_t num_elements() const { return rows() * columns(); }
};

// Elements [begin, end) of a one-dimensional tensor.
struct VectorRequest {
  std::string name;
  int64_t begin = 0;
  int64_t end = 0;
};

}  // namespace wideep::models
