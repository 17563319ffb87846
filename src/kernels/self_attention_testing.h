// Helpers of the tests of self_attention: inputs, and the definition in double.
#pragma once

#include <vector>

#include "kernels/attention_testing.h"
#include "kernels/self_attention.h"

namespace wideep::kernels {

struct SelfShape {
  int num_heads;
  int k_dim;
  int v_dim;
  int v_step;
};

// Random, as a matrix of that type holds them.
struct SelfInputs {
  SelfInputs(Random& random, const SelfShape& of, int64_t rows, DType dtype)
      : shape(of), q(rows, 0), k(rows, 0), v(rows, 0) {
    const auto matrix = [&](int64_t columns, float range) {
      TestMatrix result = random_matrix(random, rows, columns, 8, range);
      for (float& value : result.values) {
        if (dtype == DType::kBF16) value = bf16_to_float(float_to_bf16(value));
      }
      return result;
    };
    q = matrix(int64_t{of.num_heads} * of.k_dim, 3);
    k = matrix(int64_t{of.num_heads} * of.k_dim, 1);
    v = matrix(int64_t{of.num_heads} * of.v_step, 1);
  }

  SelfAttentionParams params() const {
    SelfAttentionParams result;
    result.q = q.view();
    result.k = k.view();
    result.v = v.view();
    result.v_step = shape.v_step;
    result.num_heads = shape.num_heads;
    result.k_dim = shape.k_dim;
    result.v_dim = shape.v_dim;
    result.scale = 1 / std::sqrt(static_cast<float>(shape.k_dim));
    return result;
  }

  SelfShape shape;
  TestMatrix q;
  TestMatrix k;
  TestMatrix v;
};

// Row i of a sequence by the definition; the params' matrices are of the host.
inline void expect_self_row(const SelfAttentionParams& params, int first_row, int i,
                            const AttentionResult& result, double tolerance) {
  const int64_t row = first_row + i;
  for (int head = 0; head < params.num_heads; ++head) {
    const float* q = params.q.row<float>(row) + head * params.k_dim;
    double total = 0;
    std::vector<double> out(params.v_dim);
    for (int j = 0; j <= i; ++j) {
      const float* k = params.k.row<float>(first_row + j) + head * params.k_dim;
      const float* v = params.v.row<float>(first_row + j) + head * params.v_step;
      double score = 0;
      for (int c = 0; c < params.k_dim; ++c) score += static_cast<double>(q[c]) * k[c];
      const double weight = std::exp(score * params.scale);
      total += weight;
      for (int c = 0; c < params.v_dim; ++c) out[c] += weight * v[c];
    }
    ASSERT_NEAR(result.lse[row * params.num_heads + head], std::log(total),
                tolerance * (1 + std::abs(std::log(total))));
    for (int c = 0; c < params.v_dim; ++c) {
      ASSERT_NEAR(result.out.at(row, head * params.v_dim + c), out[c] / total, tolerance)
          << "row " << row << ", head " << head << ", column " << c;
    }
  }
}

}  // namespace wideep::kernels
