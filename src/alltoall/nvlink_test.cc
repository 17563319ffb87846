#include "alltoall/nvlink_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "alltoall/nccl_bench.h"
#include "alltoall/nvlink_testing.h"
#include "base/float_formats.h"
#include "base/random.h"
#include "base/thread_pool.h"
#include "dist/world.h"

namespace wideep::alltoall {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

void expect_exact(const NvlinkBatch& batch) {
  SCOPED_TRACE(batch.describe());
  const Status status = run_nvlink_ranks(
      batch.num_ranks(), batch.shape, [&](NvlinkRank& rank) { return check_rounds(batch, rank); });
  ASSERT_TRUE(status.is_ok()) << status.message();
}

class Nvlink : public testing::Test {
 protected:
  void SetUp() override {
    if (device_count() == 0) GTEST_SKIP() << "needs a GPU";
  }
};

GroupShape small_shape(int ranks, int most) {
  GroupShape shape;
  shape.transport = Transport::kNvlink;
  shape.format = RowFormat::kBf16;
  shape.num_slots = 4 * ranks;
  shape.top_k = 3;
  shape.hidden_size = 256;
  shape.max_tokens_of_rank = most;
  shape.max_tokens = int64_t{most} * ranks;
  shape.num_sms = sms_for(ranks);
  return shape;
}

TEST_F(Nvlink, SmallBatchesAreExact) {
  Random random(1);
  for (int round = 0; round < 24; ++round) {
    expect_exact(random_nvlink_batch(random, 1 + round % 8, 40));
  }
}

TEST_F(Nvlink, LargeBatchesAreExact) {
  Random random(2);
  for (int round = 0; round < 24; ++round) {
    expect_exact(random_nvlink_batch(random, 1 + round % 8, 400));
  }
}

// More tokens than a block's unit of the scan, on few blocks; and rows wider than a ring's entry.
TEST_F(Nvlink, ManyTokensOnFewBlocksAndWideRowsAreExact) {
  Random random(3);
  GroupShape shape = small_shape(2, 1500);
  shape.num_sms = 3;
  shape.format = RowFormat::kFp8;
  expect_exact(make_nvlink_batch(random, shape, {1500, 1111}));
  shape = small_shape(2, 210);
  shape.hidden_size = 10000;
  for (const CombineMode mode : {CombineMode::kReduced, CombineMode::kExact}) {
    shape.combine = mode;
    expect_exact(make_nvlink_batch(random, shape, {210, 13}));
  }
}

// Rows of several pieces, of which the last is shorter.
TEST_F(Nvlink, WideRowsBySourceAreExact) {
  Random random(6);
  GroupShape shape = small_shape(3, 270);
  shape.layout = RowLayout::kBySource;
  shape.hidden_size = 77 * 128;
  shape.row_bytes = 20016;
  for (const RowFormat format :
       {RowFormat::kBf16, RowFormat::kFp8, RowFormat::kFp8Given, RowFormat::kBytes}) {
    shape.format = format;
    expect_exact(make_nvlink_batch(random, shape, {270, 0, 101}));
  }
}

// The regimes take turns over the same memory, as prefill and decode do.
TEST_F(Nvlink, RegimesTakeTurns) {
  Random random(4);
  const GroupShape shape = small_shape(2, 300);
  std::vector<NvlinkBatch> batches = {make_nvlink_batch(random, shape, {300, 200}),
                                      make_nvlink_batch(random, shape, {5, 17})};
  batches[1].most_tokens = 17;
  const Status status = run_nvlink_ranks(2, shape, [&](NvlinkRank& r) -> Status {
    ASSIGN_OR_RETURN(const NvlinkBuffers large, make_buffers(batches[0], r));
    ASSIGN_OR_RETURN(const NvlinkBuffers small, make_buffers(batches[1], r));
    for (const int which : {0, 1, 1, 0, 0, 1, 0, 1, 1, 1, 0}) {
      RETURN_IF_ERROR(check_round(batches[which], r, which == 0 ? large : small));
    }
    return r.ranks.barrier();
  });
  EXPECT_TRUE(status.is_ok()) << status.message();
}

TEST_F(Nvlink, TakesExtremeRouting) {
  Random random(5);
  for (const int most : {50, 300}) {
    NvlinkBatch batch = make_nvlink_batch(random, small_shape(3, most), {most, 0, most / 2});
    expect_exact(batch);
    for (auto& slots : batch.slots) std::ranges::fill(slots, 7);  // one slot, named three times
    expect_exact(batch);
    for (auto& slots : batch.slots) std::ranges::fill(slots, -1);
    expect_exact(batch);
    expect_exact(make_nvlink_batch(random, small_shape(3, most), {0, 0, 0}));
  }
}

// Rows by slot are those of the transports in host memory, in the same order.
TEST_F(Nvlink, DispatchIsThatOfTheHostTransport) {
  Random random(6);
  const NvlinkBatch batch = make_nvlink_batch(random, small_shape(4, 250), {250, 31, 0, 77});
  const Status status = run_nvlink_ranks(4, batch.shape, [&](NvlinkRank& r) -> Status {
    ASSIGN_OR_RETURN(const NvlinkBuffers buffers, make_buffers(batch, r));
    RETURN_IF_ERROR(r.group.plan(r.stream, buffers.routing(batch, r.rank())));
    ASSIGN_OR_RETURN(const Received device,
                     r.group.dispatch(r.stream, buffers.dispatch(batch, r.rank())));
    RETURN_IF_ERROR(finish_stream(r.cuda(), r.group));

    GroupShape host_shape = batch.shape;
    host_shape.transport = Transport::kSharedMemory;
    host_shape.format = RowFormat::kF32;
    ASSIGN_OR_RETURN(const auto host, AllToAll::create(r.ranks, host_shape));
    const int tokens = batch.num_tokens[r.rank()];
    const int hidden = batch.shape.hidden_size;
    std::vector<float> x(static_cast<size_t>(tokens) * hidden);
    bf16_to_float(batch.rows[r.rank()].data(), x);
    Stream cpu(r.stream.pool());
    RETURN_IF_ERROR(host->plan(cpu, {.num_tokens = tokens,
                                     .slots = batch.slots[r.rank()],
                                     .weights = batch.weights[r.rank()].data()}));
    ASSIGN_OR_RETURN(const Received expected,
                     host->dispatch(cpu, matrix_view(x.data(), tokens, hidden)));
    std::vector<uint16_t> rows(static_cast<size_t>(expected.rows.rows * hidden));
    RETURN_IF_CUDA_ERROR(
        cudaMemcpy(rows.data(), device.rows.data, rows.size() * 2, cudaMemcpyDeviceToHost));
    for (int64_t i = 0; i < expected.rows.rows * hidden; ++i) {
      if (bf16_to_float(rows[i]) != expected.rows.row<float>(0)[i]) {
        return Status::invalid_input("row " + std::to_string(i / hidden) + " differs");
      }
    }
    return r.ranks.barrier();
  });
  EXPECT_TRUE(status.is_ok()) << status.message();
}

// A captured dispatch and combine replayed with other routing, rows and weights in the same memory.
TEST_F(Nvlink, GraphsReplayWithOtherRouting) {
  for (const int most : {60, 300}) {
    Random random(7);
    const GroupShape shape = small_shape(2, most);
    std::vector<NvlinkBatch> batches;
    for (int i = 0; i < 6; ++i) {
      batches.push_back(make_nvlink_batch(random, shape, {most, most - 7}));
    }
    const Status status = run_nvlink_ranks(2, shape, [&](NvlinkRank& r) -> Status {
      ASSIGN_OR_RETURN(NvlinkBuffers buffers, make_buffers(batches[0], r));
      RETURN_IF_ERROR(r.group.plan(r.stream, buffers.routing(batches[0], r.rank())));
      RETURN_IF_CUDA_ERROR(cudaStreamBeginCapture(r.cuda(), cudaStreamCaptureModeThreadLocal));
      ASSIGN_OR_RETURN(const Received received,
                       r.group.dispatch(r.stream, buffers.dispatch(batches[0], r.rank())));
      // The "experts" pass rows on.
      RETURN_IF_CUDA_ERROR(
          cudaMemcpyAsync(received.outputs.data, received.rows.data,
                          static_cast<size_t>(received.rows.rows) * shape.hidden_size * 2,
                          cudaMemcpyDeviceToDevice, r.cuda()));
      const MatrixView y = buffers.y(batches[0], r.rank());
      RETURN_IF_ERROR(r.group.combine(r.stream, y));
      cudaGraph_t graph = nullptr;
      RETURN_IF_CUDA_ERROR(cudaStreamEndCapture(r.cuda(), &graph));
      cudaGraphExec_t executable = nullptr;
      RETURN_IF_CUDA_ERROR(cudaGraphInstantiate(&executable, graph, 0));
      for (const NvlinkBatch& batch : batches) {
        RETURN_IF_ERROR(buffers.upload(batch, r.rank(), r.cuda()));
        RETURN_IF_CUDA_ERROR(cudaGraphLaunch(executable, r.cuda()));
        RETURN_IF_ERROR(finish_stream(r.cuda(), r.group));
        std::vector<uint16_t> seen(static_cast<size_t>(y.rows * shape.hidden_size));
        RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(seen.data(), y.data, seen.size() * 2,
                                             cudaMemcpyDeviceToHost, r.cuda()));
        RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(r.cuda()));
        RETURN_IF_ERROR(check_identity(batch, r.rank(), seen));
      }
      cudaGraphExecDestroy(executable);
      cudaGraphDestroy(graph);
      return r.ranks.barrier();
    });
    EXPECT_TRUE(status.is_ok()) << status.message();
  }
}

// 10,000 calls without a wait on the host, ranks drifting apart as they like, over batches whose
// results are known from a first round.
TEST_F(Nvlink, FreeRunningCallsStayExact) {
  constexpr int kBatches = 8;
  constexpr int kRounds = 5000;  // of a dispatch and a combine
  Random random(8);
  const GroupShape shape = small_shape(2, 260);
  std::vector<NvlinkBatch> batches;
  for (int i = 0; i < kBatches; ++i) {
    const int most = i % 2 == 0 ? 260 : 24;
    batches.push_back(make_nvlink_batch(
        random, shape,
        {static_cast<int>(random.below(most)), static_cast<int>(random.below(most))}));
    batches.back().most_tokens = most;
  }
  const Status status = run_nvlink_ranks(2, shape, [&](NvlinkRank& r) -> Status {
    std::vector<NvlinkBuffers> buffers;
    for (const NvlinkBatch& batch : batches) {
      ASSIGN_OR_RETURN(NvlinkBuffers each, make_buffers(batch, r));
      buffers.push_back(std::move(each));
    }
    Random order(9);  // the same on both ranks
    for (int round = 0; round < kRounds; ++round) {
      const auto which = order.below(kBatches);
      const NvlinkBatch& batch = batches[which];
      RETURN_IF_ERROR(r.group.plan(r.stream, buffers[which].routing(batch, r.rank())));
      ASSIGN_OR_RETURN(const Received received,
                       r.group.dispatch(r.stream, buffers[which].dispatch(batch, r.rank())));
      RETURN_IF_ERROR(r.group.combine(
          r.stream,
          {.rows = received.rows, .residual = {}, .y = buffers[which].y(batch, r.rank())}));
    }
    RETURN_IF_ERROR(finish_stream(r.cuda(), r.group));
    for (int i = 0; i < kBatches; ++i) {
      const MatrixView y = buffers[i].y(batches[i], r.rank());
      std::vector<uint16_t> seen(static_cast<size_t>(y.rows * shape.hidden_size));
      RETURN_IF_CUDA_ERROR(
          cudaMemcpy(seen.data(), y.data, seen.size() * 2, cudaMemcpyDeviceToHost));
      RETURN_IF_ERROR(check_identity(batches[i], r.rank(), seen));
    }
    return r.ranks.barrier();
  });
  EXPECT_TRUE(status.is_ok()) << status.message();
}

// Counts of all ranks, calls behind each other without a wait of the host, then the last of them as
// a graph.
TEST_F(Nvlink, GathersCountsOfAllRanks) {
  for (const std::pair<int, int>& sizes : {std::pair{1, 5}, {3, 64}, {8, 257}}) {
    const int ranks = sizes.first;
    const int count = sizes.second;
    GroupShape shape = small_shape(ranks, 20);
    shape.num_counts = count;
    const Status status = run_nvlink_ranks(ranks, shape, [&](NvlinkRank& r) -> Status {
      constexpr int kCalls = 40;
      const auto all_size = static_cast<size_t>(ranks) * static_cast<size_t>(count);
      // What rank q gives in call i at place c.
      const auto value = [](int q, int i, int c) { return (q * 1000 + i) * 1000 + c; };
      std::vector<int32_t> in;
      for (int i = 0; i < kCalls; ++i) {
        for (int c = 0; c < count; ++c) in.push_back(value(r.rank(), i, c));
      }
      ASSIGN_OR_RETURN(const Buffer own, device_buffer(std::ssize(in) * 4));
      ASSIGN_OR_RETURN(const Buffer all,
                       device_buffer(kCalls * static_cast<int64_t>(all_size) * 4));
      RETURN_IF_CUDA_ERROR(cudaMemcpy(own.data(), in.data(), in.size() * 4, cudaMemcpyDefault));
      RETURN_IF_CUDA_ERROR(cudaMemset(all.data(), 0x5a, static_cast<size_t>(all.size())));
      RETURN_IF_CUDA_ERROR(cudaDeviceSynchronize());
      const auto gather = [&](int call) {
        return r.group.gather_counts(r.stream, {own.as<int32_t>() + call * count, size_t(count)},
                                     {all.as<int32_t>() + call * all_size, all_size});
      };
      // The graph is made before any rank's kernel waits: a process's first one may wait for the
      // GPU.
      RETURN_IF_CUDA_ERROR(cudaStreamBeginCapture(r.cuda(), cudaStreamCaptureModeThreadLocal));
      const Status captured = gather(kCalls - 1);
      cudaGraph_t graph = nullptr;
      RETURN_IF_CUDA_ERROR(cudaStreamEndCapture(r.cuda(), &graph));
      RETURN_IF_ERROR(captured);
      cudaGraphExec_t executable = nullptr;
      RETURN_IF_CUDA_ERROR(cudaGraphInstantiate(&executable, graph, 0));
      RETURN_IF_CUDA_ERROR(cudaGraphUpload(executable, r.cuda()));
      RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(r.cuda()));
      RETURN_IF_ERROR(r.ranks.barrier());
      for (int i = 0; i + 1 < kCalls; ++i) RETURN_IF_ERROR(gather(i));
      for (int replay = 0; replay < 5; ++replay) {
        RETURN_IF_CUDA_ERROR(cudaGraphLaunch(executable, r.cuda()));
      }
      RETURN_IF_ERROR(finish_stream(r.cuda(), r.group));
      cudaGraphExecDestroy(executable);
      cudaGraphDestroy(graph);
      std::vector<int32_t> seen(kCalls * all_size);
      RETURN_IF_CUDA_ERROR(cudaMemcpy(seen.data(), all.data(), seen.size() * 4, cudaMemcpyDefault));
      for (size_t i = 0; i < seen.size(); ++i) {
        const auto call = static_cast<int>(i / all_size);
        const auto q = static_cast<int>(i % all_size) / count;
        const int want = value(q, call, static_cast<int>(i) % count);
        if (seen[i] == want) continue;
        return Status::invalid_input("call " + std::to_string(call) + ", rank " +
                                     std::to_string(q) + ": " + std::to_string(seen[i]) + ", not " +
                                     std::to_string(want));
      }
      return r.ranks.barrier();
    });
    EXPECT_TRUE(status.is_ok()) << status.message();
  }
}

// Two groups over the same ranks, as two micro-batches use them.
TEST_F(Nvlink, TwoGroupsInterleave) {
  Random random(10);
  const GroupShape shape = small_shape(2, 230);
  const NvlinkBatch first = make_nvlink_batch(random, shape, {230, 100});
  const NvlinkBatch second = make_nvlink_batch(random, shape, {9, 215});
  const Status status = run_nvlink_ranks(2, shape, [&](NvlinkRank& r) -> Status {
    ASSIGN_OR_RETURN(const auto other, NvlinkGroup::create(r.ranks, shape));
    NvlinkRank in_other = {r.ranks, r.stream, *other};
    ASSIGN_OR_RETURN(const NvlinkBuffers a, make_buffers(first, r));
    ASSIGN_OR_RETURN(const NvlinkBuffers b, make_buffers(second, r));
    for (int round = 0; round < 3; ++round) {
      RETURN_IF_ERROR(check_dispatch(first, r, a));
      RETURN_IF_ERROR(check_dispatch(second, in_other, b));
      RETURN_IF_ERROR(check_combine(first, r, a));
      RETURN_IF_ERROR(check_combine(second, in_other, b));
    }
    return r.ranks.barrier();
  });
  EXPECT_TRUE(status.is_ok()) << status.message();
}

// A collective of another stream, which the ranks put there before or after their own calls: both
// wait for the peer, and neither may keep the other out. All multiprocessors that the formula
// gives.
TEST_F(Nvlink, RunsBesideACollective) {
  if (device_count() < 2) GTEST_SKIP() << "needs two GPUs: NCCL refuses two ranks on one";
  constexpr int64_t kElements = int64_t{1} << 22;
  Random random(14);
  for (const int most : {60, 300}) {
    GroupShape shape = small_shape(2, most);
    shape.num_sms = 0;
    const NvlinkBatch batch = make_nvlink_batch(random, shape, {most, most - 3});
    const Status status = run_nvlink_ranks(2, shape, [&](NvlinkRank& r) -> Status {
      ASSIGN_OR_RETURN(const NvlinkBuffers buffers, make_buffers(batch, r));
      ASSIGN_OR_RETURN(const auto nccl, NcclBench::create(r.ranks, kElements, 2));
      ASSIGN_OR_RETURN(const CudaStream cuda, CudaStream::create());
      ThreadPool pool(1);
      Stream other = Stream::of_cuda(pool, cuda.get());
      RETURN_IF_ERROR(nccl->all_reduce(other, kElements));  // connects the ranks
      RETURN_IF_ERROR(cuda.synchronize());
      RETURN_IF_ERROR(r.ranks.barrier());
      for (int round = 0; round < 40; ++round) {
        if (r.rank() == round % 2) RETURN_IF_ERROR(nccl->all_reduce(other, kElements));
        RETURN_IF_ERROR(r.group.plan(r.stream, buffers.routing(batch, r.rank())));
        RETURN_IF_ERROR(r.group.dispatch(r.stream, buffers.dispatch(batch, r.rank())).status());
        if (r.rank() != round % 2) RETURN_IF_ERROR(nccl->all_reduce(other, kElements));
        RETURN_IF_ERROR(r.group.combine(r.stream, buffers.y(batch, r.rank())));
      }
      RETURN_IF_ERROR(nccl->all_reduce(other, kElements));
      RETURN_IF_ERROR(check_round(batch, r, buffers));
      RETURN_IF_ERROR(cuda.synchronize());
      return r.ranks.barrier();
    });
    EXPECT_TRUE(status.is_ok()) << status.message();
  }
}

TEST_F(Nvlink, WaitsForADelayedRank) {
  Random random(11);
  for (const int most : {20, 250}) {
    const NvlinkBatch batch = make_nvlink_batch(random, small_shape(3, most), {most, most, most});
    const Status status = run_nvlink_ranks(3, batch.shape, [&](NvlinkRank& r) -> Status {
      ASSIGN_OR_RETURN(const NvlinkBuffers buffers, make_buffers(batch, r));
      if (r.rank() == 1) std::this_thread::sleep_for(std::chrono::seconds(5));
      RETURN_IF_ERROR(check_dispatch(batch, r, buffers));
      if (r.rank() == 2) std::this_thread::sleep_for(std::chrono::seconds(1));
      RETURN_IF_ERROR(check_combine(batch, r, buffers));
      return r.ranks.barrier();
    });
    EXPECT_TRUE(status.is_ok()) << status.message();
  }
}

// The last rank stops coming. The others hear it within the timeout, refuse further calls, and go
// on without it once it is masked.
TEST_F(Nvlink, SurvivorsGoOnWithoutADeadRank) {
  constexpr int kRanks = 3;
  for (const int most : {20, 250}) {
    Random random(12);
    GroupShape shape = small_shape(kRanks, most);
    shape.timeout_seconds = 0.5;
    const NvlinkBatch batch = make_nvlink_batch(random, shape, {most, most, most});
    NvlinkBatch masked = batch;
    masked.active[kRanks - 1] = 0;
    const Status status = run_nvlink_ranks(kRanks, shape, [&](NvlinkRank& r) -> Status {
      ASSIGN_OR_RETURN(const NvlinkBuffers buffers, make_buffers(batch, r));
      RETURN_IF_ERROR(check_round(batch, r, buffers));
      if (r.rank() == kRanks - 1) return r.ranks.barrier();
      RETURN_IF_ERROR(r.group.plan(r.stream, buffers.routing(batch, r.rank())));
      RETURN_IF_ERROR(r.group.dispatch(r.stream, buffers.dispatch(batch, r.rank())).status());
      const Status failed = finish_stream(r.cuda(), r.group);
      EXPECT_EQ(failed.code(), StatusCode::kAborted);
      EXPECT_THAT(failed.message(),
                  AnyOf(HasSubstr("waited 0.5 s for rank 2"), HasSubstr("gave up first")));
      const Status refused = r.group.dispatch(r.stream, buffers.dispatch(batch, r.rank())).status();
      EXPECT_EQ(refused.message(), failed.message());
      RETURN_IF_ERROR(r.group.set_rank_active(r.stream, kRanks - 1, false));
      for (int round = 0; round < 3; ++round) RETURN_IF_ERROR(check_round(masked, r, buffers));
      return r.ranks.barrier();
    });
    EXPECT_TRUE(status.is_ok()) << status.message();
  }
}

TEST_F(Nvlink, ReportsBadSlotsAndFullOutputs) {
  Random random(13);
  for (const int most : {20, 250}) {
    GroupShape shape = small_shape(2, most);
    shape.timeout_seconds = 5;
    NvlinkBatch bad = make_nvlink_batch(random, shape, {most, most});
    bad.slots[1][3] = 8;
    shape.max_rows = 6;
    const NvlinkBatch full = make_nvlink_batch(random, shape, {most, most});
    for (const NvlinkBatch* batch : std::initializer_list<const NvlinkBatch*>{&bad, &full}) {
      const Status status = run_nvlink_ranks(2, batch->shape, [&](NvlinkRank& r) -> Status {
        ASSIGN_OR_RETURN(const NvlinkBuffers buffers, make_buffers(*batch, r));
        RETURN_IF_ERROR(r.group.plan(r.stream, buffers.routing(*batch, r.rank())));
        RETURN_IF_ERROR(r.group.dispatch(r.stream, buffers.dispatch(*batch, r.rank())).status());
        const Status failed = finish_stream(r.cuda(), r.group);
        if (batch == &full) {
          EXPECT_THAT(failed.message(),
                      AnyOf(HasSubstr("its output holds 6"), HasSubstr("gave up first")));
        } else if (r.rank() == 1) {
          EXPECT_THAT(failed.message(), HasSubstr("token 1: slot 8 is not in [-1, 8)"));
        } else if (!failed.is_ok()) {  // it may have had all it needs when rank 1 gave up
          EXPECT_THAT(failed.message(), HasSubstr("gave up first"));
        }
        return r.ranks.barrier();
      });
      EXPECT_TRUE(status.is_ok()) << status.message();
    }
  }
}

TEST_F(Nvlink, RanksMustAgreeOnTheirSizes) {
  dist::World world = dist::World::local(2).value();
  const Status status = world.run([](dist::Communicator& ranks) -> Status {
    GroupShape shape = small_shape(2, 10);
    shape.max_tokens_of_rank += ranks.rank();
    return AllToAll::create(ranks, shape).status();
  });
  EXPECT_THAT(status.message(), HasSubstr("max_tokens_of_rank is 10 on rank 0 and 11 on rank 1"));
}

TEST_F(Nvlink, RefusesWhatDoesNotFit) {
  const GroupShape shape = small_shape(1, 10);
  const Status status = run_nvlink_ranks(1, shape, [&](NvlinkRank& r) -> Status {
    const std::vector<int32_t> slots(33, 0);
    EXPECT_THAT(r.group.plan(r.stream, {.num_tokens = 11, .slots = slots}).message(),
                HasSubstr("cut the batch into chunks"));
    EXPECT_THAT(r.group.plan(r.stream, {.num_tokens = 10, .slots = slots}).message(),
                HasSubstr("33 slots for 10 tokens"));
    RETURN_IF_ERROR(r.group.plan(r.stream, {.num_tokens = 11 - 1, .slots = {slots.data(), 30}}));
    std::vector<float> x(2560);
    EXPECT_THAT(r.group.dispatch(r.stream, matrix_view(x.data(), 10, 256)).status().message(),
                HasSubstr("x is [10, 256] F32"));
    return Status::ok();
  });
  EXPECT_TRUE(status.is_ok()) << status.message();
}

}  // namespace
}  // namespace wideep::alltoall
