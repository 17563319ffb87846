#include "moe/replica_choice_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/random.h"
#include "eplb/planner.h"
#include "kernels/permute.h"
#include "kernels/replica_choice.h"
#include "moe/slot_tables.h"

namespace wideep::moe {
namespace {

using kernels::OpBench;

constexpr int kExperts = 256;
constexpr int kTopK = 8;
constexpr int kBatches = 8;  // in turn: how long the flow takes depends on the batch

struct Size {
  int num_slots = 0;
  int num_ranks = 0;
  int tokens = 0;            // of a rank
  bool has_drifted = false;  // the load, since the plan was made

  eplb::Shape shape() const { return {kExperts, num_slots, num_ranks}; }
};

// A plan and batches, on the device.
struct Inputs {
  Buffer tables;
  Buffer ids;     // [batches, tokens * top_k] of rank 0
  Buffer counts;  // [batches, ranks, experts]
};

// Tokens of an expert, as skewed as a layer's of DeepSeek-V3: the hottest has about eight times the
// mean.
std::vector<int64_t> skewed_load() {
  std::vector<int64_t> load;
  for (int e = 0; e < kExperts; ++e) {
    load.push_back(static_cast<int64_t>(1e6 / std::pow(e + 3, 0.7)));
  }
  return load;
}

// Each expert with between half and twice as many.
std::vector<int64_t> drifted(std::vector<int64_t> load) {
  Random random(2);
  for (int64_t& tokens : load) {
    tokens =
        static_cast<int64_t>(static_cast<double>(tokens) * std::exp2(2 * random.uniform() - 1));
  }
  return load;
}

template <typename T>
Result<Buffer> to_device(const std::vector<T>& values) {
  const auto bytes = values.size() * sizeof(T);
  ASSIGN_OR_RETURN(Buffer memory, device_buffer(static_cast<int64_t>(bytes)));
  RETURN_IF_CUDA_ERROR(cudaMemcpy(memory.data(), values.data(), bytes, cudaMemcpyDefault));
  RETURN_IF_CUDA_ERROR(cudaDeviceSynchronize());
  return memory;
}

Result<Inputs> make_inputs(const Size& size) {
  const eplb::Shape shape = size.shape();
  eplb::Load load;
  load.num_experts = kExperts;
  load.layers = {0};
  load.tokens = skewed_load();
  eplb::PlanOptions options;
  options.num_slots = size.num_slots;
  options.ep_size = size.num_ranks;
  ASSIGN_OR_RETURN(const eplb::PlanResult plan, eplb::make_plan(load, options));
  std::vector<int32_t> tables(
      static_cast<size_t>(kernels::ReplicaTables::of(replica_shape(shape)).size));
  write_slot_tables(shape, plan.plan.row(0), {}, tables);

  std::vector<int64_t> ends;
  int64_t total = 0;
  for (const int64_t tokens : size.has_drifted ? drifted(load.tokens) : load.tokens) {
    ends.push_back(total += tokens);
  }
  Random random(1);
  std::vector<int32_t> ids;
  std::vector<int32_t> counts(static_cast<size_t>(kBatches) * size.num_ranks * kExperts);
  for (int batch = 0; batch < kBatches; ++batch) {
    for (int rank = 0; rank < size.num_ranks; ++rank) {
      for (int pair = 0; pair < size.tokens * kTopK; ++pair) {
        const auto place = static_cast<int64_t>(random.below(static_cast<uint64_t>(total)));
        const auto id = static_cast<int32_t>(std::ranges::upper_bound(ends, place) - ends.begin());
        ++counts[(int64_t{batch} * size.num_ranks + rank) * kExperts + id];
        if (rank == 0) ids.push_back(id);
      }
    }
  }
  Inputs inputs;
  ASSIGN_OR_RETURN(inputs.tables, to_device(tables));
  ASSIGN_OR_RETURN(inputs.ids, to_device(ids));
  ASSIGN_OR_RETURN(inputs.counts, to_device(counts));
  return inputs;
}

// What a layer does but for the exchange of counts; or the split alone.
Result<double> measure(OpBench& bench, const Size& size, kernels::SplitRule rule, bool is_split) {
  ASSIGN_OR_RETURN(const Inputs inputs, make_inputs(size));
  const int64_t pairs = int64_t{size.tokens} * kTopK;
  ASSIGN_OR_RETURN(const Buffer scratch,
                   device_buffer((4 * pairs + 4 * kExperts + size.num_slots + 64) * 4));
  int32_t* next = scratch.as<int32_t>();
  const auto take = [&](int64_t count) { return std::exchange(next, next + count); };
  kernels::PermutationParams permutation;
  permutation.num_groups = kExperts;
  permutation.offsets = take(kExperts + 1);
  permutation.counts = take(kExperts);
  permutation.rows = take(pairs);
  permutation.pairs = take(pairs);
  kernels::SplitBatchParams split;
  split.shape = replica_shape(size.shape());
  split.tables = inputs.tables.as<const int32_t>();
  split.rule = rule;
  split.begin = take(kExperts);
  split.ends = take(size.num_slots);
  kernels::ChooseSlotsParams choice;
  choice.shape = split.shape;
  choice.tables = split.tables;
  choice.rows = permutation.rows;
  choice.offsets = permutation.offsets;
  choice.begin = split.begin;
  choice.ends = split.ends;
  choice.slots = take(pairs);
  return bench.microseconds(kBatches, [&](int i) {
    split.counts = inputs.counts.as<const int32_t>() + int64_t{i} * size.num_ranks * kExperts;
    permutation.ids =
        choice.ids = {inputs.ids.as<const int32_t>() + i * pairs, static_cast<size_t>(pairs)};
    if (!is_split) kernels::make_permutation(bench.stream(), permutation);
    kernels::split_batch(bench.stream(), split);
    if (!is_split) kernels::choose_slots(bench.stream(), choice);
  });
}

}  // namespace

std::vector<kernels::OpCase> replica_choice_cases() {
  std::vector<kernels::OpCase> cases;
  const auto add = [&](const char* op, const Size& size, kernels::SplitRule rule, bool is_split) {
    kernels::OpCase made;
    made.op = op;
    made.shape =
        fmt::format("{} slots {} ranks {} tokens", size.num_slots, size.num_ranks, size.tokens);
    made.bytes = 4.0 * kExperts * size.num_ranks + 8.0 * size.tokens * kTopK;
    made.limit = kernels::OpLimit::kRead;
    made.run = [=](OpBench& bench) { return measure(bench, size, rule, is_split); };
    cases.push_back(std::move(made));
  };
  for (const auto& [slots, ranks] :
       {std::pair{260, 2}, {264, 4}, {272, 8}, {288, 8}, {288, 32}, {288, 36}, {320, 64}}) {
    for (const int tokens : {128, 1024}) {
      const Size size = {slots, ranks, tokens};
      add("split_per_batch", size, kernels::SplitRule::kPerBatch, true);
      add("choose_per_batch", size, kernels::SplitRule::kPerBatch, false);
    }
    add("split_per_batch_drifted", {slots, ranks, 128, true}, kernels::SplitRule::kPerBatch, true);
    add("split_quota", {slots, ranks, 128}, kernels::SplitRule::kQuota, true);
  }
  return cases;
}

}  // namespace wideep::moe
