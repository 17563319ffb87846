#include <fmt/format.h>
#include <nccl.h>

#include <utility>

#include "base/cuda.h"
#include "dist/cuda_tensor_group.h"

namespace wideep::dist {
namespace {

Status nccl_status(const char* call, ncclResult_t result) {
  if (result == ncclSuccess) return Status::ok();
  return Status::unavailable(fmt::format("NCCL: {}: {}", call, ncclGetErrorString(result)));
}

#define RETURN_IF_NCCL_ERROR(call) RETURN_IF_ERROR(nccl_status(#call, (call)))

ncclDataType_t type_of(DType dtype) {
  if (dtype == DType::kF32) return ncclFloat32;
  CHECK(dtype == DType::kBF16);
  return ncclBfloat16;
}

// Ends the group of calls also where one of them failed.
class CallGroup {
 public:
  static Status run(const auto& calls) {
    RETURN_IF_NCCL_ERROR(ncclGroupStart());
    const Status status = calls();
    const Status end = nccl_status("ncclGroupEnd", ncclGroupEnd());
    return status.is_ok() ? end : status;
  }
};

class NcclTensorGroup : public TensorGroup {
 public:
  NcclTensorGroup(Communicator& group, Stream& stream)
      : TensorGroup(group), stream_(static_cast<cudaStream_t>(stream.cuda())) {}
  ~NcclTensorGroup() override {
    if (comm_ != nullptr) ncclCommDestroy(comm_);
  }

  Status start() {
    ncclUniqueId id{};
    Status own;
    if (group_.rank() == 0) own = nccl_status("ncclGetUniqueId", ncclGetUniqueId(&id));
    RETURN_IF_ERROR(group_.broadcast(std::as_writable_bytes(std::span(&id, 1)), 0));
    RETURN_IF_ERROR(own);
    RETURN_IF_NCCL_ERROR(ncclCommInitRank(&comm_, group_.size(), id, group_.rank()));
    return Status::ok();
  }

  bool is_capturable() const override { return true; }

  Status all_reduce_sum(MatrixView data) override {
    CHECK(data.stride == data.columns || data.rows <= 1);
    const auto count = static_cast<size_t>(data.rows * data.columns);
    if (count == 0) return Status::ok();
    RETURN_IF_NCCL_ERROR(
        ncclAllReduce(data.data, data.data, count, type_of(data.dtype), ncclSum, comm_, stream_));
    return Status::ok();
  }

  // NCCL's own all-gather wants equal counts: one broadcast of each rank's part instead.
  Status all_gather_v(std::span<const std::byte> in, std::span<const int64_t> counts,
                      std::span<std::byte> out) override {
    return CallGroup::run([&]() -> Status {
      std::byte* to = out.data();
      for (int root = 0; root < size(); ++root) {
        if (counts[root] > 0) {
          RETURN_IF_NCCL_ERROR(ncclBroadcast(in.data(), to, static_cast<size_t>(counts[root]),
                                             ncclUint8, root, comm_, stream_));
        }
        to += counts[root];
      }
      return Status::ok();
    });
  }

  Status reduce_scatter_rows(ConstMatrixView in, std::span<const int64_t> rows,
                             MatrixView out) override {
    CHECK(in.stride == in.columns || in.rows <= 1);
    const int64_t row_bytes = in.columns * dtype_size(in.dtype);
    return CallGroup::run([&]() -> Status {
      const std::byte* from = in.data;
      for (int root = 0; root < size(); ++root) {
        if (rows[root] > 0) {
          RETURN_IF_NCCL_ERROR(ncclReduce(from, out.data,
                                          static_cast<size_t>(rows[root] * in.columns),
                                          type_of(in.dtype), ncclSum, root, comm_, stream_));
        }
        from += rows[root] * row_bytes;
      }
      return Status::ok();
    });
  }

  Status all_to_all_v(std::span<const std::byte> in, std::span<const int64_t> send_counts,
                      std::span<std::byte> out, std::span<const int64_t> recv_counts) override {
    return CallGroup::run([&]() -> Status {
      const std::byte* from = in.data();
      std::byte* to = out.data();
      for (int peer = 0; peer < size(); ++peer) {
        RETURN_IF_ERROR(post_send({from, static_cast<size_t>(send_counts[peer])}, peer));
        RETURN_IF_ERROR(post_recv({to, static_cast<size_t>(recv_counts[peer])}, peer));
        from += send_counts[peer];
        to += recv_counts[peer];
      }
      return Status::ok();
    });
  }

  Status send(std::span<const std::byte> data, int peer) override { return post_send(data, peer); }
  Status recv(std::span<std::byte> data, int peer) override { return post_recv(data, peer); }

 private:
  Status post_send(std::span<const std::byte> data, int peer) {
    if (data.empty()) return Status::ok();
    RETURN_IF_NCCL_ERROR(ncclSend(data.data(), data.size(), ncclUint8, peer, comm_, stream_));
    return Status::ok();
  }
  Status post_recv(std::span<std::byte> data, int peer) {
    if (data.empty()) return Status::ok();
    RETURN_IF_NCCL_ERROR(ncclRecv(data.data(), data.size(), ncclUint8, peer, comm_, stream_));
    return Status::ok();
  }

  cudaStream_t stream_;
  ncclComm_t comm_ = nullptr;
};

}  // namespace

Result<std::unique_ptr<TensorGroup>> create_nccl_tensor_group(Communicator& group, Stream& stream) {
  auto tensors = std::make_unique<NcclTensorGroup>(group, stream);
  RETURN_IF_ERROR(tensors->start());
  return std::unique_ptr<TensorGroup>(std::move(tensors));
}

}  // namespace wideep::dist
