// The CPU ops at the shapes of the embedded model (hidden 256, 64 experts of 128, 4 heads) and of
// DeepSeek-V3 (hidden 7168, 256 experts of 2048, 128 heads), on one thread.
//
// Counters: `flops` and `bytes` a second, and `limit`: the share of what the machine could do at
// best, the larger of the time that the arithmetic and the time that the traffic would take alone
// (bench/machine_limits.h). Weights and caches rotate through 64 MB, so that they come from where
// they come from in a model: not from the nearest cache.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/buffer.h"
#include "base/random.h"
#include "base/stream.h"
#include "bench/machine_limits.h"
#include "kernels/attention.h"
#include "kernels/attention_shape.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"
#include "kernels/norm.h"
#include "kernels/permute.h"
#include "kernels/rope.h"
#include "kernels/router.h"
#include "kernels/sampling.h"

namespace wideep::kernels {
namespace {

constexpr int64_t kRotated = 64 << 20;  // bytes

// One thread and no helpers.
struct OneThread {
  ThreadPool pool{1};
  Stream stream{pool};
};

// Rows [rows, columns], which do not matter to the time as long as they are ordinary numbers.
struct Rows {
  Rows(int64_t num_rows, int64_t num_columns) : rows(num_rows), columns(num_columns) {
    Random random(1);
    for (float& value : values) value = static_cast<float>(random.uniform() - 0.5);
  }
  MatrixView view() { return matrix_view(values.data(), rows, columns); }

  int64_t rows;
  int64_t columns;
  std::vector<float> values = std::vector<float>(rows * columns);
};

Buffer allocate(int64_t bytes) {
  Result<Buffer> buffer = Buffer::allocate(bytes);
  CHECK(buffer.is_ok());
  return std::move(*buffer);
}

// Several weights of one shape, 64 MB of them or `least`.
class Weights {
 public:
  Weights(int out_features, int in_features, DType dtype, int64_t least = 1)
      : bytes_(packed_weight_bytes(out_features, in_features, dtype)),
        storage_(allocate(bytes_ * std::max(least, kRotated / bytes_))) {
    Rows rows(out_features, in_features);
    for (int64_t i = 0; i < std::max(least, kRotated / bytes_); ++i) {
      std::byte* to = storage_.data() + i * bytes_;
      if (i == 0) {
        pack_weight_rows(rows.view(), 0, out_features, dtype, to);
      } else {
        std::copy_n(storage_.data(), bytes_, to);
      }
      views.push_back({to, dtype, out_features, in_features});
    }
  }
  int64_t bytes() const { return bytes_; }

  std::vector<PackedWeight> views;

 private:
  int64_t bytes_;
  Buffer storage_;
};

// Runs the op and sets the counters.
template <typename Op>
void measure(benchmark::State& state, double flops, double bytes, const Op& op) {
  const MachineLimits& limits = machine_limits();
  op();  // touches what it needs
  const double start = thread_seconds();
  for (auto _ : state) op();
  const double seconds = thread_seconds() - start;
  const auto runs = static_cast<double>(state.iterations());
  const double best = std::max(flops / limits.gflops, bytes / limits.gigabytes_second) * 1e-9;
  state.counters["Gflop/s"] = flops * runs / seconds * 1e-9;
  state.counters["GB/s"] = bytes * runs / seconds * 1e-9;
  state.counters["limit%"] = 100 * best * runs / seconds;
}

// ---- products

void linear_bench(benchmark::State& state, int out, int in, DType dtype) {
  OneThread thread;
  const Weights weights(out, in, dtype);
  const auto tokens = static_cast<int>(state.range(0));
  Rows x(tokens, in);
  Rows y(tokens, out);
  size_t next = 0;
  const double bytes = static_cast<double>(weights.bytes()) + 4.0 * tokens * (in + out);
  measure(state, 2.0 * tokens * out * in, bytes, [&] {
    linear(thread.stream, x.view(), weights.views[next++ % weights.views.size()], y.view());
  });
}

void linear_arguments(benchmark::internal::Benchmark* bench) {
  for (const int tokens : {1, 2, 4, 8, 32, 128, 512}) bench->Arg(tokens);
  bench->ArgName("tokens")->Unit(benchmark::kMicrosecond);
}
BENCHMARK_CAPTURE(linear_bench, tiny_256x256_bf16, 256, 256, DType::kBF16)->Apply(linear_arguments);
BENCHMARK_CAPTURE(linear_bench, tiny_head_8192x256_bf16, 8192, 256, DType::kBF16)
    ->Apply(linear_arguments);
BENCHMARK_CAPTURE(linear_bench, tiny_head_8192x256_f32, 8192, 256, DType::kF32)
    ->Apply(linear_arguments);
BENCHMARK_CAPTURE(linear_bench, v3_q_a_1536x7168_bf16, 1536, 7168, DType::kBF16)
    ->Apply(linear_arguments);
BENCHMARK_CAPTURE(linear_bench, v3_expert_down_7168x2048_bf16, 7168, 2048, DType::kBF16)
    ->Apply(linear_arguments);

// All experts of the embedded model, rows spread over them at random.
void grouped_linear_bench(benchmark::State& state, int out, int in, int groups, int rows) {
  OneThread thread;
  const Weights weights(out, in, DType::kBF16, groups);
  Random random(2);
  std::vector<int> offsets(groups + 1);
  for (int i = 0; i < rows; ++i) ++offsets[1 + random.below(groups)];
  const auto used = groups - std::count(offsets.begin() + 1, offsets.end(), 0);
  std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
  Rows x(rows, in);
  Rows y(rows, out);
  const size_t sets = weights.views.size() / groups;
  size_t next = 0;
  const double bytes = static_cast<double>(weights.bytes() * used) + 4.0 * rows * (in + out);
  measure(state, 2.0 * rows * out * in, bytes, [&] {
    const std::span<const PackedWeight> set(&weights.views[next++ % sets * groups], groups);
    grouped_linear(thread.stream, {x.view(), offsets, set, y.view()});
  });
}
BENCHMARK_CAPTURE(grouped_linear_bench, tiny_gate_up_32_tokens, 256, 256, 64, 192)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(grouped_linear_bench, tiny_down_32_tokens, 256, 128, 64, 192)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(grouped_linear_bench, tiny_gate_up_512_tokens, 256, 256, 64, 3072)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(grouped_linear_bench, v3_gate_up_4_experts_32_rows, 4096, 7168, 4, 32)
    ->Unit(benchmark::kMicrosecond);

// Queries into the latent space: 128 -> 512 for each head.
void head_linear_bench(benchmark::State& state) {
  OneThread thread;
  const auto heads = static_cast<int>(state.range(0));
  const auto tokens = static_cast<int>(state.range(1));
  const Weights weights(512, 128, DType::kBF16, heads);
  Rows x(tokens, heads * 192);
  Rows y(tokens, heads * 576);
  const size_t sets = weights.views.size() / heads;
  size_t next = 0;
  const double bytes =
      static_cast<double>(weights.bytes()) * heads + 4.0 * tokens * heads * (128 + 512);
  measure(state, 2.0 * tokens * heads * 512 * 128, bytes, [&] {
    const std::span<const PackedWeight> set(&weights.views[next++ % sets * heads], heads);
    head_linear(thread.stream, {x.view(), 192, set, y.view(), 576});
  });
}
BENCHMARK(head_linear_bench)
    ->ArgNames({"heads", "tokens"})
    ->Args({4, 1})
    ->Args({4, 32})
    ->Args({4, 512})
    ->Args({128, 32})
    ->Unit(benchmark::kMicrosecond);

// ---- attention

constexpr AttentionShape kTinyLatent = {"latent 4", 4, 1, 576, 576, 0, 512};
constexpr AttentionShape kV3Latent = {"latent 128", 128, 1, 576, 576, 0, 512};
constexpr AttentionShape kGroupedQuery = {"grouped 32 / 4", 32, 4, 256, 128, 128, 128};

// The last `rows` positions of each of `sequences` sequences of `length` tokens.
void attention_bench(benchmark::State& state, const AttentionShape& shape, DType dtype) {
  OneThread thread;
  constexpr int kPageSize = 64;
  const auto num_sequences = static_cast<int>(state.range(0));
  const auto rows = static_cast<int>(state.range(1));
  const auto length = static_cast<int>(state.range(2));
  const int pages = (length + kPageSize - 1) / kPageSize;
  AttentionParams params;
  params.cache = {nullptr,       dtype,       kPageSize,      shape.kv_heads,
                  shape.row_dim, shape.k_dim, shape.v_offset, shape.v_dim};
  const int64_t tokens = int64_t{num_sequences} * pages * kPageSize;
  const Buffer cache = allocate(tokens * params.cache.token_elements() * dtype_size(dtype));
  params.cache.data = cache.data();
  Rows row(1, params.cache.token_elements());
  for (int64_t slot = 0; slot < tokens; ++slot) {
    kv_append(thread.stream, row.view(), std::span(&slot, 1), params.cache);
  }
  std::vector<int> ids(num_sequences * pages);
  std::iota(ids.begin(), ids.end(), 0);
  std::vector<AttentionSequence> sequences;
  for (int s = 0; s < num_sequences; ++s) {
    sequences.push_back({s * rows, rows, length - rows, &ids[s * pages]});
  }
  Rows q(int64_t{num_sequences} * rows, shape.num_heads * shape.k_dim);
  Rows out(q.rows, shape.num_heads * shape.v_dim);
  params.q = q.view();
  params.num_heads = shape.num_heads;
  params.sequences = sequences;
  params.scale = 0.1F;
  params.out = out.view();
  const double keys =
      num_sequences * (rows * static_cast<double>(length) - rows * (rows - 1) / 2.0);
  const double bytes =
      static_cast<double>(tokens * params.cache.token_elements() * dtype_size(dtype));
  measure(state, 2 * keys * shape.num_heads * (shape.k_dim + shape.v_dim), bytes,
          [&] { attention(thread.stream, params); });
}

void attention_arguments(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"sequences", "rows", "length"});
  bench->Args({32, 1, 512})->Args({1, 1, 4096})->Args({1, 512, 512});
  bench->Unit(benchmark::kMicrosecond);
}
BENCHMARK_CAPTURE(attention_bench, tiny_latent_bf16, kTinyLatent, DType::kBF16)
    ->Apply(attention_arguments);
BENCHMARK_CAPTURE(attention_bench, tiny_latent_f32, kTinyLatent, DType::kF32)
    ->Apply(attention_arguments);
BENCHMARK_CAPTURE(attention_bench, grouped_query_bf16, kGroupedQuery, DType::kBF16)
    ->Apply(attention_arguments);
BENCHMARK_CAPTURE(attention_bench, v3_latent_bf16, kV3Latent, DType::kBF16)
    ->ArgNames({"sequences", "rows", "length"})
    ->Args({1, 1, 4096})
    ->Unit(benchmark::kMicrosecond);

// ---- routing

void route_bench(benchmark::State& state, int num_experts, int top_k) {
  OneThread thread;
  const auto tokens = static_cast<int>(state.range(0));
  Rows logits(tokens, num_experts);
  const std::vector<float> bias(num_experts, 0.01F);
  std::vector<int32_t> ids(tokens * top_k);
  std::vector<float> weights(tokens * top_k);
  RouterParams params;
  params.logits = logits.view();
  params.bias = bias.data();
  params.scoring = RouterScoring::kSigmoidGroups;
  params.top_k = top_k;
  params.n_group = 8;
  params.topk_group = 4;
  params.normalize = true;
  params.ids = ids.data();
  params.weights = weights.data();
  measure(state, 0, 4.0 * tokens * (num_experts + 2 * top_k),
          [&] { route(thread.stream, params); });
}
BENCHMARK_CAPTURE(route_bench, tiny_64_top_6, 64, 6)->Arg(32)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(route_bench, v3_256_top_8, 256, 8)->Arg(32)->Unit(benchmark::kMicrosecond);

// Permutation, gather and combine of a batch, as one layer does them.
void permute_bench(benchmark::State& state, int num_experts, int top_k, int hidden) {
  OneThread thread;
  const auto tokens = static_cast<int>(state.range(0));
  const int pairs = tokens * top_k;
  Random random(3);
  std::vector<int32_t> ids(pairs);
  for (int32_t& id : ids) id = static_cast<int32_t>(random.below(num_experts));
  std::vector<int> offsets(num_experts + 1);
  std::vector<int> rows(pairs);
  std::vector<int> sorted(pairs);
  const std::vector<float> weights(pairs, 1.0F / static_cast<float>(top_k));
  Rows x(tokens, hidden);
  Rows permuted(pairs, hidden);
  measure(state, 2.0 * pairs * hidden, 4.0 * (3 * pairs + tokens) * hidden, [&] {
    make_permutation(thread.stream,
                     {ids, 0, num_experts, offsets.data(), rows.data(), sorted.data()});
    gather_rows(thread.stream, {x.view(), sorted, top_k, nullptr, permuted.view()});
    combine_rows(thread.stream, {permuted.view(), rows, weights.data(), top_k, x.view()});
  });
}
BENCHMARK_CAPTURE(permute_bench, tiny, 64, 6, 256)->Arg(32)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(permute_bench, v3, 256, 8, 7168)->Arg(32)->Unit(benchmark::kMicrosecond);

// ---- ops that touch every element once

void rms_norm_bench(benchmark::State& state) {
  OneThread thread;
  Rows x(state.range(0), state.range(1));
  Rows y(x.rows, x.columns);
  const std::vector<float> weight(x.columns, 1.0F);
  measure(state, 0, 8.0 * static_cast<double>(x.values.size()), [&] {
    rms_norm(thread.stream, {x.view(), weight.data(), 1e-6F, y.view()});
  });
}
BENCHMARK(rms_norm_bench)->Args({32, 256})->Args({32, 7168})->Unit(benchmark::kMicrosecond);

void silu_mul_bench(benchmark::State& state) {
  OneThread thread;
  Rows x(state.range(0), 2 * state.range(1));
  Rows y(x.rows, x.columns / 2);
  measure(state, 0, 12.0 * static_cast<double>(y.values.size()),
          [&] { silu_mul(thread.stream, x.view(), y.view()); });
}
BENCHMARK(silu_mul_bench)->Args({192, 128})->Args({256, 2048})->Unit(benchmark::kMicrosecond);

void rope_bench(benchmark::State& state) {
  OneThread thread;
  constexpr int kPairs = 32;
  const auto heads = static_cast<int>(state.range(1));
  Rows x(state.range(0), heads * 192);
  Rows table(x.rows, 2 * kPairs);
  std::fill(table.values.begin(), table.values.end(), 0.707F);  // values stay as large as they are
  measure(state, 6.0 * kPairs * static_cast<double>(x.rows * heads),
          16.0 * kPairs * static_cast<double>(x.rows * heads), [&] {
            rope(thread.stream, {in_place(x.view(), 192, heads), {}, table.view(), true});
          });
}
BENCHMARK(rope_bench)->Args({32, 4})->Args({32, 128})->Unit(benchmark::kMicrosecond);

void rope_table_bench(benchmark::State& state) {
  OneThread thread;
  std::vector<int> positions(32);
  std::iota(positions.begin(), positions.end(), 5000);
  std::vector<double> inv_freq(32);
  for (int i = 0; i < 32; ++i) inv_freq[i] = 1.0 / (1 + 17 * i);
  Rows table(32, 64);
  measure(state, 0, 4.0 * static_cast<double>(table.values.size()), [&] {
    rope_table(thread.stream, {positions, inv_freq, 1, table.view()});
  });
}
BENCHMARK(rope_table_bench)->Unit(benchmark::kMicrosecond);

void sample_bench(benchmark::State& state, const SamplingParams& sampling) {
  OneThread thread;
  Rows logits(32, state.range(0));
  const std::vector<SampleRequest> requests(32, {sampling, 7});
  std::vector<int> tokens(32);
  const auto sampler = Sampler::create(thread.stream, 32).value();
  measure(state, 0, 4.0 * static_cast<double>(logits.values.size()), [&] {
    sampler->start(thread.stream, logits.view(), requests);
    sampler->take(thread.stream, tokens);
  });
}
BENCHMARK_CAPTURE(sample_bench, greedy, {})->Arg(8192)->Arg(129280)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(sample_bench, temperature, {.temperature = 1})
    ->Arg(8192)
    ->Arg(129280)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(sample_bench, top_k_50_top_p, {.temperature = 1, .top_k = 50, .top_p = 0.9F})
    ->Arg(8192)
    ->Arg(129280)
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace wideep::kernels
