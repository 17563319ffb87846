// Time of the planner and of the per-batch split, one core. Loads: recorded DeepSeek-V3 counts
// where they lie beside the repository, else data/sample_load.json.
//
// "58 layers" is what a full plan of DeepSeek-V3 costs. Nothing here is bound by memory or flops:
// the working set of a layer is under 100 KiB.
#include <benchmark/benchmark.h>

#include <string>

#include "base/file.h"
#include "eplb/eplb.h"

namespace wideep::eplb {
namespace {

const Load& bench_load() {
  static const Load load = [] {
    const std::string recorded =
        WIDEEP_SOURCE_DIR "/../shared/data/expert_load/deepseek_v3/decode_in1000out1000.json";
    auto read =
        read_load(path_exists(recorded) ? recorded : WIDEEP_SOURCE_DIR "/data/sample_load.json");
    CHECK(read.is_ok());
    return std::move(read).value();
  }();
  return load;
}

void plan_all_layers(benchmark::State& state, Algorithm algorithm) {
  PlanOptions options;
  options.algorithm = algorithm;
  options.num_slots = static_cast<int>(state.range(0));
  options.ep_size = static_cast<int>(state.range(1));
  options.threads = 1;
  double even = 0;
  for (auto _ : state) {
    const auto result = make_plan(bench_load(), options);
    CHECK(result.is_ok());
    even = 0;
    for (const LayerPlanReport& layer : result->layers) even += layer.even;
  }
  state.counters["max/mean"] = even / bench_load().num_layers();
  state.counters["layers"] = bench_load().num_layers();
}

void planner_arguments(benchmark::internal::Benchmark* benchmark) {
  for (const auto& [slots, ranks] : {std::pair{288, 36}, {288, 32}, {288, 72}, {320, 64}}) {
    benchmark->Args({slots, ranks});
  }
  benchmark->ArgNames({"slots", "ranks"})->Unit(benchmark::kMillisecond);
}

BENCHMARK_CAPTURE(plan_all_layers, tensorrt_llm, Algorithm::kTensorRtLlm)->Apply(planner_arguments);
BENCHMARK_CAPTURE(plan_all_layers, deepseek, Algorithm::kDeepSeek)->Apply(planner_arguments);
BENCHMARK_CAPTURE(plan_all_layers, balanced, Algorithm::kBalanced)->Apply(planner_arguments);
BENCHMARK_CAPTURE(plan_all_layers, recourse, Algorithm::kRecourse)->Apply(planner_arguments);

// One layer's batch of 128 tokens a rank, top-8, on the recourse plan of that layer; over all
// layers in turn, a few batches each.
void split_batch(benchmark::State& state) {
  PlanOptions options;
  options.num_slots = static_cast<int>(state.range(0));
  options.ep_size = static_cast<int>(state.range(1));
  const Load& load = bench_load();
  const auto result = make_plan(load, options);
  CHECK(result.is_ok());
  constexpr int kBatchesPerLayer = 4;
  std::vector<Splitter> splitters;
  std::vector<std::vector<int64_t>> batches;
  for (int i = 0; i < load.num_layers(); ++i) {
    splitters.emplace_back(result->plan.shape(options.ep_size), result->plan.row(i));
    for (uint64_t b = 0; b < kBatchesPerLayer; ++b) {
      Random random(1, {static_cast<uint64_t>(i), b});
      batches.emplace_back(load.num_experts);
      sample_counts(random, load.row(i), int64_t{options.ep_size} * 128 * 8, batches.back());
    }
  }
  std::vector<int64_t> tokens_of_slot(options.num_slots);
  size_t next = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        splitters[next / kBatchesPerLayer].split(batches[next], tokens_of_slot));
    next = (next + 1) % batches.size();
  }
}
BENCHMARK(split_batch)->Apply(planner_arguments)->Unit(benchmark::kMicrosecond);

// The layers of one load, moved towards another by at most so many transfers.
void incremental(benchmark::State& state) {
  PlanOptions options;
  options.num_slots = 288;
  options.ep_size = 36;
  options.threads = 1;
  const Plan previous = make_plan(bench_load(), options)->plan;
  Load drifted = bench_load();
  for (size_t i = 0; i < drifted.tokens.size(); ++i) {
    drifted.tokens[i] = drifted.tokens[i] * static_cast<int64_t>(70 + i * 7919 % 61) / 100;
  }
  options.max_transfers = static_cast<int>(state.range(0));
  for (auto _ : state) {
    benchmark::DoNotOptimize(make_plan(drifted, options, {}, &previous));
  }
  state.counters["layers"] = bench_load().num_layers();
}
BENCHMARK(incremental)->Arg(4)->Arg(16)->ArgName("transfers")->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace wideep::eplb
