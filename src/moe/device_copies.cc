// A boundary's copies end with an event on the copying stream. Sends wait on the GPU for the
// commits before them, which may write the slots that they read; nothing waits on the host.
#include <cuda_runtime_api.h>

#include <deque>
#include <utility>

#include "alltoall/symmetric_memory.h"
#include "base/cuda.h"
#include "moe/expert_copies.h"

namespace wideep::moe {
namespace {

class DeviceCopies : public ExpertCopies {
 public:
  DeviceCopies(Stream& stream, const StagingShape& shape)
      : model_stream_(stream_of(stream)), shape_(shape) {}
  ~DeviceCopies() override {
    if (copy_stream_ != nullptr) {
      cudaStreamSynchronize(copy_stream_);
      cudaStreamDestroy(copy_stream_);
    }
    if (committed_ != nullptr) cudaEventDestroy(committed_);
    for (cudaEvent_t event : ends_) {
      if (event != nullptr) cudaEventDestroy(event);
    }
  }

  Status start(dist::Communicator& group) {
    ASSIGN_OR_RETURN(
        staging_, alltoall::SymmetricMemory::create(group, shape_.expert_bytes() * shape_.places));
    int least = 0;
    int greatest = 0;
    RETURN_IF_CUDA_ERROR(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    RETURN_IF_CUDA_ERROR(cudaStreamCreateWithPriority(&copy_stream_, cudaStreamNonBlocking, least));
    RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&committed_, cudaEventDisableTiming));
    return Status::ok();
  }

  Status begin_boundary() override {
    has_copies_ = false;
    is_ordered_ = false;
    return Status::ok();
  }

  Status send(const SlotBytes& from, int target, int place) override {
    RETURN_IF_ERROR(wait_for_commits());
    std::byte* const to = staging_->peers()[static_cast<size_t>(target)] + offset(place);
    RETURN_IF_ERROR(copy(from.gate_up, to, copy_stream_));
    return copy(from.down, to + shape_.gate_up_bytes, copy_stream_);
  }
  // The source's part says when it is there.
  Status receive(int, int) override { return Status::ok(); }

  Status commit(int place, const SlotBytes& slot) override {
    CHECK(!is_ordered_);
    has_copies_ = true;
    const std::byte* const from = staging_->self() + offset(place);
    RETURN_IF_ERROR(copy({from, slot.gate_up.size()}, slot.gate_up.data(), model_stream_));
    return copy({from + shape_.gate_up_bytes, slot.down.size()}, slot.down.data(), model_stream_);
  }

  Status end_boundary() override {
    cudaEvent_t end = nullptr;
    if (has_copies_) {
      RETURN_IF_ERROR(wait_for_commits());
      RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&end, cudaEventDisableTiming));
      ends_.push_back(end);
      RETURN_IF_CUDA_ERROR(cudaEventRecord(end, copy_stream_));
    } else {
      ends_.push_back(nullptr);
    }
    return Status::ok();
  }

  int64_t num_done() override {
    while (!ends_.empty()) {
      cudaEvent_t end = ends_.front();
      if (end != nullptr) {
        // An error of the device shows at the next wait for it; until then nothing more is done.
        if (cudaEventQuery(end) != cudaSuccess) break;
        cudaEventDestroy(end);
      }
      ends_.pop_front();
      ++num_done_;
    }
    return num_done_;
  }

 private:
  int64_t offset(int place) const { return place * shape_.expert_bytes(); }

  static Status copy(std::span<const std::byte> from, std::byte* to, cudaStream_t stream) {
    RETURN_IF_CUDA_ERROR(
        cudaMemcpyAsync(to, from.data(), from.size(), cudaMemcpyDeviceToDevice, stream));
    return Status::ok();
  }

  Status wait_for_commits() {
    has_copies_ = true;
    if (is_ordered_) return Status::ok();
    is_ordered_ = true;
    RETURN_IF_CUDA_ERROR(cudaEventRecord(committed_, model_stream_));
    RETURN_IF_CUDA_ERROR(cudaStreamWaitEvent(copy_stream_, committed_, 0));
    return Status::ok();
  }

  const cudaStream_t model_stream_;
  const StagingShape shape_;
  std::unique_ptr<alltoall::SymmetricMemory> staging_;
  cudaStream_t copy_stream_ = nullptr;
  cudaEvent_t committed_ = nullptr;
  // Of the current boundary:
  bool has_copies_ = false;
  bool is_ordered_ = false;       // the copying stream waits for the commits
  std::deque<cudaEvent_t> ends_;  // of boundaries that are not done; null without copies
  int64_t num_done_ = 0;
};

}  // namespace

Result<std::unique_ptr<ExpertCopies>> make_device_copies(Stream& stream, dist::Communicator& group,
                                                         const StagingShape& shape) {
  auto copies = std::make_unique<DeviceCopies>(stream, shape);
  RETURN_IF_ERROR(copies->start(group));
  return std::unique_ptr<ExpertCopies>(std::move(copies));
}

}  // namespace wideep::moe
