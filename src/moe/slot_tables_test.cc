// The steps that a GPU takes to choose slots, on the host, against eplb's.
#include "moe/slot_tables.h"

#include <gtest/gtest.h>

#include <array>
#include <barrier>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "eplb/eplb_testing.h"
#include "eplb/replica_choice.h"
#include "kernels/split_steps.h"

namespace wideep::moe {
namespace {

using eplb::ReplicaChoice;
using eplb::Shape;
using kernels::ReplicaShape;
using kernels::ReplicaTables;
using kernels::SplitScratch;

struct OneLane {
  static constexpr int kCount = 1;
  int index() const { return 0; }
  uint32_t ballot(bool value) const { return value ? 1 : 0; }
  template <typename T>
  T shuffle(T value, int /*lane*/) const {
    return value;
  }
  void sync() const {}
};

// A warp whose lanes are threads. What one writes and another reads without a sync() in between is
// a race that the thread sanitizer reports.
class Warp {
 public:
  static constexpr int kLanes = 32;

  class Lanes {
   public:
    static constexpr int kCount = kLanes;
    Lanes(Warp& warp, int index) : warp_(warp), index_(index) {}

    int index() const { return index_; }
    uint32_t ballot(bool value) {
      uint32_t bits = 0;
      const std::array<int64_t, kLanes> all = exchange(value ? 1 : 0);
      for (int lane = 0; lane < kLanes; ++lane) bits |= (all[lane] != 0 ? 1U : 0U) << lane;
      return bits;
    }
    template <typename T>
    T shuffle(T value, int lane) {
      return static_cast<T>(exchange(static_cast<int64_t>(value))[lane]);
    }
    void sync() { warp_.barrier_.arrive_and_wait(); }

   private:
    std::array<int64_t, kLanes> exchange(int64_t value) {
      warp_.values_[index_] = value;
      warp_.barrier_.arrive_and_wait();
      const std::array<int64_t, kLanes> all = warp_.values_;
      warp_.barrier_.arrive_and_wait();
      return all;
    }

    Warp& warp_;
    int index_;
  };

  // body(Lanes&) on each lane.
  template <typename Body>
  void run(const Body& body) {
    std::vector<std::thread> threads;
    for (int lane = 0; lane < kLanes; ++lane) {
      threads.emplace_back([&, lane] {
        Lanes lanes(*this, lane);
        body(lanes);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

 private:
  std::barrier<> barrier_{kLanes};
  std::array<int64_t, kLanes> values_ = {};
};

template <typename Lanes>
int run_flow(const kernels::SplitGraph& graph, const kernels::SplitState& state, Lanes& lanes) {
  switch (kernels::words_of_ranks(graph.num_ranks)) {
    case 1:
      return kernels::FlowSplit<1, Lanes>(graph, state, lanes).run();
    case 2:
      return kernels::FlowSplit<2, Lanes>(graph, state, lanes).run();
    default:
      return kernels::FlowSplit<3, Lanes>(graph, state, lanes).run();
  }
}

// A placement and a batch on it: counts [num_ranks, num_experts].
struct Batch {
  Shape shape;
  std::vector<int> slots;
  std::vector<int64_t> quotas;
  std::vector<int32_t> counts;

  std::vector<int64_t> tokens() const {
    std::vector<int64_t> sums(static_cast<size_t>(shape.num_experts));
    for (size_t i = 0; i < counts.size(); ++i) sums[i % sums.size()] += counts[i];
    return sums;
  }
  std::vector<int32_t> tables() const {
    std::vector<int32_t> memory(static_cast<size_t>(ReplicaTables::of(replica_shape(shape)).size),
                                -7);
    write_slot_tables(shape, slots, quotas, memory);
    return memory;
  }
};

Batch random_batch(Random& random, const Shape& shape, int64_t scale) {
  Batch batch;
  batch.shape = shape;
  batch.slots = eplb::random_slots(random, shape);
  batch.quotas =
      eplb::plan_quotas(shape, batch.slots, eplb::random_tokens(random, shape.num_experts));
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    for (const int64_t count : eplb::random_tokens(random, shape.num_experts, scale)) {
      batch.counts.push_back(static_cast<int32_t>(count));
    }
  }
  return batch;
}

struct Cut {
  std::vector<int32_t> begin;  // [num_experts]
  std::vector<int32_t> ends;   // [num_slots]
  bool has_flow = false;       // an expert had too little to balance along the forest alone
};

// The kernel's phases, its threads one after the other; the flow by one lane or by a warp.
Cut cut_by_flow(const Batch& batch, int rank, Warp* warp) {
  const ReplicaShape shape = replica_shape(batch.shape);
  const ReplicaTables at = ReplicaTables::of(shape);
  const std::vector<int32_t> memory_of_tables = batch.tables();
  const int32_t* const tables = memory_of_tables.data();
  std::vector<int32_t> memory(static_cast<size_t>(SplitScratch::size(shape)));
  const SplitScratch s(memory.data(), shape);
  Cut cut;
  for (int e = 0; e < shape.num_experts; ++e) {
    for (const int first : {0, 1}) {
      kernels::add_counts(batch.counts.data(), shape, rank, e, first, 2, s);
    }
    kernels::start_even(at, tables, e, s);
  }
  for (int r = 0; r < shape.num_ranks; ++r) {
    kernels::RankSums sums;
    for (int lane = 0; lane < 3; ++lane) {
      const kernels::RankSums part = kernels::sum_slots(at, tables, r, lane, 3, s);
      sums.all += part.all;
      sums.own += part.own;
    }
    kernels::set_rank(r, sums, s);
  }
  for (int i = 0; i <= shape.num_ranks; ++i) kernels::weigh_part(at, tables, shape, i, s);
  for (int e = 0; e < shape.num_experts; ++e) {
    if (kernels::balance_expert(at, tables, e, s)) cut.has_flow = true;
  }
  if (cut.has_flow) {
    const kernels::SplitGraph graph = at.graph(tables, shape);
    OneLane one;
    if (warp != nullptr) {
      warp->run([&](Warp::Lanes& lanes) { run_flow(graph, s.state, lanes); });
    } else {
      run_flow(graph, s.state, one);
    }
  }
  cut.begin.assign(s.before, s.before + shape.num_experts);
  cut.ends.resize(static_cast<size_t>(shape.num_slots), -7);
  for (int e = 0; e < shape.num_experts; ++e) {
    kernels::cut_expert(at, tables, e, s.state.place_tokens, cut.ends.data());
  }
  return cut;
}

void expect_same_cut(const Batch& batch, const Cut& cut) {
  eplb::BatchSplitter splitter(ReplicaChoice::kPerBatch, batch.shape, batch.slots);
  const std::span<const int64_t> expected = splitter.ends(batch.tokens());
  EXPECT_EQ(std::vector<int64_t>(cut.ends.begin(), cut.ends.end()),
            std::vector<int64_t>(expected.begin(), expected.end()));
}

TEST(SlotTables, FlowIsThatOfTheSplitter) {
  Random random(1);
  int flows = 0;
  constexpr int kTrials = 3000;
  for (int trial = 0; trial < kTrials; ++trial) {
    const Shape shape = eplb::random_shape(random, trial % 10 == 0 ? 90 : 12, 9);
    SCOPED_TRACE(testing::Message()
                 << "trial " << trial << ": " << shape.num_experts << " experts, "
                 << shape.num_slots << " slots, " << shape.num_ranks << " ranks");
    const Batch batch = random_batch(random, shape, trial % 3 == 0 ? 4 : 1000);
    const Cut cut = cut_by_flow(batch, 0, nullptr);
    flows += cut.has_flow ? 1 : 0;
    expect_same_cut(batch, cut);
    if (HasFailure()) return;
  }
  // Both ways were taken.
  EXPECT_GT(flows, kTrials / 10);
  EXPECT_LT(flows, kTrials * 9 / 10);
}

TEST(SlotTables, FlowIsThatOfTheSplitterAtTheSizesOfDeepSeek) {
  Random random(2);
  for (const auto& [num_slots, num_ranks] :
       {std::pair{288, 36}, {288, 32}, {288, 8}, {260, 2}, {264, 4}, {320, 64}, {288, 72}}) {
    for (const int64_t scale : {8, 300, 20000}) {
      SCOPED_TRACE(testing::Message() << num_slots << " slots, " << num_ranks << " ranks");
      const Batch batch = random_batch(random, {256, num_slots, num_ranks}, scale);
      expect_same_cut(batch, cut_by_flow(batch, 0, nullptr));
    }
  }
}

// Thirty-two lanes take the steps of one.
TEST(SlotTables, AWarpFindsTheSameFlow) {
  Random random(3);
  Warp warp;
  std::vector<Shape> shapes = {{256, 288, 36}, {256, 288, 8}, {40, 130, 2}, {64, 90, 90}};
  for (int i = 0; i < 8; ++i) shapes.push_back(eplb::random_shape(random, 40, 9));
  int flows = 0;
  for (const Shape& shape : shapes) {
    SCOPED_TRACE(testing::Message() << shape.num_experts << " experts, " << shape.num_slots
                                    << " slots, " << shape.num_ranks << " ranks");
    const Batch batch = random_batch(random, shape, 300);
    const Cut cut = cut_by_flow(batch, 0, &warp);
    flows += cut.has_flow ? 1 : 0;
    expect_same_cut(batch, cut);
  }
  EXPECT_GT(flows, 4);
}

TEST(SlotTables, QuotasCutWhereTheSplitterDoes) {
  Random random(4);
  for (int trial = 0; trial < 300; ++trial) {
    const Batch batch = random_batch(random, eplb::random_shape(random, 12, 9), 20'000'000);
    const ReplicaTables at = ReplicaTables::of(replica_shape(batch.shape));
    const std::vector<int32_t> tables = batch.tables();
    const std::vector<int64_t> tokens = batch.tokens();
    std::vector<int32_t> ends(static_cast<size_t>(batch.shape.num_slots));
    for (int e = 0; e < batch.shape.num_experts; ++e) {
      kernels::cut_by_quota(at, tables.data(), e, static_cast<int>(tokens[e]), ends.data());
    }
    eplb::BatchSplitter splitter(ReplicaChoice::kQuota, batch.shape, batch.slots, batch.quotas);
    const std::span<const int64_t> expected = splitter.ends(tokens);
    ASSERT_EQ(std::vector<int64_t>(ends.begin(), ends.end()),
              std::vector<int64_t>(expected.begin(), expected.end()))
        << "trial " << trial;
  }
}

// Every token of every rank goes where the splitter's rules say.
TEST(SlotTables, TokensGoToTheSplittersSlots) {
  Random random(5);
  for (int trial = 0; trial < 100; ++trial) {
    const Batch batch = random_batch(random, eplb::random_shape(random, 9, 6), 20);
    const std::vector<int32_t> tables = batch.tables();
    const eplb::ReplicaTable table = eplb::make_replica_table(batch.shape, batch.slots);
    eplb::BatchSplitter splitter(ReplicaChoice::kPerBatch, batch.shape, batch.slots);
    const std::span<const int64_t> ends = splitter.ends(batch.tokens());
    std::vector<int64_t> next(static_cast<size_t>(batch.shape.num_experts));
    for (int rank = 0; rank < batch.shape.num_ranks; ++rank) {
      const Cut cut = cut_by_flow(batch, rank, nullptr);
      kernels::SlotChoice choice = {ReplicaTables::of(replica_shape(batch.shape)), tables.data(),
                                    cut.begin.data(), cut.ends.data(), rank};
      kernels::SlotChoice in_turn = choice;
      in_turn.begin = in_turn.ends = nullptr;
      for (int e = 0; e < batch.shape.num_experts; ++e) {
        const int count = batch.counts[int64_t{rank} * batch.shape.num_experts + e];
        for (int index = 0; index < count; ++index) {
          ASSERT_EQ(choice.slot_of(e, index), eplb::slot_of_token(table, ends, e, next[e]++));
          ASSERT_EQ(in_turn.slot_of(e, index),
                    table.of(e)[eplb::round_robin_replica(table.num_replicas(e), e, rank, index)]);
        }
      }
    }
  }
}

TEST(SlotTables, QuotasAreEvenWithoutGivenOnes) {
  const Shape shape = {2, 4, 2};
  Batch batch = {shape, {0, 1, 0, 0}, {}, {}};
  const std::vector<int32_t> tables = batch.tables();
  const ReplicaTables at = ReplicaTables::of(replica_shape(shape));
  const auto quota_end = [&](int place) { return tables[at.quota_ends + place]; };
  // The second copy on rank 1 takes nothing.
  EXPECT_EQ(quota_end(2), eplb::kQuotaOne);
  EXPECT_EQ(quota_end(3), eplb::kQuotaOne);
  EXPECT_EQ(tables[at.copies + 0], 2);
  EXPECT_EQ(tables[at.copies + 1], 1);
}

}  // namespace
}  // namespace wideep::moe
