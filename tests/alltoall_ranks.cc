// One rank of an MPI world with a GPU of its own: batches of both regimes in all layouts, held
// against the reference bit by bit. tools/gpu_check.sh starts it under mpirun.
#include <fmt/format.h>

#include "alltoall/nvlink_testing.h"
#include "base/random.h"
#include "base/thread_pool.h"
#include "dist/world.h"
#include "kernels/device_stream.h"

namespace wideep::alltoall {
namespace {

constexpr int kBatches = 16;

Status check_batches(dist::Communicator& ranks, Stream& stream) {
  Random random(21);  // the same on all ranks
  for (int i = 0; i < kBatches; ++i) {
    const NvlinkBatch batch = random_nvlink_batch(random, ranks.size(), i % 2 == 0 ? 400 : 40);
    ASSIGN_OR_RETURN(const auto group, NvlinkGroup::create(ranks, batch.shape));
    NvlinkRank rank = {ranks, stream, *group};
    const Status status = check_rounds(batch, rank);
    if (!status.is_ok()) {
      return Status::aborted(fmt::format("{}: {}", batch.describe(), status.message()));
    }
  }
  return Status::ok();
}

Status run() {
  ASSIGN_OR_RETURN(dist::World world, dist::World::mpi({}));
  ASSIGN_OR_RETURN(const auto launch, dist::launch_from_environment());
  ThreadPool pool(1);
  const Status status = world.run([&](dist::Communicator& ranks) -> Status {
    const int place = launch ? launch->local_rank : ranks.rank();
    ASSIGN_OR_RETURN(const auto device, kernels::DeviceStream::open(pool, place % device_count()));
    return check_batches(ranks, device->stream());
  });
  if (world.holds_rank_zero() && status.is_ok()) fmt::print("{} ranks: ok\n", world.size());
  return status;
}

}  // namespace
}  // namespace wideep::alltoall

int main() {
  const wideep::Status status = wideep::alltoall::run();
  if (!status.is_ok()) fmt::print(stderr, "alltoall_ranks: {}\n", status.message());
  return status.is_ok() ? 0 : 1;
}
