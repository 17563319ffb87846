// The slots that a GPU chooses are those of the CPU, one by one.
#include "kernels/replica_choice.h"

#include <algorithm>
#include <vector>

#include "eplb/eplb_testing.h"
#include "kernels/cuda_testing.h"
#include "kernels/permute.h"
#include "moe/slot_chooser.h"
#include "moe/slot_tables.h"

namespace wideep::moe {
namespace {

using eplb::ReplicaChoice;
using eplb::Shape;
using kernels::DeviceVector;

class ReplicaChoiceCudaTest : public kernels::CudaTest {
 protected:
  // Experts of the pairs of each rank, skewed; some below 0.
  std::vector<std::vector<int32_t>> random_ids(const Shape& shape, int most) {
    std::vector<std::vector<int32_t>> ids(static_cast<size_t>(shape.num_ranks));
    for (std::vector<int32_t>& own : ids) {
      own.resize(random_.below(4) == 0 ? 0 : random_.below(most + 1));
      for (int32_t& id : own) {
        const double u = random_.uniform();
        id = random_.below(16) == 0 ? -1 : static_cast<int32_t>(u * u * u * shape.num_experts);
      }
    }
    return ids;
  }

  std::vector<int32_t> slots_of_gpu(const Shape& shape, ReplicaChoice choice,
                                    std::span<const int32_t> tables, int rank,
                                    std::span<const int32_t> ids, std::span<const int32_t> counts) {
    const auto num_experts = static_cast<size_t>(shape.num_experts);
    const DeviceVector<int32_t> device_ids(ids);
    const DeviceVector<int32_t> device_tables(tables);
    const DeviceVector<int32_t> device_counts(counts);
    const DeviceVector<int> offsets(std::vector<int>(num_experts + 1, -7));
    const DeviceVector<int> own_counts(std::vector<int>(num_experts, -7));
    const DeviceVector<int> rows(std::vector<int>(ids.size(), -7));
    const DeviceVector<int> pairs(std::vector<int>(ids.size(), -7));
    const DeviceVector<int32_t> begin(std::vector<int32_t>(num_experts, -7));
    const DeviceVector<int32_t> ends(
        std::vector<int32_t>(static_cast<size_t>(shape.num_slots), -7));
    const DeviceVector<int32_t> slots(std::vector<int32_t>(ids.size(), -7));
    kernels::PermutationParams permutation;
    permutation.ids = device_ids.span();
    permutation.num_groups = shape.num_experts;
    permutation.offsets = offsets.data();
    permutation.rows = rows.data();
    permutation.pairs = pairs.data();
    permutation.counts = own_counts.data();
    kernels::make_permutation(stream(), permutation);
    kernels::ChooseSlotsParams params;
    params.shape = replica_shape(shape);
    params.tables = device_tables.data();
    params.rank = rank;
    params.ids = device_ids.span();
    params.rows = rows.data();
    params.offsets = offsets.data();
    params.slots = slots.data();
    if (choice != ReplicaChoice::kRoundRobin) {
      kernels::SplitBatchParams split;
      split.shape = params.shape;
      split.tables = params.tables;
      split.rule = choice == ReplicaChoice::kQuota ? kernels::SplitRule::kQuota
                                                   : kernels::SplitRule::kPerBatch;
      split.rank = rank;
      split.counts = device_counts.data();
      split.begin = begin.data();
      split.ends = ends.data();
      kernels::split_batch(stream(), split);
      params.begin = begin.data();
      params.ends = ends.data();
    }
    kernels::choose_slots(stream(), params);
    // What the ranks would exchange.
    const std::vector<int> own = own_counts.host();
    EXPECT_TRUE(std::ranges::equal(
        own, counts.subspan(static_cast<size_t>(rank) * num_experts, num_experts)));
    return slots.host();
  }

  void expect_as_cpu(const Shape& shape, ReplicaChoice choice, int most) {
    SCOPED_TRACE(testing::Message()
                 << shape.num_experts << " experts, " << shape.num_slots << " slots, "
                 << shape.num_ranks << " ranks, " << eplb::replica_choice_name(choice));
    const std::vector<int> placement = eplb::random_slots(random_, shape);
    std::vector<int64_t> quotas;
    if (choice == ReplicaChoice::kQuota) {
      quotas = eplb::plan_quotas(shape, placement, eplb::random_tokens(random_, shape.num_experts));
    }
    std::vector<int32_t> tables(
        static_cast<size_t>(kernels::ReplicaTables::of(replica_shape(shape)).size));
    write_slot_tables(shape, placement, quotas, tables);
    const std::vector<std::vector<int32_t>> ids = random_ids(shape, most);
    std::vector<int32_t> counts(static_cast<size_t>(shape.num_ranks) * shape.num_experts);
    for (int rank = 0; rank < shape.num_ranks; ++rank) {
      for (const int32_t id : ids[rank]) {
        if (id >= 0) ++counts[rank * shape.num_experts + id];
      }
    }
    SlotChooser chooser(choice, shape, placement, quotas);
    for (int rank = 0; rank < shape.num_ranks; ++rank) {
      std::vector<int32_t> expected(ids[rank].size());
      SlotChooser::Batch batch;
      batch.rank = rank;
      batch.ids = ids[rank];
      batch.counts = counts;
      chooser.choose(batch, expected);
      EXPECT_EQ(slots_of_gpu(shape, choice, tables, rank, ids[rank], counts), expected)
          << "rank " << rank;
    }
  }
};

TEST_F(ReplicaChoiceCudaTest, SlotsAreThoseOfTheCpu) {
  for (int trial = 0; trial < 90; ++trial) {
    const Shape shape = eplb::random_shape(random_, 12, 9);
    expect_as_cpu(shape, static_cast<ReplicaChoice>(trial % 3), trial % 2 == 0 ? 100 : 9000);
    if (HasFailure()) return;
  }
}

TEST_F(ReplicaChoiceCudaTest, SlotsAreThoseOfTheCpuAtTheSizesOfDeepSeek) {
  for (const Shape& shape :
       {Shape{256, 288, 36}, {256, 288, 32}, {256, 288, 72}, {256, 264, 8}, {256, 260, 2}}) {
    for (const ReplicaChoice choice :
         {ReplicaChoice::kRoundRobin, ReplicaChoice::kQuota, ReplicaChoice::kPerBatch}) {
      expect_as_cpu(shape, choice, 1024);
    }
  }
}

TEST_F(ReplicaChoiceCudaTest, CountsRowsAndIds) {
  for (const int columns : {1, 300, 1000}) {
    std::vector<int32_t> rows;
    std::vector<int32_t> counts;
    for (int i = 0; i < 7 * columns; ++i) rows.push_back(static_cast<int32_t>(random_.below(1000)));
    for (int i = 0; i < columns; ++i) counts.push_back(static_cast<int32_t>(random_.below(1000)));
    const DeviceVector<int32_t> device_rows(rows);
    const DeviceVector<int32_t> sums(counts);
    kernels::add_row_sums(stream(), device_rows.data(), 7, sums.span());
    for (size_t i = 0; i < rows.size(); ++i) counts[i % columns] += rows[i];
    EXPECT_EQ(sums.host(), counts);

    std::vector<int32_t> ids;
    for (int i = 0; i < 5000; ++i)
      ids.push_back(static_cast<int32_t>(random_.below(columns + 1)) - 1);
    std::vector<int32_t> expected(static_cast<size_t>(columns));
    for (const int32_t id : ids) {
      if (id >= 0) ++expected[id];
    }
    const DeviceVector<int32_t> device_ids(ids);
    const DeviceVector<int32_t> of_ids(std::vector<int32_t>(static_cast<size_t>(columns), -7));
    kernels::count_ids(stream(), device_ids.span(), of_ids.span());
    EXPECT_EQ(of_ids.host(), expected);
  }
}

}  // namespace
}  // namespace wideep::moe
