#include "alltoall/window_memory.h"

#include <fmt/format.h>
#include <nccl.h>
#include <nccl_device.h>

#include "alltoall/window_pointers.h"
#include "base/cuda.h"
#include "dist/agree.h"
#include "dist/nccl_comm.h"

namespace wideep::alltoall {
namespace {

// A window of NCCL's, which all ranks of the NVLink domain have mapped.
class NcclWindowMemory : public SymmetricMemory {
 public:
  explicit NcclWindowMemory(dist::Communicator& group) : group_(group) {}
  ~NcclWindowMemory() override {
    cudaDeviceSynchronize();
    if (!group_.leave()) {
      comm_.abort();
      return;
    }
    if (device_comm_made_) ncclDevCommDestroy(comm_.get(), &device_comm_);
    if (window_ != nullptr) ncclCommWindowDeregister(comm_.get(), window_);
    if (memory_ != nullptr) ncclMemFree(memory_);
  }

  Status start(int64_t bytes) {
    ASSIGN_OR_RETURN(comm_, dist::NcclComm::create(group_));
    RETURN_IF_ERROR(dist::agree(group_, allocate(bytes)));
    return dist::agree(group_, share(bytes));
  }

 private:
  Status allocate(int64_t bytes) {
    RETURN_IF_NCCL_ERROR(ncclMemAlloc(&memory_, static_cast<size_t>(bytes)));
    RETURN_IF_CUDA_ERROR(cudaMemset(memory_, 0, static_cast<size_t>(bytes)));
    RETURN_IF_CUDA_ERROR(cudaDeviceSynchronize());
    ASSIGN_OR_RETURN(table_,
                     device_buffer(static_cast<int64_t>(sizeof(std::byte*)) * group_.size()));
    return Status::ok();
  }

  // Collective by NCCL's own means: all ranks have come so far.
  Status share(int64_t bytes) {
    RETURN_IF_NCCL_ERROR(ncclCommWindowRegister(comm_.get(), memory_, static_cast<size_t>(bytes),
                                                &window_, NCCL_WIN_COLL_SYMMETRIC));
    ncclDevCommRequirements requirements{};
    requirements.lsaBarrierCount = 1;  // none at all is refused
    RETURN_IF_NCCL_ERROR(ncclDevCommCreate(comm_.get(), &requirements, &device_comm_));
    device_comm_made_ = true;
    const int reachable = ncclTeamLsa(comm_.get()).nRanks;
    if (reachable != group_.size()) {
      return Status::unavailable(fmt::format(
          "all-to-all: {} of the group's {} ranks are in this rank's NVLink domain: use another "
          "transport",
          reachable, group_.size()));
    }
    RETURN_IF_CUDA_ERROR(write_window_pointers(window_, group_.size(), table_.as<std::byte*>()));
    self_ = static_cast<std::byte*>(memory_);
    peers_.resize(static_cast<size_t>(group_.size()));
    RETURN_IF_CUDA_ERROR(cudaMemcpy(peers_.data(), table_.data(),
                                    peers_.size() * sizeof(std::byte*), cudaMemcpyDeviceToHost));
    return Status::ok();
  }

  dist::Communicator& group_;
  dist::NcclComm comm_;
  void* memory_ = nullptr;
  ncclWindow_t window_ = nullptr;
  ncclDevComm device_comm_{};
  bool device_comm_made_ = false;
  Buffer table_;
};

}  // namespace

Result<std::unique_ptr<SymmetricMemory>> make_window_memory(dist::Communicator& group,
                                                            int64_t bytes) {
  auto memory = std::make_unique<NcclWindowMemory>(group);
  RETURN_IF_ERROR(memory->start(bytes));
  return std::unique_ptr<SymmetricMemory>(std::move(memory));
}

}  // namespace wideep::alltoall
