// Attention over a paged KV cache, prefill and decode in one call, for multi-head, grouped-query
// and latent (MLA, absorbed) attention.
//
// The cache keeps one row for each token and KV head, of row_dim elements. Keys are the columns
// [0, k_dim), values the columns [v_offset, v_offset + v_dim). Grouped-query: the row is
// [key | value]. MLA: the row is [latent 512 | rope 64], the whole row is the key and the latent is
// the value, and there is one KV head.
//
// Keys are visited in pages from position 0 on with an online softmax in fp32, so that a query's
// output depends on its sequence alone, bit for bit, not on the batch or on how the prompt was
// chunked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/stream.h"
#include "base/tensor.h"

namespace wideep::kernels {

class AttentionTables;  // kernels/attention_tables.h

// Pages of one layer, kF32 or kBF16.
struct KvCacheView {
  std::byte* data = nullptr;  // [pages, page_size, kv_heads, row_dim]
  DType dtype = DType::kF32;
  int page_size = 0;  // tokens
  int kv_heads = 0;
  int row_dim = 0;
  int k_dim = 0;
  int v_offset = 0;
  int v_dim = 0;

  int64_t token_elements() const { return int64_t{kv_heads} * row_dim; }
};

// Writes row t of `rows` [tokens, kv_heads * row_dim] (kF32; CUDA: or kBF16) to token slot slots[t]
// = page * page_size + place; slots below 0 are skipped.
void kv_append(Stream& stream, ConstMatrixView rows, std::span<const int64_t> slots,
               const KvCacheView& cache);

// One sequence of a batch: rows [first_row, first_row + num_rows) of the queries are its positions
// [first_position, first_position + num_rows); the keys of all of them are in the cache already.
struct AttentionSequence {
  int first_row = 0;
  int num_rows = 0;
  int first_position = 0;
  const int* pages = nullptr;  // page i of the sequence that this rank holds
};

struct AttentionParams {
  ConstMatrixView q;  // [rows, num_heads * k_dim]
  int num_heads = 0;  // of the queries, a multiple of cache.kv_heads
  KvCacheView cache;
  std::span<const AttentionSequence> sequences;  // CPU
  // CUDA: the batch as prepare() put it on the device, once for all layers. Queries and outputs are
  // kF32 or kBF16 there.
  const AttentionTables* tables = nullptr;
  float scale = 1;
  // A query at position p sees positions <= p; with a chunk size only those of its own chunk,
  // floor(p / chunk_size). 0: all.
  int chunk_size = 0;
  // Context parallelism: this rank holds the pages cp_rank, cp_rank + cp_size, ... of a sequence,
  // as its pages 0, 1, ...
  int cp_size = 1;
  int cp_rank = 0;
  MatrixView out;        // [rows, num_heads * v_dim]; zero where a query sees none of the keys
  float* lse = nullptr;  // [rows, num_heads] log of the sum of exponentials, -inf for none; or null
};
void attention(Stream& stream, const AttentionParams& params);

// Merges partial attention over disjoint sets of keys: out = sum of parts weighted by
// exp(lse - max). Parts are added in ascending order.
struct MergeAttentionParams {
  std::span<const ConstMatrixView> parts;   // each [rows, num_heads * v_dim]
  std::span<const float* const> part_lses;  // each [rows, num_heads]
  int num_heads = 0;
  MatrixView out;  // [rows, num_heads * v_dim]
};
void merge_attention(Stream& stream, const MergeAttentionParams& params);

}  // namespace wideep::kernels
