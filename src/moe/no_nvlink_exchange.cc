// A build without CUDA has no GPU to exchange rows with.
#include "moe/expert_copies.h"
#include "moe/slot_exchange.h"

namespace wideep::moe {

Result<std::unique_ptr<SlotExchange>> make_nvlink_exchange(Stream&, dist::Communicator&,
                                                           const SlotExchangeOptions&) {
  return Status::unavailable("WideEP on GPUs: this build has no CUDA (preset cuda)");
}

Result<std::unique_ptr<ExpertCopies>> make_device_copies(Stream&, dist::Communicator&,
                                                         const StagingShape&) {
  return Status::unavailable("experts on GPUs: this build has no CUDA (preset cuda)");
}

Result<int64_t> exchange_device_bytes(const SlotExchangeOptions&) {
  return int64_t{0};
}

}  // namespace wideep::moe
