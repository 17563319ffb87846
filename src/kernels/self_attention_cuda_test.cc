#include <memory>

#include "kernels/attention_tables.h"
#include "kernels/cuda_testing.h"
#include "kernels/self_attention_testing.h"

namespace wideep::kernels {
namespace {

class SelfAttentionCudaTest : public CudaTest {
 protected:
  static std::unique_ptr<AttentionTables> make_tables(int num_heads) {
    AttentionTablesOptions options;
    options.max_sequences = 8;
    options.max_rows = 2048;
    options.max_pages = 1024;
    options.page_size = 16;
    options.num_heads = num_heads;
    options.kv_heads = 1;
    options.k_dim = 576;
    options.v_dim = 512;
    options.self_k_dim = 192;
    options.self_v_dim = 128;
    return AttentionTables::create(options).value();
  }
};

TEST_F(SelfAttentionCudaTest, MatchesTheDefinition) {
  for (const int num_heads : {1, 16, 128}) {
    for (const int v_step : {128, 256}) {
      const auto tables = make_tables(num_heads);
      // Of the cache nothing is read, but its pages are in the tables all the same.
      const std::vector<int> pages(1024);
      const std::vector<AttentionSequence> sequences = {{0, 1, 0, pages.data()},
                                                        {1, 300, 0, pages.data()},
                                                        {301, 0, 0, pages.data()},
                                                        {301, 127, 0, pages.data()},
                                                        {428, 257, 0, pages.data()}};
      constexpr int kRows = 685;
      ASSERT_TRUE(tables->prepare(stream(), sequences).is_ok());
      if (tables->self() == nullptr) GTEST_SKIP() << "needs a Hopper GPU and FlashInfer's headers";
      const SelfInputs inputs(random_, {num_heads, 192, 128, v_step}, kRows, DType::kBF16);
      const DeviceMatrix q(inputs.q, DType::kBF16);
      const DeviceMatrix k(inputs.k, DType::kBF16);
      const DeviceMatrix v(inputs.v, DType::kBF16);
      AttentionResult result(kRows, num_heads, 128);
      result.out = TestMatrix(kRows, num_heads * 128, 8);
      const DeviceMatrix out(result.out, DType::kBF16);
      const DeviceVector<float> lse(result.lse);
      SelfAttentionParams params = inputs.params();
      params.q = q.view();
      params.k = k.view();
      params.v = v.view();
      params.tables = tables.get();
      params.out = out.view();
      params.lse = lse.data();
      self_attention(stream(), params);
      result.out = out.host();
      result.lse = lse.host();
      expect_gaps_untouched(result.out);
      for (const AttentionSequence& sequence : sequences) {
        for (int i = 0; i < sequence.num_rows; i += between(random_, 1, 30)) {
          expect_self_row(inputs.params(), sequence.first_row, i, result, 6e-3);
          if (HasFatalFailure()) return;
        }
      }
      for (int64_t row = 0; row < kRows; ++row) {
        for (int64_t c = 0; c < result.out.columns; ++c) {
          ASSERT_TRUE(std::isfinite(result.out.at(row, c)));
        }
      }
    }
  }
}

TEST_F(SelfAttentionCudaTest, IsForBatchesOfWholePrompts) {
  const auto tables = make_tables(16);
  const std::vector<int> pages(1024);
  const AttentionSequence prompt = {0, 5, 0, pages.data()};
  for (const AttentionSequence& cached :
       {AttentionSequence{5, 1, 7, pages.data()}, AttentionSequence{5, 3, 1, pages.data()}}) {
    const std::vector<AttentionSequence> sequences = {prompt, cached};
    ASSERT_TRUE(tables->prepare(stream(), sequences).is_ok());
    EXPECT_EQ(tables->self(), nullptr);
  }
}

TEST_F(SelfAttentionCudaTest, NoRows) {
  const auto tables = make_tables(16);
  ASSERT_TRUE(tables->prepare(stream(), {}).is_ok());
  const SelfInputs inputs(random_, {16, 192, 128, 128}, 0, DType::kBF16);
  SelfAttentionParams params = inputs.params();
  const TestMatrix out(0, 16 * 128);
  const DeviceMatrix device_out(out, DType::kBF16);
  params.tables = tables.get();
  params.out = device_out.view();
  self_attention(stream(), params);
}

}  // namespace
}  // namespace wideep::kernels
