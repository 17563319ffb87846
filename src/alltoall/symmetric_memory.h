// Memory of one size on every rank of a group that all of them can address: what the NVLink kernels
// write to. Two kinds:
//
//   NCCL windows   ranks are processes or threads, each with a GPU of its own in one NVLink domain
//   one process    plain allocations of ranks that are threads, on one GPU or on GPUs with peer
//                  access: NCCL refuses two ranks on one GPU, and tests want eight
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "dist/communicator.h"

namespace wideep::alltoall {

class SymmetricMemory {
 public:
  virtual ~SymmetricMemory() = default;
  SymmetricMemory(const SymmetricMemory&) = delete;
  SymmetricMemory& operator=(const SymmetricMemory&) = delete;

  enum class Kind { kAuto, kNcclWindow, kOneProcess };

  // Collective over the group, which outlives the memory; each rank with its device current. Zeroed
  // on all ranks when it returns. kAuto: windows where no two ranks share a device. Ends with all
  // ranks agreeing on success; kUnavailable on all where one cannot.
  static Result<std::unique_ptr<SymmetricMemory>> create(dist::Communicator& group, int64_t bytes,
                                                         Kind kind = Kind::kAuto);

  std::byte* self() const { return self_; }
  // [size] where each rank's memory is for this rank, to be used on the device.
  std::span<std::byte* const> peers() const { return peers_; }
  // Whether two ranks have one device.
  bool shares_devices() const { return shares_devices_; }

 protected:
  SymmetricMemory() = default;

  std::byte* self_ = nullptr;
  std::vector<std::byte*> peers_;

 private:
  bool shares_devices_ = false;
};

}  // namespace wideep::alltoall
