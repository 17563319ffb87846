// An iteration's copies end with an event on the copying stream. Sends wait on the GPU for the
// commits before them, which may write the slots that they read; nothing waits on the host.
//
// Copies are given times rather than small pieces: beside one, a dispatch of 4,096 tokens takes
// twice as long, and pieces small enough to share the links well leave them idle between two
// (docs/performance.md).
#include <cuda_runtime_api.h>

#include <deque>
#include <utility>

#include "alltoall/symmetric_memory.h"
#include "base/cuda.h"
#include "kernels/transfer.h"
#include "moe/expert_copies.h"

namespace wideep::moe {
namespace {

class DeviceCopies : public ExpertCopies {
 public:
  DeviceCopies(Stream& stream, const StagingShape& shape) : model_stream_(stream), shape_(shape) {}
  ~DeviceCopies() override {
    if (copy_stream_ != nullptr) {
      cudaStreamSynchronize(copy_stream_);
      cudaStreamDestroy(copy_stream_);
    }
    if (reached_ != nullptr) cudaEventDestroy(reached_);
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
    RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&reached_, cudaEventDisableTiming));
    return Status::ok();
  }

  Status begin_boundary() override {
    RETURN_IF_ERROR(end_iteration());  // of an iteration that was given up
    is_open_ = true;
    has_copies_ = false;
    was_idle_ = false;
    return Status::ok();
  }

  Status send(const SlotBytes& from, int target, int place) override {
    has_copies_ = true;
    pending_.push_back({from, target, place});
    return Status::ok();
  }
  // The source's part says when it is there.
  Status receive(int, int) override { return Status::ok(); }

  Status commit(int place, const SlotBytes& slot) override {
    CHECK(pending_.empty());
    has_copies_ = true;
    const std::byte* const from = staging_->self() + offset(place);
    kernels::copy_pair(model_stream_, {{from, slot.gate_up.size()}, slot.gate_up.data()},
                       {{from + shape_.gate_up_bytes, slot.down.size()}, slot.down.data()});
    return model_stream_.status();
  }

  Status end_boundary() override { return has_copies_ ? follow_model() : Status::ok(); }

  Status links_are_idle() override {
    if (pending_.empty()) return Status::ok();
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    RETURN_IF_CUDA_ERROR(cudaStreamIsCapturing(stream_of(model_stream_), &capture));
    if (capture != cudaStreamCaptureStatusNone) return Status::ok();
    was_idle_ = true;
    RETURN_IF_ERROR(follow_model());
    return send_next();
  }

  Status end_iteration() override {
    if (!is_open_) return Status::ok();
    is_open_ = false;
    if (was_idle_ && !pending_.empty()) RETURN_IF_ERROR(follow_model());
    while (!pending_.empty()) RETURN_IF_ERROR(send_next());
    ends_.push_back(nullptr);
    if (!has_copies_) return Status::ok();
    RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&ends_.back(), cudaEventDisableTiming));
    RETURN_IF_CUDA_ERROR(cudaEventRecord(ends_.back(), copy_stream_));
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
  struct Pending {
    SlotBytes from;
    int target;
    int place;
  };

  int64_t offset(int place) const { return place * shape_.expert_bytes(); }

  // What is copied from now on comes after what is on the model's stream now.
  Status follow_model() {
    RETURN_IF_CUDA_ERROR(cudaEventRecord(reached_, stream_of(model_stream_)));
    RETURN_IF_CUDA_ERROR(cudaStreamWaitEvent(copy_stream_, reached_, 0));
    return Status::ok();
  }

  Status send_next() {
    const Pending next = pending_.front();
    pending_.pop_front();
    std::byte* const to = staging_->peers()[static_cast<size_t>(next.target)] + offset(next.place);
    RETURN_IF_ERROR(copy(next.from.gate_up, to));
    return copy(next.from.down, to + shape_.gate_up_bytes);
  }

  Status copy(std::span<const std::byte> from, std::byte* to) {
    RETURN_IF_CUDA_ERROR(
        cudaMemcpyAsync(to, from.data(), from.size(), cudaMemcpyDeviceToDevice, copy_stream_));
    return Status::ok();
  }

  Stream& model_stream_;
  const StagingShape shape_;
  std::unique_ptr<alltoall::SymmetricMemory> staging_;
  cudaStream_t copy_stream_ = nullptr;
  cudaEvent_t reached_ = nullptr;
  // Of the current iteration:
  bool is_open_ = false;
  bool has_copies_ = false;
  bool was_idle_ = false;         // at least once
  std::deque<Pending> pending_;   // sent, and not on its way
  std::deque<cudaEvent_t> ends_;  // of iterations that are not done; null without copies
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
