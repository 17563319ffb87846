#include "kernels/attention.h"

#include <algorithm>

#include "kernels/attention_testing.h"

namespace wideep::kernels {
namespace {

constexpr AttentionShape kShapes[] = {
    {"latent", 4, 1, 576, 576, 0, 512},       {"latent of many heads", 23, 1, 80, 80, 0, 64},
    {"grouped-query", 6, 2, 128, 64, 64, 64}, {"multi-head", 3, 3, 256, 128, 128, 128},
    {"odd sizes", 4, 2, 61, 37, 40, 21},
};

TEST(AttentionTest, MatchesTheDefinition) {
  TestStream stream(3);
  for_each_instruction_set([&] {
    Random random(1);
    for (int trial = 0; trial < 25; ++trial) {
      const AttentionShape& shape = kShapes[trial % std::size(kShapes)];
      const std::vector<int> lengths = {between(random, 1, 150), between(random, 1, 60), 1};
      const int page_size = std::vector<int>{1, 7, 16, 64, 100}[random.below(5)];
      const TestCache cache(random, shape, page_size, trial % 2 ? DType::kF32 : DType::kBF16,
                            lengths);
      // Prefill of a part, decode, and a sequence without rows this time.
      std::vector<AttentionSequence> sequences;
      int rows = 0;
      for (int s = 0; s < 3; ++s) {
        const int count = s == 0 ? between(random, 1, std::min(lengths[s], 40)) : s % 2;
        sequences.push_back({rows, count, lengths[s] - count, cache.pages(s).data()});
        rows += count;
      }
      const TestMatrix q = random_matrix(random, rows, shape.num_heads * shape.k_dim, 1, 3);
      AttentionResult result(rows, shape);
      AttentionParams params = params_of(shape, cache, q, result);
      params.sequences = sequences;
      params.chunk_size = trial % 3 == 0 ? between(random, 1, 50) : 0;
      attention(stream, params);
      for (int s = 0; s < 3; ++s) {
        for (int i = 0; i < sequences[s].num_rows; ++i) {
          expect_row(params, shape, cache, s, sequences[s].first_position + i,
                     sequences[s].first_row + i, result);
        }
      }
      expect_gaps_untouched(result.out);
    }
  });
}

TEST(AttentionTest, PartsOfTheKeysMergeToTheWhole) {
  Random random(2);
  TestStream stream(2);
  constexpr int kParts = 3;
  constexpr int kPageSize = 16;
  for (const AttentionShape& shape : kShapes) {
    // The first rows see keys of rank 0 only.
    const std::vector<int> lengths = {130};
    const TestCache cache(random, shape, kPageSize, DType::kF32, lengths);
    const TestMatrix q = random_matrix(random, 130, shape.num_heads * shape.k_dim);
    std::vector<AttentionResult> parts(kParts, AttentionResult(130, shape));
    std::vector<ConstMatrixView> part_views;
    std::vector<const float*> part_lses;
    for (int rank = 0; rank < kParts; ++rank) {
      std::vector<int> own_pages;
      for (size_t page = rank; page < cache.pages(0).size(); page += kParts) {
        own_pages.push_back(cache.pages(0)[page]);
      }
      const std::vector<AttentionSequence> sequences = {{0, 130, 0, own_pages.data()}};
      AttentionParams params = params_of(shape, cache, q, parts[rank]);
      params.sequences = sequences;
      params.cp_size = kParts;
      params.cp_rank = rank;
      attention(stream, params);
      for (const int position : {0, 15, 16, 40, 129}) {
        expect_row(params, shape, cache, 0, position, position, parts[rank]);
      }
      part_views.push_back(std::as_const(parts[rank].out).view());
      part_lses.push_back(parts[rank].lse.data());
    }
    AttentionResult merged(130, shape);
    merge_attention(stream, {part_views, part_lses, shape.num_heads, merged.out.view()});
    AttentionResult whole(130, shape);
    AttentionParams params = params_of(shape, cache, q, whole);
    const std::vector<AttentionSequence> sequences = {{0, 130, 0, cache.pages(0).data()}};
    params.sequences = sequences;
    attention(stream, params);
    for (int64_t row = 0; row < 130; ++row) {
      for (int64_t c = 0; c < whole.out.columns; ++c) {
        ASSERT_NEAR(merged.out.at(row, c), whole.out.at(row, c), 1e-6);
      }
    }
  }
}

// The rows of one sequence in one call, in chunks of several sizes, one by one, and beside others.
TEST(AttentionTest, RowsDependOnTheirSequenceAlone) {
  Random random(3);
  for (const AttentionShape& shape : kShapes) {
    for (const int chunk_size : {0, 50}) {
      const std::vector<int> lengths = {90, 33};
      const TestCache cache(random, shape, 16, DType::kBF16, lengths);
      const TestMatrix q = random_matrix(random, 123, shape.num_heads * shape.k_dim, 0, 2);
      const auto run = [&](int threads, int step, bool others) {
        TestStream stream(threads);
        AttentionResult result(123, shape);
        AttentionParams params = params_of(shape, cache, q, result);
        params.chunk_size = chunk_size;
        for (int first = 0; first < 90; first += step) {
          std::vector<AttentionSequence> sequences = {
              {first, std::min(step, 90 - first), first, cache.pages(0).data()}};
          if (others) sequences.insert(sequences.begin(), {90, 33, 0, cache.pages(1).data()});
          params.sequences = sequences;
          attention(stream, params);
        }
        std::vector<uint32_t> bits = result.out.bits();
        bits.resize(90 * result.out.columns);
        for (int i = 0; i < 90 * shape.num_heads; ++i) {
          bits.push_back(std::bit_cast<uint32_t>(result.lse[i]));
        }
        return bits;
      };
      const std::vector<uint32_t> one_by_one = run(1, 1, false);
      for (const int step : {3, 16, 17, 90}) {
        EXPECT_EQ(run(1, step, false), one_by_one) << shape.name << ", " << step << " rows a call";
        EXPECT_EQ(run(4, step, true), one_by_one) << shape.name << ", " << step << " rows a call";
      }
    }
  }
}

TEST(AttentionTest, SameBitsForEveryWidthOfRegisters) {
  TestStream stream(1);
  expect_same_on_wide_instruction_sets([&] {
    Random random(4);
    std::vector<std::vector<uint32_t>> bits;
    for (const AttentionShape& shape : kShapes) {
      const TestCache cache(random, shape, 16, DType::kBF16, {70});
      const TestMatrix q = random_matrix(random, 70, shape.num_heads * shape.k_dim);
      AttentionResult result(70, shape);
      AttentionParams params = params_of(shape, cache, q, result);
      const std::vector<AttentionSequence> sequences = {{0, 70, 0, cache.pages(0).data()}};
      params.sequences = sequences;
      attention(stream, params);
      bits.push_back(result.out.bits());
    }
    return bits;
  });
}

TEST(AttentionTest, LargeScoresDoNotOverflow) {
  Random random(5);
  TestStream stream(1);
  const AttentionShape& shape = kShapes[2];
  const TestCache cache(random, shape, 8, DType::kF32, {50});
  const TestMatrix q = random_matrix(random, 1, shape.num_heads * shape.k_dim, 0, 1000);
  AttentionResult result(1, shape);
  AttentionParams params = params_of(shape, cache, q, result);
  const std::vector<AttentionSequence> sequences = {{0, 1, 49, cache.pages(0).data()}};
  params.sequences = sequences;
  params.lse = nullptr;
  attention(stream, params);
  for (const uint32_t bits : result.out.bits()) {
    EXPECT_LE(std::abs(std::bit_cast<float>(bits)), 1.0001F);
  }
}

TEST(AttentionTest, NoSequences) {
  Random random(6);
  TestStream stream(2);
  const TestCache cache(random, kShapes[2], 8, DType::kF32, {1});
  const TestMatrix q(0, 6 * 64);
  AttentionResult result(0, kShapes[2]);
  attention(stream, params_of(kShapes[2], cache, q, result));
}

TEST(KvAppendTest, SkipsNegativeSlotsAndRounds) {
  TestStream stream(1);
  const std::vector<float> rows = {1.0F, 1.00390625F, 7, 8, 3, -4};  // [3, 2]; 1 + 2^-8 is a tie
  const std::vector<int64_t> slots = {3, -1, 0};
  std::vector<uint16_t> halves(8, 99);
  KvCacheView cache;
  cache.data = reinterpret_cast<std::byte*>(halves.data());
  cache.dtype = DType::kBF16;
  cache.page_size = 2;
  cache.kv_heads = 1;
  cache.row_dim = cache.k_dim = cache.v_dim = 2;
  kv_append(stream, matrix_view(rows.data(), 3, 2), slots, cache);
  EXPECT_EQ(halves, (std::vector<uint16_t>{float_to_bf16(3), float_to_bf16(-4), 99, 99, 99, 99,
                                           float_to_bf16(1), float_to_bf16(1)}));
}

TEST(MergeAttentionTest, OfNothingIsZero) {
  TestStream stream(1);
  const TestMatrix part = [] {
    TestMatrix zeros(1, 4);
    std::fill(zeros.values.begin(), zeros.values.end(), 0.0F);
    return zeros;
  }();
  const std::vector<float> lse = {-INFINITY, -INFINITY};
  const std::vector<ConstMatrixView> parts = {part.view(), part.view()};
  const std::vector<const float*> lses = {lse.data(), lse.data()};
  TestMatrix out(1, 4);
  merge_attention(stream, {parts, lses, 2, out.view()});
  EXPECT_EQ(out.values, std::vector<float>(4, 0));
}

}  // namespace
}  // namespace wideep::kernels
