#include "alltoall/symmetric_memory.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <vector>

#include "alltoall/window_memory.h"
#include "base/cuda.h"
#include "dist/agree.h"

namespace wideep::alltoall {

namespace {

// Plain allocations of the threads of one process.
class OneProcessMemory : public SymmetricMemory {
 public:
  explicit OneProcessMemory(dist::Communicator& group) : group_(group) {}
  ~OneProcessMemory() override {
    // Nobody writes here any more when all ranks have come.
    cudaDeviceSynchronize();
    (void)group_.barrier().is_ok();
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

// Whether two ranks have one device; the same answer on all ranks.
Result<bool> share_devices(dist::Communicator& group) {
  constexpr int kHostLength = 64;
  std::array<char, 2 * kHostLength> name{};  // host and bus
  ::gethostname(name.data(), kHostLength - 1);
  int device = 0;
  Status own = cuda_status("cudaGetDevice", cudaGetDevice(&device));
  if (own.is_ok()) {
    own = cuda_status("cudaDeviceGetPCIBusId",
                      cudaDeviceGetPCIBusId(name.data() + kHostLength, kHostLength, device));
  }
  RETURN_IF_ERROR(dist::agree(group, own));
  std::vector<std::array<char, 2 * kHostLength>> all(static_cast<size_t>(group.size()));
  RETURN_IF_ERROR(
      group.all_gather(std::as_bytes(std::span(name)), std::as_writable_bytes(std::span(all))));
  std::ranges::sort(all);
  return std::ranges::adjacent_find(all) != all.end();
}

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
  ASSIGN_OR_RETURN(const bool shared, share_devices(group));
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
