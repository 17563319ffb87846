// A communicator of NCCL's for a group whose ranks have a GPU each. For dist and alltoall; built
// with NCCL only.
#pragma once

#include <nccl.h>

#include <memory>

#include "base/status.h"
#include "dist/communicator.h"

namespace wideep::dist {

// kUnavailable naming the call and what NCCL says.
Status nccl_status(const char* call, ncclResult_t result);

#define RETURN_IF_NCCL_ERROR(call) RETURN_IF_ERROR(::wideep::dist::nccl_status(#call, (call)))

class NcclComm {
 public:
  // Collective, each rank with its device current. The first failure of any rank, on all ranks.
  static Result<NcclComm> create(Communicator& group);
  ncclComm_t get() const { return comm_.get(); }
  // Ends it without the other ranks, whatever is under way.
  void abort() { ncclCommAbort(comm_.release()); }

 private:
  struct Destroy {
    void operator()(ncclComm_t comm) const { ncclCommDestroy(comm); }
  };
  std::unique_ptr<ncclComm, Destroy> comm_;
};

}  // namespace wideep::dist
