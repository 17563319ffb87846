#include "alltoall/nccl_bench.h"
#include "alltoall/window_memory.h"

namespace wideep::alltoall {
namespace {

Status no_nccl() {
  return Status::unavailable(
      "all-to-all: this build has no NCCL, which ranks with a GPU each need: install NCCL 2.28 "
      "with its device headers and build again");
}

}  // namespace

Result<std::unique_ptr<SymmetricMemory>> make_window_memory(dist::Communicator&, int64_t) {
  return no_nccl();
}

Result<std::unique_ptr<NcclBench>> NcclBench::create(dist::Communicator&, int64_t, int64_t) {
  return no_nccl();
}

}  // namespace wideep::alltoall
