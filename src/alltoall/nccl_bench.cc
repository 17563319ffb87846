#include "alltoall/nccl_bench.h"

#include <cuda_runtime_api.h>

#include "base/check.h"
#include "base/cuda.h"
#include "dist/nccl_comm.h"

namespace wideep::alltoall {
namespace {

class RealNcclBench : public NcclBench {
 public:
  RealNcclBench(dist::Communicator& group, dist::NcclComm comm, Buffer in, Buffer out)
      : group_(group), comm_(std::move(comm)), in_(std::move(in)), out_(std::move(out)) {}

  Result<CollectiveTimes> time_all_to_all(Stream& stream, const BenchCase& bench,
                                          const std::vector<int64_t>& rows, int64_t dispatch_bytes,
                                          int64_t combine_bytes) override {
    const int size = group_.size();
    const int rank = group_.rank();
    CollectiveTimes times;
    ASSIGN_OR_RETURN(times.dispatch, time(stream, bench, [&] {
                       return exchange(
                           stream, dispatch_bytes, [&](int to) { return rows[rank * size + to]; },
                           [&](int from) { return rows[from * size + rank]; });
                     }));
    ASSIGN_OR_RETURN(times.combine, time(stream, bench, [&] {
                       return exchange(
                           stream, combine_bytes, [&](int to) { return rows[to * size + rank]; },
                           [&](int from) { return rows[rank * size + from]; });
                     }));
    return times;
  }

  Result<CollectiveTimes> time_gather_scatter(Stream& stream, const BenchCase& bench,
                                              int64_t dispatch_bytes,
                                              int64_t combine_bytes) override {
    auto* const cuda = stream_of(stream);
    const auto tokens = static_cast<size_t>(bench.most_tokens);
    CollectiveTimes times;
    ASSIGN_OR_RETURN(
        times.dispatch, time(stream, bench, [&]() -> Status {
          RETURN_IF_NCCL_ERROR(ncclAllGather(in_.data(), out_.data(), tokens * dispatch_bytes,
                                             ncclUint8, comm_.get(), cuda));
          return Status::ok();
        }));
    ASSIGN_OR_RETURN(times.combine, time(stream, bench, [&]() -> Status {
                       RETURN_IF_NCCL_ERROR(
                           ncclReduceScatter(in_.data(), out_.data(), tokens * combine_bytes / 2,
                                             ncclBfloat16, ncclSum, comm_.get(), cuda));
                       return Status::ok();
                     }));
    return times;
  }

  Status all_reduce(Stream& stream, int64_t elements) override {
    CHECK(2 * elements <= in_.size());
    RETURN_IF_NCCL_ERROR(ncclAllReduce(in_.data(), out_.data(), static_cast<size_t>(elements),
                                       ncclBfloat16, ncclSum, comm_.get(), stream_of(stream)));
    return Status::ok();
  }

 private:
  // NCCL connects ranks at the first call, which no graph may capture.
  Result<CallTime> time(Stream& stream, const BenchCase& bench,
                        const std::function<Status()>& body) {
    RETURN_IF_ERROR(body());
    RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_of(stream)));
    return time_calls(group_, stream, bench.calls, bench.replays, body);
  }

  Status exchange(Stream& stream, int64_t row_bytes, const std::function<int64_t(int)>& sent,
                  const std::function<int64_t(int)>& received) {
    auto* const cuda = stream_of(stream);
    std::byte* from = in_.data();
    std::byte* to = out_.data();
    RETURN_IF_NCCL_ERROR(ncclGroupStart());
    for (int peer = 0; peer < group_.size(); ++peer) {
      if (peer == group_.rank()) continue;
      const int64_t out = sent(peer) * row_bytes;
      const int64_t in = received(peer) * row_bytes;
      if (out > 0) {
        RETURN_IF_NCCL_ERROR(
            ncclSend(from, static_cast<size_t>(out), ncclUint8, peer, comm_.get(), cuda));
      }
      if (in > 0) {
        RETURN_IF_NCCL_ERROR(
            ncclRecv(to, static_cast<size_t>(in), ncclUint8, peer, comm_.get(), cuda));
      }
      from += out;
      to += in;
    }
    RETURN_IF_NCCL_ERROR(ncclGroupEnd());
    return Status::ok();
  }

  dist::Communicator& group_;
  dist::NcclComm comm_;
  Buffer in_;
  Buffer out_;
};

}  // namespace

Result<std::unique_ptr<NcclBench>> NcclBench::create(dist::Communicator& group, int64_t most_rows,
                                                     int64_t row_bytes) {
  ASSIGN_OR_RETURN(dist::NcclComm comm, dist::NcclComm::create(group));
  const int64_t bytes = most_rows * row_bytes * group.size();
  ASSIGN_OR_RETURN(Buffer in, device_buffer(bytes));
  ASSIGN_OR_RETURN(Buffer out, device_buffer(bytes));
  return std::unique_ptr<NcclBench>(
      std::make_unique<RealNcclBench>(group, std::move(comm), std::move(in), std::move(out)));
}

}  // namespace wideep::alltoall
