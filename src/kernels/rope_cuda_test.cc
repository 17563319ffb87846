#include "kernels/rope.h"

#include "kernels/cuda_testing.h"

namespace wideep::kernels {
namespace {

class RopeCudaTest : public CudaTest {
 protected:
  static std::vector<double> inverse_frequencies(int n) {
    std::vector<double> result;
    for (int i = 0; i < n; ++i) result.push_back(std::pow(10000.0, -static_cast<double>(i) / n));
    return result;
  }
};

TEST_F(RopeCudaTest, TableMatchesTheCpuFarOut) {
  for (const auto& [tokens, n] : {std::pair{0, 4}, {5, 7}, {300, 32}, {3, kMaxRopePairs}}) {
    std::vector<int> positions(tokens);
    for (int& position : positions) position = between(random_, 0, 1'000'000);
    const std::vector<double> inv_freq = inverse_frequencies(n);
    TestMatrix expected(tokens, 2 * n, 1);
    rope_table(cpu(), {positions, inv_freq, 1.25, expected.view()});
    const DeviceMatrix table(TestMatrix(tokens, 2 * n, 1), DType::kF32);
    const DeviceVector<int> device_positions(positions);
    rope_table(stream(), {device_positions.span(), inv_freq, 1.25, table.view()});
    expect_close(table.host(), expected, 1e-7);
    expect_gaps_untouched(table.host());
  }
}

TEST_F(RopeCudaTest, RotatesQueriesAndKeysToElsewhere) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const bool interleaved : {false, true}) {
      for (const auto& [rows, heads, n] : {std::tuple{3, 2, 5}, {20, 16, 32}}) {
        TestMatrix table(rows, 2 * n);
        std::vector<int> positions(rows);
        for (int& position : positions) position = between(random_, 0, 5000);
        rope_table(cpu(), {positions, inverse_frequencies(n), 1, table.view()});
        const TestMatrix q = rounded(random_matrix(random_, rows, heads * 3 * n, 8), dtype);
        const TestMatrix k = rounded(random_matrix(random_, rows, 2 * n, 8), dtype);
        TestMatrix q_turned(rows, heads * 4 * n, 8);
        TestMatrix k_turned(rows, 2 * n, 8);
        const DeviceMatrix q_output(q_turned, dtype);
        const DeviceMatrix k_output(k_turned, dtype);
        rope(cpu(), {{q.view(), 3 * n, q_turned.view(), 4 * n, heads},
                     {k.view(), 0, k_turned.view(), 0, 1},
                     table.view(),
                     interleaved});
        const DeviceMatrix device_q(q, dtype);
        const DeviceMatrix device_k(k, dtype);
        const DeviceMatrix device_table(table, DType::kF32);
        rope(stream(), {{device_q.view(), 3 * n, q_output.view(), 4 * n, heads},
                        {device_k.view(), 0, k_output.view(), 0, 1},
                        device_table.view(),
                        interleaved});
        expect_close(q_output.host(), q_turned, tolerance_of(dtype));
        expect_close(k_output.host(), k_turned, tolerance_of(dtype));
        expect_gaps_untouched(k_output.host());
      }
    }
  }
}

TEST_F(RopeCudaTest, RotatesAsTheCpu) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const bool interleaved : {false, true}) {
      for (const auto& [rows, heads, n, between_heads] :
           {std::tuple{0, 2, 4, 0}, {1, 1, 1, 0}, {9, 3, 5, 3}, {70, 4, 32, 128}, {33, 2, 12, 8}}) {
        const int head_stride = 2 * n + between_heads;
        std::vector<int> positions(rows);
        for (int& position : positions) position = between(random_, 0, 5000);
        TestMatrix table(rows, 2 * n);
        rope_table(cpu(), {positions, inverse_frequencies(n), 1, table.view()});
        const TestMatrix before =
            rounded(random_matrix(random_, rows, heads * head_stride, 8), dtype);
        TestMatrix expected = before;
        rope(cpu(), {in_place(expected.view(), head_stride, heads), {}, table.view(), interleaved});
        const DeviceMatrix x(before, dtype);
        const DeviceMatrix device_table(table, DType::kF32);
        rope(stream(),
             {in_place(x.view(), head_stride, heads), {}, device_table.view(), interleaved});
        expect_close(x.host(), expected, tolerance_of(dtype));
        expect_gaps_untouched(x.host());
      }
    }
  }
}

}  // namespace
}  // namespace wideep::kernels
