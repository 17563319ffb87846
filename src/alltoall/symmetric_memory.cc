#include "alltoall/symmetric_memory.h"

#include <vector>

#include "alltoall/window_memory.h"
#include "base/cuda.h"
#include "dist/agree.h"
#include "dist/gpu_ranks.h"

namespace wideep::alltoall {

namespace {

// Plain allocations of the threads of one process.
class OneProcessMemory : public SymmetricMemory {
 public:
  explicit OneProcessMemory(dist::Communicator& group) : group_(group) {}
  ~OneProcessMemory() override {
    // Nobody writes here any more when all ranks have come.
    cudaDeviceSynchronize();
    group_.leave();
  }

  Status start(int64_t bytes) {
    Status own = allocate(bytes);
    Window window{};
    if (own.is_ok()) own = cuda_status("cudaGetDevice", cudaGetDevice(&window.device));
    window.base = memory_.data();
    std::vector<Window> all(static_cast<size_t>(group_.size()));
    RETURN_IF_ERROR(group_.all_gather(std::as_bytes(std::span(&window, 1)),
                                      std::as_writable_bytes(std::span(all))));
    if (own.is_ok()) own = connect(window.device, all);
    return dist::agree(group_, own);
  }

 private:
  struct Window {
    std::byte* base;
    int device;
  };

  Status allocate(int64_t bytes) {
    ASSIGN_OR_RETURN(memory_, device_buffer(bytes));
    RETURN_IF_CUDA_ERROR(cudaDeviceSynchronize());
    return Status::ok();
  }

  Status connect(int device, const std::vector<Window>& all) {
    for (const Window& window : all) {
      peers_.push_back(window.base);
      if (window.device == device) continue;
      const cudaError_t error = cudaDeviceEnablePeerAccess(window.device, 0);
      cudaGetLastError();  // "already enabled" is kept there
      if (error != cudaErrorPeerAccessAlreadyEnabled) {
        RETURN_IF_ERROR(cuda_status("cudaDeviceEnablePeerAccess", error));
      }
    }
    self_ = memory_.data();
    return Status::ok();
  }

  dist::Communicator& group_;
  Buffer memory_;
};

Result<std::unique_ptr<SymmetricMemory>> make_one_process_memory(dist::Communicator& group,
                                                                 int64_t bytes) {
  if (!group.shares_memory()) {
    return Status::unavailable(
        "all-to-all: two ranks share a GPU but not a process: give each rank a GPU of its own");
  }
  auto memory = std::make_unique<OneProcessMemory>(group);
  RETURN_IF_ERROR(memory->start(bytes));
  return std::unique_ptr<SymmetricMemory>(std::move(memory));
}

}  // namespace

Result<std::unique_ptr<SymmetricMemory>> SymmetricMemory::create(dist::Communicator& group,
                                                                 int64_t bytes, Kind kind) {
  ASSIGN_OR_RETURN(const int sharing, dist::most_ranks_of_a_gpu(group));
  const bool shared = sharing > 1;
  if (kind == Kind::kAuto) {
    kind = shared || group.size() == 1 ? Kind::kOneProcess : Kind::kNcclWindow;
  }
  ASSIGN_OR_RETURN(std::unique_ptr<SymmetricMemory> memory,
                   kind == Kind::kNcclWindow ? make_window_memory(group, bytes)
                                             : make_one_process_memory(group, bytes));
  memory->shares_devices_ = shared;
  return memory;
}

}  // namespace wideep::alltoall
