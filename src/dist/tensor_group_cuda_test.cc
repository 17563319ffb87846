#include <gtest/gtest.h>

#include "base/cuda.h"
#include "base/thread_pool.h"
#include "dist/tensor_group.h"
#include "dist/tensor_group_testing.h"
#include "dist/world.h"

namespace wideep::dist {
namespace {

int num_gpus() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

// On GPUs [0, gpus), more ranks than these going round.
Status run_ranks(int ranks, int gpus) {
  ThreadPool pool(1);
  World world = World::local(ranks).value();
  return world.run([&](Communicator& group) -> Status {
    RETURN_IF_CUDA_ERROR(cudaSetDevice(group.rank() % gpus));
    ASSIGN_OR_RETURN(const CudaStream handle, CudaStream::create());
    Stream stream = Stream::of_cuda(pool, handle.get());
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      RETURN_IF_ERROR(check_tensor_group(group, stream, dtype, static_cast<uint64_t>(ranks)));
    }
    return Status::ok();
  });
}

TEST(TensorGroupCuda, RanksShareAGpu) {
  if (num_gpus() == 0) GTEST_SKIP() << "needs a GPU";
  for (int ranks = 1; ranks <= 5; ++ranks) {
    const Status status = run_ranks(ranks, 1);
    EXPECT_TRUE(status.is_ok()) << status.message();
  }
}

TEST(TensorGroupCuda, RanksHaveAGpuEach) {
  if (num_gpus() < 2) GTEST_SKIP() << "needs two GPUs";
  const Status status = run_ranks(num_gpus(), num_gpus());
  EXPECT_TRUE(status.is_ok()) << status.message();
}

}  // namespace
}  // namespace wideep::dist
