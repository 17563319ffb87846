#include "dist/cuda_tensor_group.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "base/cuda.h"
#include "base/float_formats.h"
#include "dist/gpu_ranks.h"

namespace wideep::dist {
namespace {

constexpr int kTag = 0;

int64_t sum_of(std::span<const int64_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

// Through the hosts' memory: waits for the stream, exchanges, copies back.
class StagedTensorGroup : public TensorGroup {
 public:
  StagedTensorGroup(Communicator& group, Stream& stream)
      : TensorGroup(group), stream_(stream_of(stream)) {}

  bool is_capturable() const override { return false; }

  Status all_reduce_sum(MatrixView data) override {
    std::vector<float> values(static_cast<size_t>(data.rows * data.columns));
    RETURN_IF_ERROR(fetch_floats(data, values));
    RETURN_IF_ERROR(group_.all_reduce_sum(std::span<float>(values)));
    return store_floats(values, data);
  }

  Status all_gather_v(std::span<const std::byte> in, std::span<const int64_t> counts,
                      std::span<std::byte> out) override {
    ASSIGN_OR_RETURN(const std::vector<std::byte> own, fetch(in));
    std::vector<std::byte> all(static_cast<size_t>(sum_of(counts)));
    RETURN_IF_ERROR(group_.all_gather_v(own, counts, all));
    return copy(all, out);
  }

  Status reduce_scatter_rows(ConstMatrixView in, std::span<const int64_t> rows,
                             MatrixView out) override {
    std::vector<float> values(static_cast<size_t>(in.rows * in.columns));
    RETURN_IF_ERROR(fetch_floats(in, values));
    std::vector<int64_t> counts;
    for (const int64_t count : rows) counts.push_back(count * in.columns);
    std::vector<float> own(static_cast<size_t>(out.rows * out.columns));
    RETURN_IF_ERROR(group_.reduce_scatter_v(values, counts, own));
    return store_floats(own, out);
  }

  Status all_to_all_v(std::span<const std::byte> in, std::span<const int64_t> send_counts,
                      std::span<std::byte> out, std::span<const int64_t> recv_counts) override {
    ASSIGN_OR_RETURN(const std::vector<std::byte> own, fetch(in));
    std::vector<std::byte> received(static_cast<size_t>(sum_of(recv_counts)));
    RETURN_IF_ERROR(group_.all_to_all_v(own, send_counts, received, recv_counts));
    return copy(received, out);
  }

  Status send(std::span<const std::byte> data, int peer) override {
    ASSIGN_OR_RETURN(const std::vector<std::byte> own, fetch(data));
    return group_.send(own, peer, kTag);
  }

  Status recv(std::span<std::byte> data, int peer) override {
    std::vector<std::byte> received(data.size());
    RETURN_IF_ERROR(group_.recv(received, peer, kTag));
    return copy(received, data);
  }

 private:
  Result<std::vector<std::byte>> fetch(std::span<const std::byte> from) {
    std::vector<std::byte> bytes(from.size());
    RETURN_IF_ERROR(copy(from, bytes));
    return bytes;
  }

  // A copy from or to memory that is not pinned keeps other threads from launching on the device
  // while it waits for the stream: ranks that share it, for which the stream may be waiting.
  Status copy(std::span<const std::byte> from, std::span<std::byte> to) {
    RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
    if (from.empty()) return Status::ok();
    RETURN_IF_CUDA_ERROR(
        cudaMemcpyAsync(to.data(), from.data(), from.size(), cudaMemcpyDefault, stream_));
    RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
    return Status::ok();
  }

  Status fetch_floats(ConstMatrixView from, std::span<float> to) {
    ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, fetch(bytes_of(from)));
    if (from.dtype == DType::kF32) {
      if (!bytes.empty()) std::memcpy(to.data(), bytes.data(), bytes.size());
    } else {
      CHECK(from.dtype == DType::kBF16);
      bf16_to_float(bytes.data(), to);
    }
    return Status::ok();
  }

  Status store_floats(std::span<const float> from, MatrixView to) {
    if (to.dtype == DType::kF32) return copy(std::as_bytes(from), writable_bytes_of(to));
    std::vector<uint16_t> narrow(from.size());
    float_to_bf16(from, narrow);
    return copy(std::as_bytes(std::span(narrow)), writable_bytes_of(to));
  }

  cudaStream_t stream_;
};

}  // namespace

Result<std::unique_ptr<TensorGroup>> create_cuda_tensor_group(Communicator& group, Stream& stream) {
#ifdef WIDEEP_NCCL
  ASSIGN_OR_RETURN(const int sharing, most_ranks_of_a_gpu(group));
  if (group.size() > 1 && sharing == 1) return create_nccl_tensor_group(group, stream);
#endif
  return std::unique_ptr<TensorGroup>(std::make_unique<StagedTensorGroup>(group, stream));
}

}  // namespace wideep::dist
