#include <algorithm>
#include <memory>
#include <optional>

#include "kernels/attention_tables.h"
#include "kernels/attention_testing.h"
#include "kernels/cuda_testing.h"

namespace wideep::kernels {
namespace {

constexpr AttentionShape kShapes[] = {
    {"latent", 4, 1, 576, 576, 0, 512},        {"latent of many heads", 23, 1, 80, 80, 0, 64},
    {"grouped-query", 6, 2, 128, 64, 64, 64},  {"multi-head", 3, 3, 256, 128, 128, 128},
    {"group of 5", 10, 2, 256, 128, 128, 128}, {"wide heads", 4, 2, 512, 256, 256, 256},
    {"small heads", 8, 4, 40, 24, 24, 16},     {"odd sizes", 4, 2, 61, 37, 40, 21},
};

// A cache on the device, and calls of attention on it.
class DeviceAttention {
 public:
  DeviceAttention(const AttentionShape& shape, const TestCache& cache, DType dtype,
                  int chunk_size = 0, int cp_size = 1, int cp_rank = 0)
      : shape_(shape), cache_(cache.view()), dtype_(dtype), memory_(cache.bytes()) {
    cache_.data = memory_.data();
    AttentionTablesOptions options;
    options.max_sequences = 64;
    options.max_rows = 4096;
    options.max_pages = 4096;
    options.page_size = cache_.page_size;
    options.num_heads = shape.num_heads;
    options.kv_heads = shape.kv_heads;
    options.k_dim = shape.k_dim;
    options.v_dim = shape.v_dim;
    options.dtype = dtype;
    options.chunk_size = chunk_size;
    options.cp_size = cp_size;
    options.cp_rank = cp_rank;
    tables_ = AttentionTables::create(options).value();
  }

  AttentionTables& tables() { return *tables_; }

  AttentionParams params(const DeviceMatrix& q, const DeviceMatrix& out,
                         const DeviceVector<float>& lse) const {
    AttentionParams params;
    params.q = q.view();
    params.num_heads = shape_.num_heads;
    params.cache = cache_;
    params.tables = tables_.get();
    params.scale = 1 / std::sqrt(static_cast<float>(shape_.k_dim));
    params.chunk_size = tables_->options().chunk_size;
    params.cp_size = tables_->options().cp_size;
    params.cp_rank = tables_->options().cp_rank;
    params.out = out.view();
    params.lse = lse.data();
    return params;
  }

  AttentionResult run(Stream& stream, const TestMatrix& q,
                      std::span<const AttentionSequence> sequences, int padded_sequences = 0) {
    AttentionResult result(q.rows, shape_);
    // The fast kernels want rows that are adjacent, or aligned; the others get a gap.
    if (dtype_ == DType::kBF16) result.out = TestMatrix(q.rows, result.out.columns);
    const DeviceMatrix device_q(q, dtype_);
    const DeviceMatrix out(result.out, dtype_);
    const DeviceVector<float> lse(result.lse);
    EXPECT_TRUE(tables_->prepare(stream, sequences, padded_sequences).is_ok());
    attention(stream, params(device_q, out, lse));
    result.out = out.host();
    result.lse = lse.host();
    return result;
  }

 private:
  AttentionShape shape_;
  KvCacheView cache_;
  DType dtype_;
  DeviceVector<std::byte> memory_;
  std::unique_ptr<AttentionTables> tables_;
};

// Of one type for cache, queries and output.
double tolerance_for(DType dtype) {
  return dtype == DType::kBF16 ? 6e-3 : 5e-6;
}

class AttentionCudaTest : public CudaTest {
 protected:
  // Rows of all sequences one behind the other; counts[s] rows at the end of sequence s.
  static std::vector<AttentionSequence> last_rows(const TestCache& cache,
                                                  const std::vector<int>& lengths,
                                                  const std::vector<int>& counts) {
    std::vector<AttentionSequence> sequences;
    int rows = 0;
    for (int s = 0; s < std::ssize(lengths); ++s) {
      sequences.push_back({rows, counts[s], lengths[s] - counts[s], cache.pages(s).data()});
      rows += counts[s];
    }
    return sequences;
  }

  TestMatrix queries(const AttentionShape& shape, int64_t rows, DType dtype, float range = 3) {
    return rounded(random_matrix(random_, rows, shape.num_heads * shape.k_dim, 8, range), dtype);
  }

  // All rows of a result against the definition.
  static void expect_definition(const AttentionShape& shape, const TestCache& cache,
                                const std::vector<AttentionSequence>& sequences,
                                const TestMatrix& q, AttentionResult& result, DType dtype,
                                int chunk_size = 0, int cp_size = 1, int cp_rank = 0) {
    AttentionParams params = params_of(shape, cache, q, result);
    params.chunk_size = chunk_size;
    params.cp_size = cp_size;
    params.cp_rank = cp_rank;
    for (int s = 0; s < std::ssize(sequences); ++s) {
      for (int i = 0; i < sequences[s].num_rows; ++i) {
        expect_row(params, shape, cache, s, sequences[s].first_position + i,
                   sequences[s].first_row + i, result, tolerance_for(dtype));
        if (testing::Test::HasFatalFailure()) return;
      }
    }
    expect_gaps_untouched(result.out);
  }
};

TEST_F(AttentionCudaTest, MatchesTheDefinition) {
  for (int trial = 0; trial < 48; ++trial) {
    const AttentionShape& shape = kShapes[trial % std::size(kShapes)];
    const DType dtype = trial / 8 % 2 ? DType::kBF16 : DType::kF32;
    const int page_size = std::vector<int>{1, 7, 16, 32, 64, 100}[random_.below(6)];
    const int chunk_size = trial % 3 == 0 ? between(random_, 1, 50) : 0;
    SCOPED_TRACE(testing::Message() << shape.name << ", trial " << trial << ", pages of "
                                    << page_size << ", chunks of " << chunk_size);
    // Prefill of a part, no row this time, decode.
    const std::vector<int> lengths = {between(random_, 1, 300), between(random_, 1, 60), 1,
                                      between(random_, 1, 700)};
    const TestCache cache(random_, shape, page_size, dtype, lengths);
    const auto sequences =
        last_rows(cache, lengths, {between(random_, 1, std::min(lengths[0], 50)), 0, 1, 1});
    const TestMatrix q = queries(shape, sequences.back().first_row + 1, dtype);
    DeviceAttention device(shape, cache, dtype, chunk_size);
    AttentionResult result = device.run(stream(), q, sequences);
    expect_definition(shape, cache, sequences, q, result, dtype, chunk_size);
    if (HasFatalFailure()) return;
  }
}

// Decode of few sequences is cut over the keys; a long prefill is not.
TEST_F(AttentionCudaTest, LongSequences) {
  for (const AttentionShape& shape : kShapes) {
    SCOPED_TRACE(shape.name);
    const std::vector<int> lengths = {3000, 1500};
    const TestCache cache(random_, shape, 32, DType::kF32, lengths);
    for (const std::vector<int>& counts : {std::vector<int>{1, 1}, {600, 2}}) {
      const auto sequences = last_rows(cache, lengths, counts);
      const TestMatrix q = queries(shape, counts[0] + counts[1], DType::kF32);
      DeviceAttention device(shape, cache, DType::kF32);
      AttentionResult result = device.run(stream(), q, sequences);
      AttentionParams params = params_of(shape, cache, q, result);
      for (const int row : {0, counts[0] / 2, counts[0] - 1}) {
        expect_row(params, shape, cache, 0, 3000 - counts[0] + row, row, result, 5e-6);
      }
      expect_row(params, shape, cache, 1, 1499, q.rows - 1, result, 5e-6);
      if (HasFatalFailure()) return;
    }
  }
}

// The shapes of models, prefill and decode together, in the types that the fast kernels take.
TEST_F(AttentionCudaTest, ShapesOfModels) {
  constexpr AttentionShape kModels[] = {
      {"latent, 128 heads", 128, 1, 576, 576, 0, 512},
      {"latent, 16 heads", 16, 1, 576, 576, 0, 512},
      {"latent, 24 heads", 24, 1, 576, 576, 0, 512},
      {"groups of 8", 32, 4, 256, 128, 128, 128},
      {"groups of 5", 40, 8, 256, 128, 128, 128},
      {"groups of 4", 8, 2, 256, 128, 128, 128},
      {"groups of 1", 4, 4, 256, 128, 128, 128},
  };
  for (const AttentionShape& shape : kModels) {
    for (const bool is_decode : {false, true}) {
      for (const int page_size : {16, 64}) {
        SCOPED_TRACE(testing::Message() << shape.name << (is_decode ? ", decode" : ", prefill"));
        std::vector<int> lengths = {1500, 700, 1, 90};
        std::vector<int> counts = {600, 65, 1, 90};
        if (is_decode) {
          lengths.assign(37, 0);
          for (int& length : lengths) length = between(random_, 1, 1200);
          counts.assign(37, 1);
        }
        const TestCache cache(random_, shape, page_size, DType::kBF16, lengths);
        const auto sequences = last_rows(cache, lengths, counts);
        const int rows = sequences.back().first_row + sequences.back().num_rows;
        const TestMatrix q = queries(shape, rows, DType::kBF16);
        DeviceAttention device(shape, cache, DType::kBF16);
        AttentionResult result = device.run(stream(), q, sequences);
        const AttentionParams params = params_of(shape, cache, q, result);
        for (int sample = 0; sample < 8; ++sample) {
          const int s = static_cast<int>(random_.below(std::ssize(sequences)));
          const int i = sample < 2 ? counts[s] - 1 : between(random_, 0, counts[s] - 1);
          expect_row(params, shape, cache, s, lengths[s] - counts[s] + i,
                     sequences[s].first_row + i, result, tolerance_for(DType::kBF16));
          if (HasFatalFailure()) return;
        }
        expect_gaps_untouched(result.out);
        for (const float lse : result.lse) ASSERT_TRUE(std::isfinite(lse));
        for (const uint32_t bits : result.out.bits()) {
          ASSERT_TRUE(std::isfinite(std::bit_cast<float>(bits)));
        }
      }
    }
  }
}

TEST_F(AttentionCudaTest, EqualsTheCpuInFloat32) {
  for (const AttentionShape& shape : kShapes) {
    SCOPED_TRACE(shape.name);
    const std::vector<int> lengths = {200, 77};
    const TestCache cache(random_, shape, 16, DType::kF32, lengths);
    const auto sequences = last_rows(cache, lengths, {120, 1});
    const TestMatrix q = queries(shape, 121, DType::kF32);
    DeviceAttention device(shape, cache, DType::kF32);
    const AttentionResult result = device.run(stream(), q, sequences);
    AttentionResult expected(121, shape);
    AttentionParams params = params_of(shape, cache, q, expected);
    params.sequences = sequences;
    attention(cpu(), params);
    expect_close(result.out, expected.out, 5e-6);
  }
}

TEST_F(AttentionCudaTest, PartsOfTheKeysMergeToTheWhole) {
  constexpr int kParts = 3;
  constexpr int kRows = 130;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const AttentionShape& shape : kShapes) {
      SCOPED_TRACE(shape.name);
      // The first rows see keys of rank 0 only.
      const TestCache cache(random_, shape, 16, dtype, {kRows});
      const TestMatrix q = queries(shape, kRows, dtype, 1);
      std::vector<std::unique_ptr<DeviceMatrix>> outs;
      std::vector<std::unique_ptr<DeviceVector<float>>> lses;
      std::vector<ConstMatrixView> parts;
      std::vector<const float*> part_lses;
      for (int rank = 0; rank < kParts; ++rank) {
        std::vector<int> own_pages;
        for (size_t page = rank; page < cache.pages(0).size(); page += kParts) {
          own_pages.push_back(cache.pages(0)[page]);
        }
        const std::vector<AttentionSequence> sequences = {{0, kRows, 0, own_pages.data()}};
        DeviceAttention device(shape, cache, dtype, 0, kParts, rank);
        AttentionResult part = device.run(stream(), q, sequences);
        expect_definition(shape, cache, {{0, kRows, 0, nullptr}}, q, part, dtype, 0, kParts, rank);
        if (HasFatalFailure()) return;
        outs.push_back(std::make_unique<DeviceMatrix>(part.out, DType::kF32));
        lses.push_back(std::make_unique<DeviceVector<float>>(part.lse));
        parts.push_back(outs.back()->view());
        part_lses.push_back(lses.back()->data());
      }
      AttentionResult merged(kRows, shape);
      const DeviceMatrix out(merged.out, dtype);
      merge_attention(stream(), {parts, part_lses, shape.num_heads, out.view()});
      merged.out = out.host();
      DeviceAttention device(shape, cache, dtype);
      const std::vector<AttentionSequence> sequences = {{0, kRows, 0, cache.pages(0).data()}};
      expect_close(merged.out, device.run(stream(), q, sequences).out, tolerance_for(dtype));
    }
  }
}

// Prompts over several chunks and decode, with pages that do not straddle chunks and some that do.
TEST_F(AttentionCudaTest, Chunks) {
  for (const AttentionShape& shape : kShapes) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const int page_size : {16, 24}) {
        SCOPED_TRACE(testing::Message() << shape.name << ", pages of " << page_size);
        const std::vector<int> lengths = {400, 128, 1, 129, 300};
        const TestCache cache(random_, shape, page_size, dtype, lengths);
        const auto sequences = last_rows(cache, lengths, {300, 128, 1, 1, 0});
        const TestMatrix q = queries(shape, 430, dtype);
        DeviceAttention device(shape, cache, dtype, 64);
        AttentionResult result = device.run(stream(), q, sequences);
        expect_definition(shape, cache, sequences, q, result, dtype, 64);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Decode of sequences of which a rank holds no key, some, or all.
TEST_F(AttentionCudaTest, DecodeOverThePagesOfARank) {
  for (const AttentionShape& shape : kShapes) {
    for (int rank = 0; rank < 2; ++rank) {
      SCOPED_TRACE(testing::Message() << shape.name << ", rank " << rank);
      const std::vector<int> lengths = {1, 16, 17, 32, 33, 500};
      const TestCache cache(random_, shape, 16, DType::kBF16, lengths);
      auto sequences = last_rows(cache, lengths, {1, 1, 1, 1, 1, 1});
      std::vector<std::vector<int>> own(lengths.size());
      for (size_t s = 0; s < lengths.size(); ++s) {
        const std::vector<int>& pages = cache.pages(static_cast<int>(s));
        for (size_t page = rank; page < pages.size(); page += 2) own[s].push_back(pages[page]);
        sequences[s].pages = own[s].data();
      }
      const TestMatrix q = queries(shape, 6, DType::kBF16);
      DeviceAttention device(shape, cache, DType::kBF16, 0, 2, rank);
      AttentionResult result = device.run(stream(), q, sequences);
      expect_definition(shape, cache, sequences, q, result, DType::kBF16, 0, 2, rank);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(AttentionCudaTest, NoRows) {
  const TestCache cache(random_, kShapes[2], 8, DType::kF32, {1});
  DeviceAttention device(kShapes[2], cache, DType::kF32);
  device.run(stream(), TestMatrix(0, 6 * 64), {});
  const std::vector<AttentionSequence> sequences = {{0, 0, 0, nullptr}};
  device.run(stream(), TestMatrix(0, 6 * 64), sequences);
}

// A graph of one batch attends over what the last prepare() says, also over fewer sequences.
TEST_F(AttentionCudaTest, GraphsReadTheTablesOfTheirReplay) {
  constexpr int kPadded = 4;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const AttentionShape& shape : kShapes) {
      SCOPED_TRACE(shape.name);
      const std::vector<int> lengths = {900, 33, 1, 100};
      const TestCache cache(random_, shape, 16, dtype, lengths);
      const TestMatrix q = queries(shape, kPadded, dtype);
      const int chunk_size = shape.k_dim == 128 ? 64 : 0;
      DeviceAttention device(shape, cache, dtype, chunk_size);
      AttentionResult result(kPadded, shape);
      result.out = TestMatrix(kPadded, result.out.columns);
      const DeviceMatrix device_q(q, dtype);
      const DeviceMatrix out(result.out, dtype);
      const DeviceVector<float> lse(result.lse);
      const auto handle = stream_of(stream());
      const auto all = last_rows(cache, lengths, {1, 1, 1, 1});
      ASSERT_TRUE(device.tables().prepare(stream(), std::span(all).first(1), kPadded).is_ok());
      ASSERT_EQ(cudaStreamBeginCapture(handle, cudaStreamCaptureModeRelaxed), cudaSuccess);
      attention(stream(), device.params(device_q, out, lse));
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t exec = nullptr;
      ASSERT_EQ(cudaStreamEndCapture(handle, &graph), cudaSuccess);
      ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
      for (const int count : {4, 1, 0, 3}) {
        const auto some = std::vector(all.begin(), all.begin() + count);
        ASSERT_TRUE(device.tables().prepare(stream(), some, kPadded).is_ok());
        ASSERT_EQ(cudaGraphLaunch(exec, handle), cudaSuccess);
        result.out = out.host();
        result.lse = lse.host();
        expect_definition(shape, cache, some, q, result, dtype, chunk_size);
        for (int row = count; row < kPadded; ++row) {
          for (int64_t c = 0; c < result.out.columns; ++c) ASSERT_EQ(result.out.at(row, c), 0);
        }
        if (HasFatalFailure()) return;
      }
      cudaGraphExecDestroy(exec);
      cudaGraphDestroy(graph);
    }
  }
}

// Host memory is written again while earlier batches are still on their way.
TEST_F(AttentionCudaTest, ManyBatchesInFlight) {
  const AttentionShape& shape = kShapes[2];
  const std::vector<int> lengths = {500, 400, 300, 200, 100, 50};
  const TestCache cache(random_, shape, 16, DType::kF32, lengths);
  const TestMatrix q = queries(shape, 1, DType::kF32);
  DeviceAttention device(shape, cache, DType::kF32);
  const DeviceMatrix device_q(q, DType::kF32);
  std::vector<AttentionResult> results(lengths.size(), AttentionResult(1, shape));
  std::vector<std::unique_ptr<DeviceMatrix>> outs;
  std::vector<std::unique_ptr<DeviceVector<float>>> lses;
  for (const AttentionResult& result : results) {
    outs.push_back(std::make_unique<DeviceMatrix>(result.out, DType::kF32));
    lses.push_back(std::make_unique<DeviceVector<float>>(result.lse));
  }
  for (int s = 0; s < std::ssize(lengths); ++s) {
    const std::vector<AttentionSequence> sequences = {
        {0, 1, lengths[s] - 1, cache.pages(s).data()}};
    ASSERT_TRUE(device.tables().prepare(stream(), sequences).is_ok());
    attention(stream(), device.params(device_q, *outs[s], *lses[s]));
  }
  for (int s = 0; s < std::ssize(lengths); ++s) {
    results[s].out = outs[s]->host();
    results[s].lse = lses[s]->host();
    AttentionParams params = params_of(shape, cache, q, results[s]);
    expect_row(params, shape, cache, s, lengths[s] - 1, 0, results[s], 5e-6);
  }
}

TEST_F(AttentionCudaTest, ShapesThatDoNotFitAreRefused) {
  AttentionTablesOptions options;
  options.max_sequences = options.max_rows = options.max_pages = options.page_size = 1;
  options.num_heads = options.kv_heads = 1;
  options.k_dim = 1024;
  options.v_dim = 512;
  const auto tables = AttentionTables::create(options);
  ASSERT_FALSE(tables.is_ok());
  EXPECT_EQ(tables.status().message(),
            "attention: keys of 1024 and values of 512 dimensions: on a CUDA device at most 576 "
            "and 512 work");
}

TEST_F(AttentionCudaTest, AppendEqualsTheCpu) {
  for (const DType from : {DType::kF32, DType::kBF16}) {
    for (const DType to : {DType::kF32, DType::kBF16}) {
      for (const int row_dim : {576, 61, 2}) {
        constexpr int kTokens = 9;
        constexpr int kSlots = 12;
        constexpr int kHeads = 2;
        const TestMatrix rows = rounded(random_matrix(random_, kTokens, kHeads * row_dim, 3), from);
        const std::vector<int64_t> slots = {3, -1, 0, 11, 7, -5, 8, 1, 2};
        TestMatrix expected(kSlots, kHeads * row_dim);
        KvCacheView cache;
        cache.page_size = 4;
        cache.kv_heads = kHeads;
        cache.row_dim = cache.k_dim = cache.v_dim = row_dim;
        cache.data = expected.view().data;
        kv_append(cpu(), rows.view(), slots, cache);

        const DeviceMatrix memory(TestMatrix(kSlots, kHeads * row_dim), to);
        const DeviceMatrix device_rows(rows, from);
        const DeviceVector<int64_t> device_slots(slots);
        cache.dtype = to;
        cache.data = memory.view().data;
        kv_append(stream(), device_rows.view(), device_slots.span(), cache);
        EXPECT_EQ(memory.host().bits(), rounded(expected, to).bits());
      }
    }
  }
}

TEST_F(AttentionCudaTest, MergeOfNothingIsZero) {
  TestMatrix part(2, 6);
  std::fill(part.values.begin(), part.values.end(), 0.0F);
  const DeviceMatrix device_part(part, DType::kF32);
  const DeviceVector<float> lse(std::vector<float>(4, -INFINITY));
  const DeviceMatrix out(TestMatrix(2, 6, 1), DType::kF32);
  const std::vector<ConstMatrixView> parts(2, device_part.view());
  const std::vector<const float*> lses(2, lse.data());
  merge_attention(stream(), {parts, lses, 2, out.view()});
  EXPECT_EQ(out.host().bits(), part.bits());
}

}  // namespace
}  // namespace wideep::kernels
