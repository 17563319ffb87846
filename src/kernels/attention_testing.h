// Helpers of the tests of attention: a paged cache of random tokens, and the definition in double.
#pragma once

#include <algorithm>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "base/float_formats.h"
#include "kernels/attention.h"
#include "kernels/attention_shape.h"
#include "kernels/kernels_testing.h"

namespace wideep::kernels {

// Sequences whose keys lie in pages in random order. The cache holds NaN wherever no token is.
class TestCache {
 public:
  // lengths[s]: tokens of sequence s.
  TestCache(Random& random, const AttentionShape& shape, int page_size, DType dtype,
            const std::vector<int>& lengths)
      : shape_(shape) {
    int num_pages = 2;  // that no sequence has
    for (const int length : lengths) num_pages += (length + page_size - 1) / page_size;
    std::vector<int> free(num_pages);
    std::iota(free.begin(), free.end(), 0);
    shuffle(random, std::span(free));
    const int64_t elements = int64_t{num_pages} * page_size * shape.kv_heads * shape.row_dim;
    if (dtype == DType::kF32) {
      floats_.assign(elements, std::nanf(""));
    } else {
      halves_.assign(elements, float_to_bf16(std::nanf("")));
    }
    view_ = {dtype == DType::kF32 ? reinterpret_cast<std::byte*>(floats_.data())
                                  : reinterpret_cast<std::byte*>(halves_.data()),
             dtype,
             page_size,
             shape.kv_heads,
             shape.row_dim,
             shape.k_dim,
             shape.v_offset,
             shape.v_dim};
    TestStream stream(2);
    for (const int length : lengths) {
      TestMatrix rows = random_matrix(random, length, shape.kv_heads * shape.row_dim, 3);
      std::vector<int> pages(free.end() - (length + page_size - 1) / page_size, free.end());
      free.resize(free.size() - pages.size());
      std::vector<int64_t> slots;
      for (int t = 0; t < length; ++t) {
        slots.push_back(int64_t{pages[t / page_size]} * page_size + t % page_size);
      }
      kv_append(stream, std::as_const(rows).view(), slots, view_);
      if (dtype == DType::kBF16) {
        for (float& value : rows.values) value = bf16_to_float(float_to_bf16(value));
      }
      tokens_.push_back(std::move(rows));
      pages_.push_back(std::move(pages));
    }
  }

  const KvCacheView& view() const { return view_; }
  std::span<const std::byte> bytes() const {
    return view_.dtype == DType::kF32 ? std::as_bytes(std::span(floats_))
                                      : std::as_bytes(std::span(halves_));
  }
  const std::vector<int>& pages(int sequence) const { return pages_[sequence]; }
  // Of one position and KV head, as the cache rounds it.
  const float* token(int sequence, int position, int kv_head) const {
    return tokens_[sequence].row(position) + kv_head * shape_.row_dim;
  }

 private:
  AttentionShape shape_;
  std::vector<float> floats_;
  std::vector<uint16_t> halves_;
  KvCacheView view_;
  std::vector<TestMatrix> tokens_;
  std::vector<std::vector<int>> pages_;
};

struct AttentionResult {
  AttentionResult(int64_t rows, const AttentionShape& shape)
      : AttentionResult(rows, shape.num_heads, shape.v_dim) {}
  AttentionResult(int64_t rows, int num_heads, int v_dim)
      : out(rows, int64_t{num_heads} * v_dim, 2), lse(rows * num_heads, std::nanf("")) {}

  TestMatrix out;
  std::vector<float> lse;
};

inline AttentionParams params_of(const AttentionShape& shape, const TestCache& cache,
                                 const TestMatrix& q, AttentionResult& result) {
  AttentionParams params;
  params.q = q.view();
  params.num_heads = shape.num_heads;
  params.cache = cache.view();
  params.scale = 1 / std::sqrt(static_cast<float>(shape.k_dim));
  params.out = result.out.view();
  params.lse = result.lse.data();
  return params;
}

// One row by the definition, in double.
inline void expect_row(const AttentionParams& params, const AttentionShape& shape,
                       const TestCache& cache, int sequence, int position, int64_t row,
                       const AttentionResult& result, double tolerance = 2e-6) {
  for (int head = 0; head < shape.num_heads; ++head) {
    const int kv_head = head / (shape.num_heads / shape.kv_heads);
    const float* q = params.q.row<float>(row) + head * shape.k_dim;
    double total = 0;
    std::vector<double> out(shape.v_dim);
    for (int p = 0; p <= position; ++p) {
      if (params.chunk_size > 0 && p / params.chunk_size != position / params.chunk_size) continue;
      if (p / params.cache.page_size % params.cp_size != params.cp_rank) continue;
      const float* token = cache.token(sequence, p, kv_head);
      double score = 0;
      for (int i = 0; i < shape.k_dim; ++i) score += static_cast<double>(q[i]) * token[i];
      const double weight = std::exp(score * params.scale);
      total += weight;
      for (int i = 0; i < shape.v_dim; ++i) out[i] += weight * token[shape.v_offset + i];
    }
    const float lse = result.lse[row * shape.num_heads + head];
    if (total == 0) {
      ASSERT_EQ(lse, -INFINITY);
    } else {
      ASSERT_NEAR(lse, std::log(total), tolerance * (1 + std::abs(std::log(total))));
    }
    for (int i = 0; i < shape.v_dim; ++i) {
      const double expected = total > 0 ? out[i] / total : 0;
      ASSERT_NEAR(result.out.at(row, head * shape.v_dim + i), expected, tolerance)
          << shape.name << ", position " << position << ", head " << head << ", column " << i;
    }
  }
}

}  // namespace wideep::kernels
