#include "dist/nccl_comm.h"

#include <fmt/format.h>

#include <span>

#include "dist/agree.h"

namespace wideep::dist {

Status nccl_status(const char* call, ncclResult_t result) {
  if (result == ncclSuccess) return Status::ok();
  return Status::unavailable(fmt::format("NCCL: {}: {}", call, ncclGetErrorString(result)));
}

Result<NcclComm> NcclComm::create(Communicator& group) {
  ncclUniqueId id{};
  Status own;
  if (group.rank() == 0) own = nccl_status("ncclGetUniqueId", ncclGetUniqueId(&id));
  RETURN_IF_ERROR(agree(group, own));
  RETURN_IF_ERROR(group.broadcast(std::as_writable_bytes(std::span(&id, 1)), 0));
  ncclComm_t comm = nullptr;
  own = nccl_status("ncclCommInitRank", ncclCommInitRank(&comm, group.size(), id, group.rank()));
  NcclComm result;
  result.comm_.reset(comm);
  RETURN_IF_ERROR(agree(group, own));
  return result;
}

}  // namespace wideep::dist
