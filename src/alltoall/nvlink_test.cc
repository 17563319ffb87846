#include "alltoall/nvlink_group.h"

#include <gtest/gtest.h>

#include <vector>

#include "alltoall/nvlink_testing.h"
#include "base/random.h"

namespace wideep::alltoall {
namespace {

// Rounds of dispatch and combine of one batch with the batch's group.
Status run_batch(const NvlinkBatch& batch, int rounds) {
  return run_nvlink_ranks(batch.num_ranks(), batch.shape, [&](NvlinkRank& r) -> Status {
    ASSIGN_OR_RETURN(NvlinkBuffers buffers, NvlinkBuffers::allocate(batch, r.rank()));
    RETURN_IF_ERROR(buffers.upload(batch, r.rank(), r.cuda()));
    RETURN_IF_ERROR(r.ranks.barrier());
    for (int round = 0; round < rounds; ++round) {
      RETURN_IF_ERROR(check_dispatch(batch, r.group, r.rank(), r.stream, buffers));
      RETURN_IF_ERROR(check_combine(batch, r.group, r.rank(), r.stream, buffers));
    }
    return r.ranks.barrier();
  });
}

class Nvlink : public testing::Test {
 protected:
  void SetUp() override {
    if (device_count() == 0) GTEST_SKIP() << "needs a GPU";
  }
};

TEST_F(Nvlink, SmallBatchesAreExact) {
  Random random(1);
  for (int round = 0; round < 24; ++round) {
    const NvlinkBatch batch = random_nvlink_batch(random, 1 + round % 8, 40);
    SCOPED_TRACE(batch.describe());
    const Status status = run_batch(batch, 2);
    ASSERT_TRUE(status.is_ok()) << status.message();
  }
}

TEST_F(Nvlink, LargeBatchesAreExact) {
  Random random(2);
  for (int round = 0; round < 24; ++round) {
    const NvlinkBatch batch = random_nvlink_batch(random, 1 + round % 8, 400);
    SCOPED_TRACE(batch.describe());
    const Status status = run_batch(batch, 2);
    ASSERT_TRUE(status.is_ok()) << status.message();
  }
}

}  // namespace
}  // namespace wideep::alltoall
