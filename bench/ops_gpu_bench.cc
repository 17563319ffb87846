// The plain CUDA ops at the shapes of DeepSeek-V3: hidden 7168, 256 experts of 2048 with top-8, 128
// heads, a vocabulary of 129,280. Activations are bf16.
//
// Each time is one call's of a CUDA graph of many, by events. Counters: `bytes` a second, each
// input read and each output written once, and `copy`: the share of what a copy of 1 GiB between
// two places of the device moves, its reads and writes counted. Operands rotate through 256 MB,
// several times the L2 cache, where there are enough of them; those of few tokens are found in the
// cache, as they are in a model.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "base/cuda.h"
#include "base/random.h"
#include "kernels/elementwise.h"
#include "kernels/heads.h"
#include "kernels/norm.h"
#include "kernels/op_context.h"
#include "kernels/permute.h"
#include "kernels/rope.h"
#include "kernels/router.h"
#include "kernels/sampling.h"

namespace wideep::kernels {
namespace {

constexpr int64_t kRotated = 256 << 20;  // bytes
constexpr int kMaxSets = 16;
constexpr int kCalls = 16;  // of a graph
constexpr int kHidden = 7168;
constexpr int kTopK = 8;
constexpr int kVocab = 129280;

void check(cudaError_t error) {
  CHECK(error == cudaSuccess);
}

// A GPU's stream, and graphs of calls on it.
class Device {
 public:
  Device() : handle_(CudaStream::create().value()), context_(OpContext::create().value()) {
    check(cudaEventCreate(&begin_));
    check(cudaEventCreate(&end_));
  }
  ~Device() {
    check(cudaEventDestroy(begin_));
    check(cudaEventDestroy(end_));
  }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  Stream& stream() { return stream_; }
  cudaStream_t handle() const { return handle_.get(); }

  // Seconds of each of kCalls calls body(0), body(1), ... in one graph; again at every call of
  // this.
  template <typename Body>
  void time(benchmark::State& state, const Body& body) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    check(cudaStreamBeginCapture(handle(), cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < kCalls; ++i) body(i);
    check(cudaStreamEndCapture(handle(), &graph));
    check(cudaGraphInstantiate(&executable, graph, 0));
    for (int i = 0; i < 3; ++i) check(cudaGraphLaunch(executable, handle()));
    for (auto _ : state) {
      float milliseconds = 0;
      check(cudaEventRecord(begin_, handle()));
      check(cudaGraphLaunch(executable, handle()));
      check(cudaEventRecord(end_, handle()));
      check(cudaEventSynchronize(end_));
      check(cudaEventElapsedTime(&milliseconds, begin_, end_));
      state.SetIterationTime(milliseconds * 1e-3 / kCalls);
    }
    CHECK(stream_.status().is_ok());
    check(cudaGraphExecDestroy(executable));
    check(cudaGraphDestroy(graph));
  }

  // Bytes a second of a copy, read and written.
  double copy_bandwidth() {
    if (copy_bandwidth_ > 0) return copy_bandwidth_;
    constexpr int64_t kBytes = int64_t{1} << 30;
    const Buffer from = device_buffer(kBytes).value();
    const Buffer to = device_buffer(kBytes).value();
    std::vector<float> times;
    for (int i = 0; i < 12; ++i) {
      check(cudaEventRecord(begin_, handle()));
      check(cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDefault, handle()));
      check(cudaEventRecord(end_, handle()));
      check(cudaEventSynchronize(end_));
      check(cudaEventElapsedTime(&times.emplace_back(), begin_, end_));
    }
    std::nth_element(times.begin(), times.begin() + 6, times.end());
    copy_bandwidth_ = 2.0 * kBytes / (times[6] * 1e-3);
    return copy_bandwidth_;
  }

 private:
  ThreadPool pool_{1};
  CudaStream handle_;
  std::unique_ptr<OpContext> context_;
  Stream stream_ = Stream::of_cuda(pool_, static_cast<void*>(handle_.get()), context_.get());
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
  double copy_bandwidth_ = 0;
};

Device& device() {
  static Device the_device;
  return the_device;
}

// Ordinary numbers in [-1, 1), several matrices of them where they are small.
class Matrices {
 public:
  Matrices(int64_t rows, int64_t columns, DType dtype = DType::kBF16)
      : rows_(rows), columns_(columns), dtype_(dtype) {
    const int64_t bytes = rows * columns * dtype_size(dtype);
    count_ = std::clamp<int64_t>(kRotated / bytes, 1, kMaxSets);
    memory_ = device_buffer(bytes * count_).value();
    std::vector<uint16_t> narrow(1 << 20);
    std::vector<float> wide(1 << 19);
    Random random(1);
    for (uint16_t& value : narrow) {  // a sign, an exponent up to 126, 7 bits of mantissa
      value = static_cast<uint16_t>(random.below(2) << 15 | (120 + random.below(7)) << 7 |
                                    random.below(128));
    }
    for (float& value : wide) value = static_cast<float>(2 * random.uniform() - 1);
    const void* from =
        dtype == DType::kBF16 ? static_cast<const void*>(narrow.data()) : wide.data();
    constexpr int64_t kBlock = 2 << 20;
    for (int64_t at = 0; at < memory_.size(); at += kBlock) {
      check(cudaMemcpy(memory_.data() + at, from, std::min(kBlock, memory_.size() - at),
                       cudaMemcpyDefault));
    }
  }

  MatrixView operator[](int i) const {
    return {memory_.data() + i % count_ * rows_ * columns_ * dtype_size(dtype_), dtype_, rows_,
            columns_, columns_};
  }
  int64_t bytes() const { return rows_ * columns_ * dtype_size(dtype_); }

 private:
  int64_t rows_;
  int64_t columns_;
  DType dtype_;
  int64_t count_;
  Buffer memory_;
};

// A vector of the host and its copy on the device.
template <typename T>
class Values {
 public:
  explicit Values(std::vector<T> values) : host_(std::move(values)) {
    memory_ = device_buffer(std::ssize(host_) * static_cast<int64_t>(sizeof(T))).value();
    check(cudaMemcpy(memory_.data(), host_.data(), memory_.size(), cudaMemcpyDefault));
  }
  std::span<T> span() const { return memory_.span<T>(std::ssize(host_)); }
  T* data() const { return memory_.as<T>(); }
  int64_t bytes() const { return memory_.size(); }

 private:
  std::vector<T> host_;
  Buffer memory_;
};

Values<int> random_ints(int64_t count, int bound) {
  Random random(2);
  std::vector<int> values(count);
  for (int& value : values) value = static_cast<int>(random.below(bound));
  return Values<int>(std::move(values));
}
Values<float> floats(int64_t count) {
  return Values<float>(std::vector<float>(count, 0.5F));
}

void set_bytes(benchmark::State& state, int64_t bytes) {
  const double all = static_cast<double>(bytes) * static_cast<double>(state.iterations());
  state.counters["bytes"] = benchmark::Counter(all, benchmark::Counter::kIsRate);
  state.counters["copy"] =
      benchmark::Counter(all / device().copy_bandwidth(), benchmark::Counter::kIsRate);
}

void embedding_of(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const Matrices table(32768, kHidden);
  const Matrices y(tokens, kHidden);
  const Values<int> ids = random_ints(tokens, 32768);
  device().time(state, [&](int i) { embedding(device().stream(), table[0], ids.span(), y[i]); });
  set_bytes(state, 2 * y.bytes());
}

void silu_mul_of(benchmark::State& state) {
  const Matrices x(state.range(0), 2 * 2048);
  const Matrices y(state.range(0), 2048);
  device().time(state, [&](int i) { silu_mul(device().stream(), x[i], y[i]); });
  set_bytes(state, x.bytes() + y.bytes());
}

void add_of(benchmark::State& state) {
  const Matrices x(state.range(0), kHidden);
  const Matrices y(state.range(0), kHidden);
  device().time(state, [&](int i) { add(device().stream(), x[i], y[i]); });
  set_bytes(state, 3 * x.bytes());
}

void rms_norm_of(benchmark::State& state) {
  const Matrices x(state.range(0), kHidden);
  const Matrices y(state.range(0), kHidden);
  const Values<float> weight = floats(kHidden);
  device().time(state, [&](int i) {
    rms_norm(device().stream(), {x[i], weight.data(), 1e-6F, y[i]});
  });
  set_bytes(state, 2 * x.bytes());
}

void add_rms_norm_of(benchmark::State& state) {
  const Matrices x(state.range(0), kHidden);
  const Matrices residual(state.range(0), kHidden);
  const Matrices y(state.range(0), kHidden);
  const Values<float> weight = floats(kHidden);
  device().time(state, [&](int i) {
    add_rms_norm(device().stream(), {x[i], residual[i], weight.data(), 1e-6F, y[i]});
  });
  set_bytes(state, 4 * x.bytes());
}

void norm_heads_of(benchmark::State& state) {
  const Matrices x(state.range(0), 64 * 128);
  const Values<float> weight = floats(128);
  device().time(state, [&](int i) {
    norm_heads(device().stream(), {x[i], 128, 64, 128, weight.data(), 1e-6F});
  });
  set_bytes(state, 2 * x.bytes());
}

// The 64 last of a head's 192 columns, as latent attention has it.
void rope_of(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const Matrices x(tokens, 128 * 192);
  const Matrices table(tokens, 64, DType::kF32);
  device().time(state, [&](int i) {
    const RopeHeads heads = in_place(x[i].column_range(128, 128 * 192 - 128), 192, 128);
    rope(device().stream(), {heads, {}, table[i], true});
  });
  set_bytes(state, 2 * tokens * 128 * 64 * 2 + table.bytes());
}

void rope_table_of(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const Matrices table(tokens, 64, DType::kF32);
  const Values<int> positions = random_ints(tokens, 100000);
  const std::vector<double> inv_freq(32, 0.01);
  device().time(state, [&](int i) {
    rope_table(device().stream(), {positions.span(), inv_freq, 1, table[i]});
  });
  set_bytes(state, table.bytes() + positions.bytes());
}

void route_of(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const Matrices logits(tokens, 256, DType::kF32);
  const Values<float> bias = floats(256);
  const Values<int> ids = random_ints(tokens * kTopK, 1);
  const Values<float> weights = floats(tokens * kTopK);
  device().time(state, [&](int i) {
    route(device().stream(), {.logits = logits[i],
                              .bias = bias.data(),
                              .scoring = RouterScoring::kSigmoidGroups,
                              .top_k = kTopK,
                              .n_group = 8,
                              .topk_group = 4,
                              .normalize = true,
                              .scaling = 2.5F,
                              .ids = ids.data(),
                              .weights = weights.data()});
  });
  set_bytes(state, logits.bytes() + ids.bytes() + weights.bytes());
}

// The pairs of `tokens` tokens in `groups` of 256, aligned for grouped products.
void make_permutation_of(benchmark::State& state) {
  const int64_t pairs_of_batch = state.range(0) * kTopK;
  const auto groups = static_cast<int>(state.range(1));
  const int64_t most = max_permuted_rows(pairs_of_batch, groups, 128);
  const Values<int> ids = random_ints(pairs_of_batch, 256);
  const Values<int> offsets = random_ints(groups + 1, 1);
  const Values<int> rows = random_ints(pairs_of_batch, 1);
  const Values<int> pairs = random_ints(most, 1);
  const Values<int> group_of_row = random_ints(most, 1);
  device().time(state, [&](int) {
    make_permutation(device().stream(), {ids.span(), 0, groups, offsets.data(), rows.data(),
                                         pairs.data(), 128, group_of_row.data()});
  });
  set_bytes(state, 2 * ids.bytes() + 2 * pairs.bytes());
}

void gather_rows_of(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const Matrices x(tokens, kHidden);
  const Matrices y(tokens * kTopK, kHidden);
  const Values<int> pairs = random_ints(tokens * kTopK, static_cast<int>(tokens) * kTopK);
  device().time(state, [&](int i) {
    gather_rows(device().stream(), {x[i], pairs.span(), kTopK, nullptr, y[i]});
  });
  set_bytes(state, x.bytes() + y.bytes());
}

void combine_rows_of(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const Matrices x(tokens * kTopK, kHidden);
  const Matrices y(tokens, kHidden);
  const Values<int> rows = random_ints(tokens * kTopK, static_cast<int>(tokens) * kTopK);
  const Values<float> weights = floats(tokens * kTopK);
  device().time(state, [&](int i) {
    combine_rows(device().stream(), {x[i], rows.span(), weights.data(), kTopK, y[i]});
  });
  set_bytes(state, x.bytes() + y.bytes());
}

// From the call to the tokens on the host. Bytes: each logit once.
void sample_of(benchmark::State& state, const SamplingParams& sampling) {
  const int64_t rows = state.range(0);
  // Uniform in [-1, 1): at temperature 0.005 some 1,000 of 129,280 hold 95 %.
  const Matrices logits(rows, kVocab, DType::kF32);
  const std::vector<SampleRequest> requests(rows, {sampling, 3});
  std::vector<int> tokens(rows);
  const auto sampler = Sampler::create(device().stream(), rows).value();
  const auto sample = [&](int i) {
    sampler->start(device().stream(), logits[i], requests);
    sampler->take(device().stream(), tokens);
  };
  sample(0);
  int i = 0;
  for (auto _ : state) sample(++i);
  CHECK(device().stream().status().is_ok());
  set_bytes(state, logits.bytes());
}

// The benchmark where there is a GPU.
template <typename Body>
auto on_gpu(const Body& body) {
  return [body](benchmark::State& state) {
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) {
      body(state);
    } else {
      state.SkipWithError("needs a GPU");
    }
  };
}

using Arguments = std::vector<std::vector<int64_t>>;

template <typename Body>
void add_op(const char* name, const Arguments& arguments, const Body& body) {
  auto* op = benchmark::RegisterBenchmark(name, on_gpu(body));
  op->UseManualTime()->Unit(benchmark::kMicrosecond);
  for (const std::vector<int64_t>& values : arguments) op->Args(values);
}

void add_sampling(const char* name, const SamplingParams& sampling) {
  benchmark::RegisterBenchmark(name,
                               on_gpu([=](benchmark::State& state) { sample_of(state, sampling); }))
      ->Arg(1)
      ->Arg(128)
      ->UseRealTime()
      ->Unit(benchmark::kMicrosecond);
}

// Numbers of rows, which are tokens but for silu_mul (pairs).
bool add_all() {
  const Arguments batches = {{1}, {128}, {8192}};
  const Arguments large = {{128}, {8192}};
  add_op("embedding", large, embedding_of);
  add_op("silu_mul", {{1024}, {65536}}, silu_mul_of);
  add_op("add", large, add_of);
  add_op("rms_norm", batches, rms_norm_of);
  add_op("add_rms_norm", batches, add_rms_norm_of);
  add_op("norm_heads", large, norm_heads_of);
  add_op("rope", large, rope_of);
  add_op("rope_table", large, rope_table_of);
  add_op("route", batches, route_of);
  add_op("make_permutation", {{128, 32}, {512, 256}, {8192, 32}, {8192, 256}}, make_permutation_of);
  add_op("gather_rows", large, gather_rows_of);
  add_op("combine_rows", large, combine_rows_of);
  add_sampling("sample/greedy", {});
  add_sampling("sample/temperature", {.temperature = 0.005F});
  add_sampling("sample/top_k 50", {.temperature = 0.005F, .top_k = 50});
  add_sampling("sample/top_p 0.95", {.temperature = 0.005F, .top_p = 0.95F});
  add_sampling("sample/top_p 0.95 of a flat row", {.temperature = 1, .top_p = 0.95F});
  return true;
}

[[maybe_unused]] const bool kAdded = add_all();

}  // namespace
}  // namespace wideep::kernels
