// What the layers of a model share while one batch runs through them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/arena.h"
#include "base/stream.h"
#include "base/tensor.h"
#include "dist/tensor_group.h"
#include "kernels/attention.h"

namespace wideep::models {

// With context parallelism a rank computes the rows [own_begin, own_end) of everything but
// attention; without, all of them.
struct ForwardPass {
  Stream* stream = nullptr;
  Arena* arena = nullptr;
  DType dtype = DType::kF32;        // of activations
  dist::TensorGroup* cp = nullptr;  // null without context parallelism

  int num_rows = 0;
  // Where a graph's rows may be more than the batch's tokens: how many are in use, in memory of the
  // stream's device. Null: all.
  const int* num_tokens = nullptr;
  int own_begin = 0;
  int own_end = 0;
  std::vector<int64_t> cp_rows;  // [cp] rows of every rank of the cp group

  // Tables of the batch, where the stream's ops read them.
  std::span<const int> token_ids;  // [num_rows]
  std::span<const int> positions;  // [num_rows]
  // [num_rows] place in this rank's pages of each new token, -1 where another rank holds it.
  std::span<const int64_t> slots;
  std::span<const int> logits_rows;  // those of the own rows, counted from own_begin
  std::span<const kernels::AttentionSequence> sequences;       // of the host
  const kernels::AttentionTables* attention_tables = nullptr;  // of them, on a GPU
  ConstMatrixView rope;  // [own rows, rotated columns], see kernels::rope_table

  int own_rows() const { return own_end - own_begin; }
  // Activations from the arena.
  MatrixView matrix(int64_t rows, int64_t columns) const {
    return arena->matrix(rows, columns, dtype);
  }
};

}  // namespace wideep::models
