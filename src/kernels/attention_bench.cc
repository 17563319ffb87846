// Attention at the shapes of models: DeepSeek-V3's latents, grouped queries of Qwen3 and Llama 4.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "base/random.h"
#include "kernels/adapters/flashinfer.h"
#include "kernels/attention_shape.h"
#include "kernels/attention_tables.h"
#include "kernels/op_bench.h"
#include "kernels/self_attention.h"

namespace wideep::kernels {
namespace {

constexpr int kPageSize = 64;
constexpr int kCalls = 8;
constexpr double kBf16Bytes = 2;

constexpr AttentionShape kLatent = {"latent 128", 128, 1, 576, 576, 0, 512};
constexpr AttentionShape kLatentOfRank = {"latent 16", 16, 1, 576, 576, 0, 512};  // of 8 ranks
constexpr AttentionShape kGrouped8 = {"grouped 32 / 4", 32, 4, 256, 128, 128, 128};
constexpr AttentionShape kGrouped5 = {"grouped 40 / 8", 40, 8, 256, 128, 128, 128};

struct Load {
  int sequences;
  int rows;  // of each, the last of its keys
  int keys;
};

double pairs_of(const AttentionShape& heads, const Load& load) {
  const double of_sequence = static_cast<double>(load.rows) * (load.keys - load.rows) +
                             0.5 * load.rows * (load.rows + 1.0);
  return of_sequence * load.sequences * heads.num_heads;
}

// Sequences whose pages lie in random order.
struct Paged {
  std::vector<int> pages;
  std::vector<AttentionSequence> sequences;
};
Paged shuffled_pages(const Load& load) {
  const int of_sequence = (load.keys + kPageSize - 1) / kPageSize;
  Paged paged;
  paged.pages.resize(size_t{1} * load.sequences * of_sequence);
  std::iota(paged.pages.begin(), paged.pages.end(), 0);
  Random random(1);
  shuffle(random, std::span(paged.pages));
  for (int s = 0; s < load.sequences; ++s) {
    paged.sequences.push_back({s * load.rows, load.rows, load.keys - load.rows,
                               paged.pages.data() + size_t{1} * s * of_sequence});
  }
  return paged;
}

Result<std::unique_ptr<AttentionTables>> prepared(OpBench& bench, const AttentionShape& heads,
                                                  const Load& load, const Paged& paged,
                                                  std::pair<int, int> self_dims = {}) {
  AttentionTablesOptions options;
  options.max_sequences = load.sequences;
  options.max_rows = load.sequences * load.rows;
  options.max_pages = std::ssize(paged.pages);
  options.page_size = kPageSize;
  options.num_heads = heads.num_heads;
  options.kv_heads = heads.kv_heads;
  options.k_dim = heads.k_dim;
  options.v_dim = heads.v_dim;
  options.self_k_dim = self_dims.first;
  options.self_v_dim = self_dims.second;
  ASSIGN_OR_RETURN(auto tables, AttentionTables::create(options));
  RETURN_IF_ERROR(tables->prepare(bench.stream(), paged.sequences));
  return tables;
}

OpCase case_of(const std::string& op, const AttentionShape& heads, const Load& load, double bytes,
               int dims) {
  OpCase result;
  result.op = op;
  result.shape = fmt::format("{}, {} x {} of {}", heads.name, load.sequences, load.rows, load.keys);
  result.bytes = bytes;
  result.flops = 2 * pairs_of(heads, load) * dims;
  constexpr double kBalance = 200;  // operations a byte; Hopper's is about 250 for bf16
  result.limit = result.flops / bytes < kBalance ? OpLimit::kRead : OpLimit::kBf16;
  return result;
}

OpCase attention_case(const AttentionShape& heads, const Load& load) {
  const int64_t rows = int64_t{load.sequences} * load.rows;
  const int64_t q_columns = int64_t{heads.num_heads} * heads.k_dim;
  const int64_t out_columns = int64_t{heads.num_heads} * heads.v_dim;
  const int64_t token = int64_t{heads.kv_heads} * heads.row_dim;
  const double bytes = kBf16Bytes * (static_cast<double>(load.sequences) * load.keys * token +
                                     static_cast<double>(rows) * (q_columns + out_columns));
  OpCase result = case_of("attention", heads, load, bytes, heads.k_dim + heads.v_dim);
  result.run = [=](OpBench& bench) -> Result<double> {
    const Paged paged = shuffled_pages(load);
    ASSIGN_OR_RETURN(const auto tables, prepared(bench, heads, load, paged));
    const int64_t tokens = std::ssize(paged.pages) * kPageSize;
    const int sets = input_sets(kBf16Bytes * static_cast<double>(tokens * token));
    ASSIGN_OR_RETURN(const Buffer cache, bench.random_rows(sets * tokens, token));
    ASSIGN_OR_RETURN(const Buffer q, bench.random_rows(rows, q_columns));
    ASSIGN_OR_RETURN(const Buffer out, bench.random_rows(rows, out_columns));
    AttentionParams params;
    params.q = {q.data(), DType::kBF16, rows, q_columns, q_columns};
    params.num_heads = heads.num_heads;
    params.cache = {cache.data(),  DType::kBF16, kPageSize,      heads.kv_heads,
                    heads.row_dim, heads.k_dim,  heads.v_offset, heads.v_dim};
    params.tables = tables.get();
    params.scale = 0.05F;
    params.out = {out.data(), DType::kBF16, rows, out_columns, out_columns};
    return bench.microseconds(std::max(sets, kCalls), [&](int i) {
      params.cache.data = cache.data() + i % sets * (cache.size() / sets);
      attention(bench.stream(), params);
    });
  };
  return result;
}

// Latent prompts before absorption: keys of 192 and values of 128 for each head.
OpCase self_case(const AttentionShape& heads, const Load& load) {
  constexpr int kKeyDim = 192;
  constexpr int kValueDim = 128;
  const int64_t rows = int64_t{load.sequences} * load.rows;
  const int64_t k_columns = int64_t{heads.num_heads} * kKeyDim;
  const int64_t v_columns = int64_t{heads.num_heads} * kValueDim;
  const double bytes = kBf16Bytes * 2 * static_cast<double>(rows * (k_columns + v_columns));
  OpCase result = case_of("self_attention", heads, load, bytes, kKeyDim + kValueDim);
  result.run = [=](OpBench& bench) -> Result<double> {
    const Paged paged = shuffled_pages(load);
    ASSIGN_OR_RETURN(const auto tables, prepared(bench, heads, load, paged, {kKeyDim, kValueDim}));
    if (tables->self() == nullptr) {
      return Status::unavailable("self_attention needs a Hopper GPU and FlashInfer's headers");
    }
    ASSIGN_OR_RETURN(const Buffer q, bench.random_rows(rows, k_columns));
    ASSIGN_OR_RETURN(const Buffer k, bench.random_rows(rows, k_columns));
    ASSIGN_OR_RETURN(const Buffer v, bench.random_rows(rows, v_columns));
    ASSIGN_OR_RETURN(const Buffer out, bench.random_rows(rows, v_columns));
    SelfAttentionParams params;
    params.q = {q.data(), DType::kBF16, rows, k_columns, k_columns};
    params.k = {k.data(), DType::kBF16, rows, k_columns, k_columns};
    params.v = {v.data(), DType::kBF16, rows, v_columns, v_columns};
    params.v_step = kValueDim;
    params.num_heads = heads.num_heads;
    params.k_dim = kKeyDim;
    params.v_dim = kValueDim;
    params.tables = tables.get();
    params.scale = 0.05F;
    params.out = {out.data(), DType::kBF16, rows, v_columns, v_columns};
    return bench.microseconds(kCalls, [&](int) { self_attention(bench.stream(), params); });
  };
  return result;
}

}  // namespace

std::vector<OpCase> attention_cases() {
  std::vector<OpCase> cases;
  for (const int sequences : {1, 16, 64, 128}) {
    cases.push_back(attention_case(kLatent, {sequences, 1, 4096}));
  }
  cases.push_back(attention_case(kLatentOfRank, {64, 1, 4096}));
  cases.push_back(attention_case(kGrouped8, {64, 1, 4096}));
  cases.push_back(attention_case(kGrouped5, {64, 1, 4096}));
  cases.push_back(attention_case(kLatent, {1, 8192, 8192}));
  if constexpr (adapters::kHasFlashInfer) {
    cases.push_back(self_case(kLatent, {1, 8192, 8192}));
    cases.push_back(self_case(kLatent, {4, 2048, 2048}));
  }
  cases.push_back(attention_case(kGrouped8, {1, 8192, 8192}));
  cases.push_back(attention_case(kGrouped8, {8, 1024, 1024}));
  return cases;
}

}  // namespace wideep::kernels
