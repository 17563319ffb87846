#include <nccl.h>

#include <utility>

#include "base/cuda.h"
#include "dist/cuda_tensor_group.h"
#include "dist/launch_together.h"
#include "dist/nccl_comm.h"

namespace wideep::dist {
namespace {

ncclDataType_t type_of(DType dtype) {
  if (dtype == DType::kF32) return ncclFloat32;
  CHECK(dtype == DType::kBF16);
  return ncclBfloat16;
}

constexpr int kMeetTag = 1 << 20;

// Ends the group of calls also where one of them failed.
Status grouped(const auto& calls) {
  RETURN_IF_NCCL_ERROR(ncclGroupStart());
  const Status status = calls();
  const Status end = nccl_status("ncclGroupEnd", ncclGroupEnd());
  return status.is_ok() ? end : status;
}

class NcclTensorGroup : public TensorGroup {
 public:
  NcclTensorGroup(Communicator& group, Stream& stream, NcclComm comm)
      : TensorGroup(group), stream_(stream_of(stream)), comm_(std::move(comm)) {}

  bool is_capturable() const override { return true; }

  Status all_reduce_sum(MatrixView data) override {
    CHECK(data.stride == data.columns || data.rows <= 1);
    const auto count = static_cast<size_t>(data.rows * data.columns);
    if (count == 0) return Status::ok();
    return launch_together(group_, [&] {
      return nccl_status("ncclAllReduce",
                         ncclAllReduce(data.data, data.data, count, type_of(data.dtype), ncclSum,
                                       comm_.get(), stream_));
    });
  }

  // NCCL's own all-gather wants equal counts: one broadcast of each rank's part instead.
  Status all_gather_v(std::span<const std::byte> in, std::span<const int64_t> counts,
                      std::span<std::byte> out) override {
    return together_grouped([&]() -> Status {
      std::byte* to = out.data();
      for (int root = 0; root < size(); ++root) {
        if (counts[root] > 0) {
          RETURN_IF_NCCL_ERROR(ncclBroadcast(in.data(), to, static_cast<size_t>(counts[root]),
                                             ncclUint8, root, comm_.get(), stream_));
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
    return together_grouped([&]() -> Status {
      const std::byte* from = in.data;
      for (int root = 0; root < size(); ++root) {
        if (rows[root] > 0) {
          RETURN_IF_NCCL_ERROR(ncclReduce(from, out.data,
                                          static_cast<size_t>(rows[root] * in.columns),
                                          type_of(in.dtype), ncclSum, root, comm_.get(), stream_));
        }
        from += rows[root] * row_bytes;
      }
      return Status::ok();
    });
  }

  Status all_to_all_v(std::span<const std::byte> in, std::span<const int64_t> send_counts,
                      std::span<std::byte> out, std::span<const int64_t> recv_counts) override {
    return together_grouped([&]() -> Status {
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

  Status send(std::span<const std::byte> data, int peer) override {
    return together_with(peer, [&] { return post_send(data, peer); });
  }
  Status recv(std::span<std::byte> data, int peer) override {
    return together_with(peer, [&] { return post_recv(data, peer); });
  }

 private:
  Status together_grouped(const auto& calls) {
    return launch_together(group_, [&] { return grouped(calls); });
  }
  // launch_together() of two ranks.
  Status together_with(int peer, const auto& calls) {
    if (!group_.shares_memory()) return calls();
    RETURN_IF_ERROR(meet(peer));
    RETURN_IF_ERROR(calls());
    return meet(peer);
  }
  Status meet(int peer) {
    RETURN_IF_ERROR(group_.send({}, peer, kMeetTag));
    return group_.recv({}, peer, kMeetTag);
  }

  Status post_send(std::span<const std::byte> data, int peer) {
    if (data.empty()) return Status::ok();
    RETURN_IF_NCCL_ERROR(ncclSend(data.data(), data.size(), ncclUint8, peer, comm_.get(), stream_));
    return Status::ok();
  }
  Status post_recv(std::span<std::byte> data, int peer) {
    if (data.empty()) return Status::ok();
    RETURN_IF_NCCL_ERROR(ncclRecv(data.data(), data.size(), ncclUint8, peer, comm_.get(), stream_));
    return Status::ok();
  }

  cudaStream_t stream_;
  NcclComm comm_;
};

}  // namespace

Result<std::unique_ptr<TensorGroup>> create_nccl_tensor_group(Communicator& group, Stream& stream) {
  ASSIGN_OR_RETURN(NcclComm comm, NcclComm::create(group));
  return std::unique_ptr<TensorGroup>(
      std::make_unique<NcclTensorGroup>(group, stream, std::move(comm)));
}

}  // namespace wideep::dist
