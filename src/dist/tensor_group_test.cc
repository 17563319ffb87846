#include "dist/tensor_group.h"

#include <gtest/gtest.h>

#include "base/thread_pool.h"
#include "dist/tensor_group_testing.h"
#include "dist/world.h"

namespace wideep::dist {
namespace {

TEST(TensorGroup, MovesHostMemory) {
  for (int ranks = 1; ranks <= 5; ++ranks) {
    ThreadPool pool(1);
    World world = World::local(ranks).value();
    const Status status = world.run([&](Communicator& group) {
      Stream stream(pool);
      return check_tensor_group(group, stream, DType::kF32, static_cast<uint64_t>(ranks));
    });
    EXPECT_TRUE(status.is_ok()) << status.message();
  }
}

}  // namespace
}  // namespace wideep::dist
