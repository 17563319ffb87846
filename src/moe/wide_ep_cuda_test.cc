// Layers of backend WideEP on GPUs, whose ranks may share one, against the same layers on the CPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>
#include <vector>

#include "base/cuda.h"
#include "base/device.h"
#include "base/float_formats.h"
#include "dist/world.h"
#include "eplb/eplb_testing.h"
#include "kernels/device_stream.h"
#include "kernels/linear.h"
#include "kernels/transfer.h"
#include "moe/moe_testing.h"
#include "moe/wide_ep.h"
#include "moe/wide_ep_layer.h"

namespace wideep::moe {
namespace {

using eplb::ReplicaChoice;
using eplb::Shape;

constexpr int kHidden = 256;
constexpr int kIntermediate = 128;

struct GpuCase {
  WideEpOptions options;
  MoeShape layer;
  std::vector<Tokens> tokens;  // [ranks]
  int iterations = 3;

  std::vector<int> dp_tokens() const {
    std::vector<int> counts;
    for (const Tokens& own : tokens) counts.push_back(own.count);
    return counts;
  }
  DType weights() const { return options.exchange->weights; }
  DType activations() const { return weights() == DType::kF32 ? DType::kF32 : DType::kBF16; }
};

GpuCase make_case(Random& random, const Experts& experts, const Shape& shape, DType weights,
                  const std::vector<int>& counts, int top_k) {
  GpuCase made;
  made.layer.hidden_size = kHidden;
  made.layer.intermediate_size = kIntermediate;
  made.layer.top_k = top_k;
  for (const int count : counts) made.tokens.emplace_back(random, experts, count, top_k);
  WideEpOptions& options = made.options;
  options.shape = shape;
  options.layers = {3};
  options.slots = {eplb::random_slots(random, shape)};
  const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{1});
  options.max_num_tokens = total;
  options.all_to_all.num_slots = shape.num_slots;
  options.all_to_all.top_k = top_k;
  options.all_to_all.hidden_size = kHidden;
  options.all_to_all.max_tokens = total + shape.num_ranks;
  options.exchange.emplace();
  options.exchange->shape = shape;
  options.exchange->layer = made.layer;
  options.exchange->weights = weights;
  options.exchange->max_tokens = options.all_to_all.max_tokens;
  options.exchange->max_tokens_of_rank = *std::ranges::max_element(counts) + 1;
  return made;
}

// Memory of the device with these values; there when it returns.
template <typename T>
Result<Buffer> to_device(std::span<const T> values) {
  ASSIGN_OR_RETURN(Buffer memory, device_buffer(static_cast<int64_t>(values.size_bytes())));
  RETURN_IF_CUDA_ERROR(
      cudaMemcpy(memory.data(), values.data(), values.size_bytes(), cudaMemcpyDefault));
  RETURN_IF_CUDA_ERROR(cudaDeviceSynchronize());
  return memory;
}

Result<Buffer> floats_to_device(std::span<const float> values, DType dtype) {
  if (dtype == DType::kF32) return to_device(values);
  std::vector<uint16_t> narrow(values.size());
  float_to_bf16(values, narrow);
  return to_device(std::span<const uint16_t>(narrow));
}

// Experts side by side on the device.
struct DeviceExperts {
  Status load(Stream& stream, const Experts& experts, std::span<const int> ids, DType dtype) {
    RETURN_IF_ERROR(load(stream, experts.gate_up, ids, 2 * experts.intermediate, experts.hidden,
                         dtype, memory[0], gate_up));
    RETURN_IF_ERROR(load(stream, experts.down, ids, experts.hidden, experts.intermediate, dtype,
                         memory[1], down));
    return Status::ok();
  }
  static Status load(Stream& stream, const std::vector<std::vector<float>>& weights,
                     std::span<const int> ids, int out, int in, DType dtype, Buffer& memory,
                     std::vector<kernels::PackedWeight>& packed) {
    const int64_t bytes = kernels::device_weight_bytes(out, in, dtype);
    ASSIGN_OR_RETURN(memory, device_buffer(bytes * std::ssize(ids)));
    for (size_t i = 0; i < ids.size(); ++i) {
      ASSIGN_OR_RETURN(const Buffer rows, to_device(std::span<const float>(weights[ids[i]])));
      std::byte* at = memory.data() + static_cast<int64_t>(i) * bytes;
      kernels::store_device_weight_rows(
          stream, {matrix_view(rows.as<const float>(), out, in), 0, out, dtype, at});
      kernels::wait(stream);
      packed.push_back(kernels::device_weight(at, out, in, dtype));
    }
    return stream.status();
  }

  // The memory of each expert.
  std::vector<SlotBytes> bytes() const {
    const auto count = std::ssize(gate_up);
    const int64_t sizes[] = {memory[0].size() / count, memory[1].size() / count};
    std::vector<SlotBytes> slots;
    for (int64_t i = 0; i < count; ++i) {
      slots.push_back({memory[0].span<std::byte>(sizes[0], i * sizes[0]),
                       memory[1].span<std::byte>(sizes[1], i * sizes[1])});
    }
    return slots;
  }

  Buffer memory[2];
  std::vector<kernels::PackedWeight> gate_up;
  std::vector<kernels::PackedWeight> down;
};

struct Outcome {
  Status status;
  std::vector<std::vector<float>> y;  // [ranks]
  std::vector<IterationReport> reports;
};

// One rank's layer on its GPU. Everything is allocated before the first call and freed after the
// last of all ranks: both may wait for the whole GPU.
class RankOnGpu {
 public:
  RankOnGpu(const GpuCase& made, int rank, Stream& stream)
      : made_(made), tokens_(made.tokens[rank]), stream_(stream), wide_ep_(made.options) {}

  Status start(const Experts& experts, dist::Communicator& group) {
    const int own_slots = made_.options.shape.slots_per_rank();
    const std::span<const int> own =
        std::span(made_.options.slots[0]).subspan(group.rank() * own_slots, own_slots);
    RETURN_IF_ERROR(experts_.load(stream_, experts, own, made_.weights()));
    layer_.emplace(WideEpLayer::Options{
        made_.layer, &wide_ep_, 0, ExpertWeights{experts_.gate_up, experts_.down}, {}});
    const DType dtype = made_.activations();
    ASSIGN_OR_RETURN(x_, floats_to_device(tokens_.x, dtype));
    ASSIGN_OR_RETURN(ids_, to_device(std::span<const int32_t>(tokens_.ids)));
    ASSIGN_OR_RETURN(weights_, to_device(std::span<const float>(tokens_.weights)));
    ASSIGN_OR_RETURN(residual_, floats_to_device(residual(), dtype));
    ASSIGN_OR_RETURN(y_, device_buffer(tokens_.count * kHidden * dtype_size(dtype) + 1));
    ASSIGN_OR_RETURN(scratch_, device_buffer(layer_->scratch_bytes(tokens_.count) + 1));
    wide_ep_.observe();
    RETURN_IF_ERROR(wide_ep_.start(group, {experts_.bytes()}, &stream_));
    return group.barrier();
  }

  Status run(dist::Communicator& group, Outcome& outcome) {
    std::vector<RankState> states(static_cast<size_t>(group.size()));
    const std::vector<int> dp_tokens = made_.dp_tokens();
    for (int i = 0; i < made_.iterations; ++i) {
      const RankState own = wide_ep_.state();
      RETURN_IF_ERROR(group.all_gather(std::as_bytes(std::span(&own, 1)),
                                       std::as_writable_bytes(std::span(states))));
      RETURN_IF_ERROR(wide_ep_.begin_iteration(states));
      Arena arena(scratch_.span<std::byte>(scratch_.size() - 1));
      MoeInput input = {view(x_), ids_.as<int32_t>(), weights_.as<float>()};
      input.residual = view(residual_);
      RETURN_IF_ERROR(layer_->forward(stream_, arena, input, dp_tokens, view(y_)));
      RETURN_IF_ERROR(wide_ep_.end_iteration());
      if (group.rank() == 0) outcome.reports.push_back(wide_ep_.report());
    }
    std::vector<float>& y = outcome.y[group.rank()];
    y.resize(tokens_.x.size());
    const int64_t bytes = std::ssize(y) * dtype_size(made_.activations());
    std::vector<std::byte> raw(static_cast<size_t>(bytes));
    kernels::fetch_bytes(stream_, y_.span<const std::byte>(bytes), raw.data());
    RETURN_IF_ERROR(stream_.status());
    RETURN_IF_ERROR(wide_ep_.check());
    if (made_.activations() == DType::kF32) {
      std::memcpy(y.data(), raw.data(), raw.size());
    } else {
      bf16_to_float(raw.data(), y);
    }
    return group.barrier();
  }

 private:
  std::vector<float> residual() const {
    std::vector<float> values = tokens_.x;
    for (float& value : values) value *= 8;
    return values;
  }
  MatrixView view(const Buffer& buffer) const {
    return {buffer.data(), made_.activations(), tokens_.count, kHidden, kHidden};
  }

  const GpuCase& made_;
  const Tokens& tokens_;
  Stream& stream_;
  WideEp wide_ep_;
  DeviceExperts experts_;
  std::optional<WideEpLayer> layer_;
  Buffer x_, ids_, weights_, residual_, y_, scratch_;
};

Outcome run_on_gpu(const GpuCase& made, const Experts& experts) {
  Outcome outcome;
  const int ranks = made.options.shape.num_ranks;
  const auto gpus = static_cast<int>(device_report().devices.size());
  outcome.y.resize(static_cast<size_t>(ranks));
  ThreadPool pool(1);
  dist::World world = dist::World::local(ranks).value();
  outcome.status = world.run([&](dist::Communicator& group) -> Status {
    ASSIGN_OR_RETURN(const auto device, kernels::DeviceStream::open(pool, group.rank() % gpus));
    RankOnGpu rank(made, group.rank(), device->stream());
    RETURN_IF_ERROR(rank.start(experts, group));
    RETURN_IF_ERROR(rank.run(group, outcome));
    return group.barrier();
  });
  return outcome;
}

// The same case on the CPU; sums without the residual.
Outcome run_on_cpu(const GpuCase& made, const Experts& experts) {
  Outcome outcome;
  const int ranks = made.options.shape.num_ranks;
  outcome.y.resize(static_cast<size_t>(ranks));
  ThreadPool pool(2);
  dist::World world = dist::World::local(ranks).value();
  outcome.status = world.run([&](dist::Communicator& group) -> Status {
    const int rank = group.rank(), own_slots = made.options.shape.slots_per_rank();
    const auto first = made.options.slots[0].begin() + rank * own_slots;
    const PackedExperts own(experts, {first, first + own_slots}, 0, kIntermediate);
    WideEpOptions options = made.options;
    options.exchange.reset();
    WideEp wide_ep(options);
    wide_ep.observe();
    RETURN_IF_ERROR(wide_ep.start(group, {own.bytes()}));
    WideEpLayer layer({made.layer, &wide_ep, 0, own.weights(), {}});
    const std::vector<int> dp_tokens = made.dp_tokens();
    const Buffer scratch =
        Buffer::allocate(layer.scratch_bytes(*std::ranges::max_element(dp_tokens)) + 1).value();
    Arena arena(scratch.span<std::byte>(scratch.size() - 1));
    Stream stream(pool);
    const Tokens& tokens = made.tokens[rank];
    std::vector<float>& y = outcome.y[rank];
    y.resize(tokens.x.size());
    const std::vector<RankState> states(static_cast<size_t>(ranks), wide_ep.state());
    RETURN_IF_ERROR(wide_ep.begin_iteration(states));
    RETURN_IF_ERROR(layer.forward(stream, arena,
                                  {matrix_view(tokens.x.data(), tokens.count, kHidden),
                                   tokens.ids.data(), tokens.weights.data()},
                                  dp_tokens, matrix_view(y.data(), tokens.count, kHidden)));
    if (rank == 0) outcome.reports.push_back(wide_ep.report());
    return Status::ok();
  });
  return outcome;
}

// |y - (expected + 8 x)| <= tolerance x the largest expected.
void expect_close(const GpuCase& made, const Outcome& actual, const Outcome& expected,
                  double tolerance) {
  double largest = 1e-6;
  for (const auto& y : expected.y) {
    for (const float value : y) largest = std::max<double>(largest, std::abs(value));
  }
  for (size_t rank = 0; rank < expected.y.size(); ++rank) {
    ASSERT_EQ(actual.y[rank].size(), expected.y[rank].size());
    for (size_t i = 0; i < expected.y[rank].size(); ++i) {
      const double want = expected.y[rank][i] + 8.0 * made.tokens[rank].x[i];
      ASSERT_NEAR(actual.y[rank][i], want, tolerance * largest)
          << "rank " << rank << ", element " << i;
    }
  }
}

void expect_same_loads(const Outcome& actual, const Outcome& expected) {
  for (const IterationReport& report : actual.reports) {
    ASSERT_EQ(report.layers.size(), expected.reports[0].layers.size());
    for (size_t l = 0; l < report.layers.size(); ++l) {
      EXPECT_EQ(report.layers[l].imbalance, expected.reports[0].layers[l].imbalance);
      EXPECT_EQ(report.layers[l].unbalanced, expected.reports[0].layers[l].unbalanced);
    }
  }
}

class WideEpCuda : public testing::Test {
 protected:
  void SetUp() override {
    const DeviceReport report = device_report();
    if (report.devices.empty()) GTEST_SKIP() << report.problem;
  }

  GpuCase random_case(const Experts& experts, DType weights, int most) {
    Shape shape;
    shape.num_ranks = 1 + static_cast<int>(random_.below(4));
    shape.num_experts = experts.num_experts;
    const int least = (shape.num_experts + shape.num_ranks - 1) / shape.num_ranks;
    shape.num_slots = shape.num_ranks * (least + static_cast<int>(random_.below(3)));
    std::vector<int> counts;
    for (int rank = 0; rank < shape.num_ranks; ++rank) {
      counts.push_back(random_.below(4) == 0 ? 0 : static_cast<int>(random_.below(most + 1)));
    }
    const int top_k = 1 + static_cast<int>(random_.below(4));
    GpuCase made = make_case(random_, experts, shape, weights, counts, top_k);
    WideEpOptions& options = made.options;
    options.replica_choice = static_cast<ReplicaChoice>(random_.below(3));
    made.layer.weight_scales_input = random_.below(4) == 0;
    options.exchange->layer = made.layer;
    options.all_to_all.weight_scales_input = made.layer.weight_scales_input;
    options.exchange->max_masked_rows = random_.below(2) == 0 ? 0 : 65536;
    if (random_.below(2) == 0) {
      options.max_num_tokens = 1 + most / 2 + static_cast<int>(random_.below(100));
    }
    return made;
  }

  void expect_as_cpu(DType weights, double tolerance) {
    const Experts experts(random_, 10, kHidden, kIntermediate);
    for (int round = 0; round < 12; ++round) {
      const GpuCase made = random_case(experts, weights, round % 2 == 0 ? 30 : 400);
      SCOPED_TRACE(testing::Message() << "round " << round << ": " << made.options.shape.num_ranks
                                      << " ranks, " << made.options.shape.num_slots << " slots, "
                                      << eplb::replica_choice_name(made.options.replica_choice));
      const Outcome actual = run_on_gpu(made, experts);
      ASSERT_TRUE(actual.status.is_ok()) << actual.status.message();
      const Outcome expected = run_on_cpu(made, experts);
      ASSERT_TRUE(expected.status.is_ok()) << expected.status.message();
      expect_close(made, actual, expected, tolerance);
      expect_same_loads(actual, expected);
      if (HasFailure()) return;
    }
  }

  Random random_{11};
};

TEST_F(WideEpCuda, Fp32IsTheCpus) {
  expect_as_cpu(DType::kF32, 3e-5);
}
TEST_F(WideEpCuda, Bf16IsCloseToTheCpu) {
  expect_as_cpu(DType::kBF16, 0.02);
}
TEST_F(WideEpCuda, Fp8IsCloseToTheCpu) {
  expect_as_cpu(DType::kF8E4M3, 0.1);
}

// Exact: the bits of one rank that has all tokens, whatever placement, replicas, chunks and layout.
TEST_F(WideEpCuda, ExactGivesTheBitsOfOneRank) {
  const Experts experts(random_, 10, kHidden, kIntermediate);
  for (int round = 0; round < 12; ++round) {
    const DType weights = round % 2 == 0 ? DType::kBF16 : DType::kF8E4M3;
    GpuCase made = random_case(experts, weights, round % 3 == 0 ? 300 : 30);
    // What cannot travel scaled is summed reduced.
    made.layer.weight_scales_input &= made.layer.top_k == 1;
    made.options.exchange->layer = made.layer;
    made.options.exchange->combine = CombineMode::kExact;
    SCOPED_TRACE(testing::Message() << "round " << round << ": " << made.options.shape.num_ranks
                                    << " ranks, " << dtype_name(weights));
    const Outcome actual = run_on_gpu(made, experts);
    ASSERT_TRUE(actual.status.is_ok()) << actual.status.message();

    std::vector<int> counts = made.dp_tokens();
    const int total = std::accumulate(counts.begin(), counts.end(), 0);
    GpuCase alone = make_case(random_, experts, {10, 10, 1}, weights, {total}, made.layer.top_k);
    alone.layer = alone.options.exchange->layer = made.layer;
    alone.options.exchange->combine = CombineMode::kExact;
    Tokens& all = alone.tokens[0];
    all.x.clear();
    all.ids.clear();
    all.weights.clear();
    std::vector<float> y;
    for (size_t rank = 0; rank < made.tokens.size(); ++rank) {
      const Tokens& own = made.tokens[rank];
      all.x.insert(all.x.end(), own.x.begin(), own.x.end());
      all.ids.insert(all.ids.end(), own.ids.begin(), own.ids.end());
      all.weights.insert(all.weights.end(), own.weights.begin(), own.weights.end());
      y.insert(y.end(), actual.y[rank].begin(), actual.y[rank].end());
    }
    const Outcome expected = run_on_gpu(alone, experts);
    ASSERT_TRUE(expected.status.is_ok()) << expected.status.message();
    ASSERT_EQ(y, expected.y[0]);
  }
}

// Experts move at every boundary where the ranks' planners and copies have come so far; what a
// token gets does not change by a bit.
TEST_F(WideEpCuda, ExpertsMoveAndNoBitChanges) {
  const Experts experts(random_, 10, kHidden, kIntermediate);
  for (const DType weights : {DType::kBF16, DType::kF8E4M3}) {
    for (const int ranks : {2, 4}) {
      SCOPED_TRACE(testing::Message() << dtype_name(weights) << ", " << ranks << " ranks");
      GpuCase made = make_case(random_, experts, {10, 12, ranks}, weights,
                               std::vector<int>(static_cast<size_t>(ranks), 20), 3);
      made.options.exchange->combine = CombineMode::kExact;
      made.iterations = 1;
      const Outcome still = run_on_gpu(made, experts);
      ASSERT_TRUE(still.status.is_ok()) << still.status.message();
      made.iterations = 60;
      made.options.layer_updates_per_iter = 1;
      made.options.max_transfers_per_iter = 2;
      made.options.forced = [shape = made.options.shape](int, int64_t iteration,
                                                         std::span<const int>) {
        Random random(static_cast<uint64_t>(iteration / 4));
        return eplb::random_slots(random, shape);
      };
      const Outcome moving = run_on_gpu(made, experts);
      ASSERT_TRUE(moving.status.is_ok()) << moving.status.message();
      EXPECT_EQ(moving.y, still.y);
      int64_t commits = 0;
      for (const IterationReport& report : moving.reports) commits += report.migration.commits;
      EXPECT_GE(commits, 2);
    }
  }
}

TEST_F(WideEpCuda, ExactIsRefusedInFp32) {
  const Experts experts(random_, 4, kHidden, kIntermediate);
  GpuCase made = make_case(random_, experts, {4, 4, 2}, DType::kF32, {3, 3}, 2);
  made.options.exchange->combine = CombineMode::kExact;
  const Outcome outcome = run_on_gpu(made, experts);
  EXPECT_EQ(outcome.status.code(), StatusCode::kInvalidInput);
  EXPECT_NE(outcome.status.message().find("use --dtype bf16 or fp8"), std::string::npos)
      << outcome.status.message();
}

}  // namespace
}  // namespace wideep::moe
