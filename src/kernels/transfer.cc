#include "kernels/transfer.h"

#include <cstring>
#include <utility>

#include "kernels/cuda_ops.h"

#ifdef WIDEEP_CUDA
#include "base/cuda.h"
#include "kernels/op_context.h"
#endif

namespace wideep::kernels {
namespace {

// The CPU's ops are done when they return.
class HostMarker : public Marker {
 public:
  void set(Stream&) override {}
  void wait() override {}
};

class HostStaging : public Staging {
 public:
  explicit HostStaging(Buffer memory) : memory_(std::move(memory)) {}

  std::span<std::byte> begin() override { return memory_.span<std::byte>(memory_.size()); }
  void send(Stream&, int64_t bytes, std::byte* to) override {
    if (bytes > 0) std::memcpy(to, memory_.data(), static_cast<size_t>(bytes));
  }

 private:
  Buffer memory_;
};

#ifdef WIDEEP_CUDA

class EventMarker : public Marker {
 public:
  explicit EventMarker(cudaEvent_t event) : event_(event) {}
  ~EventMarker() override { cudaEventDestroy(event_); }

  void set(Stream& stream) override { cudaEventRecord(event_, stream_of(stream)); }
  void wait() override { cudaEventSynchronize(event_); }

 private:
  cudaEvent_t event_;
};

class PinnedStaging : public Staging {
 public:
  PinnedStaging(Buffer memory, cudaEvent_t sent) : memory_(std::move(memory)), sent_(sent) {}
  ~PinnedStaging() override { cudaEventDestroy(sent_); }

  std::span<std::byte> begin() override {
    cudaEventSynchronize(sent_);
    return memory_.span<std::byte>(memory_.size());
  }
  void send(Stream& stream, int64_t bytes, std::byte* to) override {
    copy_bytes(stream, memory_.span<const std::byte>(bytes), to);
    cudaEventRecord(sent_, stream_of(stream));
  }

 private:
  Buffer memory_;
  cudaEvent_t sent_;
};

#endif

bool has_vectors(const CopyPiece& piece) {
  const auto addresses =
      reinterpret_cast<uintptr_t>(piece.from.data()) | reinterpret_cast<uintptr_t>(piece.to);
  return (addresses | piece.from.size()) % 16 == 0;
}

}  // namespace

void copy_bytes(Stream& stream, std::span<const std::byte> from, std::byte* to) {
  if (from.empty()) return;
#ifdef WIDEEP_CUDA
  if (stream.is_cuda()) {
    cudaMemcpyAsync(to, from.data(), from.size(), cudaMemcpyDefault, stream_of(stream));
    return check_launch(stream, "copy_bytes");
  }
#endif
  CHECK(!stream.is_cuda());
  std::memcpy(to, from.data(), from.size());
}

void copy_pair(Stream& stream, const CopyPiece& first, const CopyPiece& second) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda() && has_vectors(first) && has_vectors(second)) {
      return cuda::copy_pair(stream, first, second);
    }
  }
  copy_bytes(stream, first.from, first.to);
  copy_bytes(stream, second.from, second.to);
}

void zero_bytes(Stream& stream, std::span<std::byte> bytes) {
  if (bytes.empty()) return;
#ifdef WIDEEP_CUDA
  if (stream.is_cuda()) {
    cudaMemsetAsync(bytes.data(), 0, bytes.size(), stream_of(stream));
    return check_launch(stream, "zero_bytes");
  }
#endif
  CHECK(!stream.is_cuda());
  std::memset(bytes.data(), 0, bytes.size());
}

void copy_matrix(Stream& stream, ConstMatrixView from, MatrixView to) {
  CHECK(from.rows == to.rows && from.columns == to.columns && from.dtype == to.dtype);
  const int size = dtype_size(from.dtype);
  const auto width = static_cast<size_t>(from.columns * size);
  if (from.rows == 0 || width == 0) return;
#ifdef WIDEEP_CUDA
  if (stream.is_cuda()) {
    cudaMemcpy2DAsync(to.data, static_cast<size_t>(to.stride * size), from.data,
                      static_cast<size_t>(from.stride * size), width,
                      static_cast<size_t>(from.rows), cudaMemcpyDefault, stream_of(stream));
    return check_launch(stream, "copy_matrix");
  }
#endif
  CHECK(!stream.is_cuda());
  for (int64_t row = 0; row < from.rows; ++row) {
    std::memcpy(to.data + row * to.stride * size, from.data + row * from.stride * size, width);
  }
}

void fetch_bytes(Stream& stream, std::span<const std::byte> from, std::byte* to) {
  // While a copy to memory that is not pinned waits for the stream, no other thread can launch on
  // the device: not a rank that shares it either, which the stream may be waiting for.
  wait(stream);
  copy_bytes(stream, from, to);
  wait(stream);
}

void wait([[maybe_unused]] Stream& stream) {
#ifdef WIDEEP_CUDA
  if (stream.is_cuda()) {
    stream.fail(
        cuda_status("while the ops of a stream ran", cudaStreamSynchronize(stream_of(stream))));
  }
#endif
}

Result<std::unique_ptr<Marker>> Marker::create(const Stream& stream) {
#ifdef WIDEEP_CUDA
  if (stream.is_cuda()) {
    cudaEvent_t event = nullptr;
    RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return std::unique_ptr<Marker>(std::make_unique<EventMarker>(event));
  }
#endif
  CHECK(!stream.is_cuda());
  return std::unique_ptr<Marker>(std::make_unique<HostMarker>());
}

Result<std::unique_ptr<Staging>> Staging::create(const Stream& stream, int64_t bytes) {
#ifdef WIDEEP_CUDA
  if (stream.is_cuda()) {
    ASSIGN_OR_RETURN(Buffer memory, pinned_buffer(bytes));
    cudaEvent_t sent = nullptr;
    RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&sent, cudaEventDisableTiming));
    return std::unique_ptr<Staging>(std::make_unique<PinnedStaging>(std::move(memory), sent));
  }
#endif
  CHECK(!stream.is_cuda());
  ASSIGN_OR_RETURN(Buffer memory, Buffer::allocate(bytes));
  return std::unique_ptr<Staging>(std::make_unique<HostStaging>(std::move(memory)));
}

}  // namespace wideep::kernels
