#include "kernels/sampling.h"

#include <algorithm>
#include <numeric>

#include "kernels/cuda_testing.h"
#include "kernels/sampling_testing.h"

namespace wideep::kernels {
namespace {

class SamplingCudaTest : public CudaTest {
 protected:
  // The tokens of the CPU. Its sums are rounded to float in places, these are not: a share that
  // falls within 1e-6 of the end of a token may give the next one.
  void expect_as_cpu(const TestMatrix& logits, const std::vector<SampleRequest>& requests) {
    const DeviceMatrix device(logits, DType::kF32);
    const std::vector<int> expected = sample_now(cpu(), logits.view(), requests);
    const std::vector<int> actual = sample_now(stream(), device.view(), requests);
    int different = 0;
    for (int64_t r = 0; r < logits.rows; ++r) {
      if (actual[r] == expected[r]) continue;
      ++different;
      ASSERT_GE(actual[r], 0) << "row " << r;
      ASSERT_LE(gap(logits.row(r), logits.columns, requests[r].sampling, actual[r], expected[r]),
                1e-6)
          << "row " << r << ": " << actual[r] << " for " << expected[r];
    }
    EXPECT_LE(different, std::max<int64_t>(1, logits.rows / 50));
  }

  // The probability of the tokens between a and b, in the order that they are walked in.
  static double gap(const float* logits, int64_t vocab, const SamplingParams& sampling, int a,
                    int b) {
    std::vector<int> order(vocab);
    std::iota(order.begin(), order.end(), 0);
    if (sampling.top_k > 0 || sampling.top_p < 1) {
      std::stable_sort(order.begin(), order.end(),
                       [&](int i, int j) { return logits[i] > logits[j]; });
    }
    double total = 0;
    double between = 0;
    int met = 0;
    for (const int id : order) {
      const bool is_end = id == a || id == b;
      const double p =
          std::exp((static_cast<double>(logits[id]) - logits[order[0]]) / sampling.temperature);
      if (met == 1 && !is_end) between += p;
      met += static_cast<int>(is_end);
      total += p;
    }
    return between / total;
  }
};

TEST_F(SamplingCudaTest, GreedyIsExact) {
  for (const auto& [rows, vocab, gap] :
       {std::tuple{1, 1, 0}, {7, 37, 3}, {40, 1003, 1}, {5, 129280, 0}}) {
    TestMatrix logits = random_matrix(random_, rows, vocab, gap, 20);
    for (float& value : logits.values) {
      const int kind = between(random_, 0, 40);
      if (kind == 0) value = INFINITY;
      if (kind == 1) value = std::nanf("");
      if (kind == 2) value = -INFINITY;
      if (kind > 10) value = std::round(value / 4);  // ties
    }
    if (rows > 1) std::fill_n(logits.row(1), vocab, -INFINITY);
    const DeviceMatrix device(logits, DType::kF32);
    const std::vector<SampleRequest> requests(rows);
    EXPECT_EQ(sample_now(stream(), device.view(), requests),
              sample_now(cpu(), logits.view(), requests));
  }
}

TEST_F(SamplingCudaTest, TakesTheCpusTokens) {
  for (const auto& [rows, vocab, gap, range] :
       {std::tuple{200, 5, 0, 2.0F}, {300, 1003, 1, 6.0F}, {96, 32000, 0, 12.0F}}) {
    TestMatrix logits = random_matrix(random_, rows, vocab, gap, range);
    logits.row(0)[vocab / 2] = std::nanf("");
    std::vector<SampleRequest> requests;
    for (int r = 0; r < rows; ++r) {
      const int top_ks[] = {0, 1, 3, 50, 2000};
      const float top_ps[] = {1, 0.95F, 0.5F, 0, 0.999F};
      requests.push_back({{.temperature = 0.3F + 0.01F * static_cast<float>(r % 100),
                           .top_k = top_ks[r % 5],
                           .top_p = top_ps[r / 5 % 5],
                           .seed = static_cast<uint64_t>(r)},
                          r * 7});
    }
    expect_as_cpu(logits, requests);
  }
}

// Many tokens of few probabilities: places among equals decide.
TEST_F(SamplingCudaTest, TiesAreInOrderOfIds) {
  TestMatrix logits(250, 777);
  for (float& value : logits.values) value = static_cast<float>(between(random_, 0, 3));
  std::vector<SampleRequest> requests;
  for (int r = 0; r < 250; ++r) {
    requests.push_back({{.temperature = 1 + static_cast<float>(r % 3),
                         .top_k = r % 2 == 0 ? 0 : 10 + r,
                         .top_p = r % 4 < 2 ? 0.7F : 0.01F,
                         .seed = 5},
                        r});
  }
  expect_as_cpu(logits, requests);
}

// So flat that what is left does not fit in shared memory.
TEST_F(SamplingCudaTest, FlatRowsOfALargeVocabulary) {
  const TestMatrix logits = random_matrix(random_, 60, 20000, 0, 0.5F);
  std::vector<SampleRequest> requests;
  for (int r = 0; r < 60; ++r) {
    requests.push_back({{.temperature = 1,
                         .top_k = r % 2 == 0 ? 0 : 9000,
                         .top_p = r % 3 == 0 ? 1 : 0.9F,
                         .seed = 11},
                        r});
  }
  expect_as_cpu(logits, requests);
}

TEST_F(SamplingCudaTest, ExtremeTemperatures) {
  const TestMatrix logits = random_matrix(random_, 40, 50, 0, 3);
  std::vector<SampleRequest> requests;
  for (int r = 0; r < 40; ++r) {
    const float temperatures[] = {1e-45F, 1e30F, INFINITY};
    requests.push_back({{.temperature = temperatures[r % 3], .top_p = r % 2 == 0 ? 1 : 0.5F}, r});
  }
  const DeviceMatrix device(logits, DType::kF32);
  EXPECT_EQ(sample_now(stream(), device.view(), requests),
            sample_now(cpu(), logits.view(), requests));
}

TEST_F(SamplingCudaTest, WithoutAFiniteLogit) {
  TestMatrix logits(2, 9);  // NaN
  std::fill_n(logits.row(1), 9, INFINITY);
  const DeviceMatrix device(logits, DType::kF32);
  for (const SamplingParams& sampling : {SamplingParams{}, SamplingParams{.temperature = 1},
                                         SamplingParams{.temperature = 1, .top_k = 3}}) {
    EXPECT_EQ(sample_now(stream(), device.view(), {{sampling, 1}, {sampling, 2}}),
              (std::vector<int>{-1, -1}));
  }
  EXPECT_TRUE(sample_now(stream(), device.view().row_range(0, 0), {}).empty());
}

TEST_F(SamplingCudaTest, BatchesUnderWayAndTheirTokensAsIds) {
  const TestMatrix logits = random_matrix(random_, 40, 500);
  const DeviceMatrix device(logits, DType::kF32);
  const std::vector<SampleRequest> requests(40);
  const std::vector<int> expected = sample_now(cpu(), logits.view(), requests);
  const auto sampler = Sampler::create(stream(), 40).value();
  sampler->start(stream(), device.view(), requests);
  sampler->start(stream(), device.view().row_range(10, 20), std::span(requests).first(20));
  const DeviceVector<int> ids(std::vector<int>{3, id_of_sampled(19), 0, id_of_sampled(0)});
  take_sampled(stream(), sampler->tokens(), ids.span());
  EXPECT_EQ(ids.host(), (std::vector<int>{3, expected[29], 0, expected[10]}));
  std::vector<int> tokens(40);
  sampler->take(stream(), tokens);
  EXPECT_EQ(tokens, expected);
  tokens.resize(20);
  sampler->take(stream(), tokens);
  EXPECT_EQ(tokens, std::vector(expected.begin() + 10, expected.begin() + 30));
}

}  // namespace
}  // namespace wideep::kernels
