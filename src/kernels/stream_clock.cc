#include "kernels/stream_clock.h"

#include <chrono>

#ifdef WIDEEP_CUDA
#include "base/cuda.h"
#endif

namespace wideep::kernels {
namespace {

class HostClock : public StreamClock {
 public:
  void mark(Stream&, int label) override {
    marks_.push_back({label, std::chrono::steady_clock::now()});
  }

  Result<std::vector<Lap>> laps(Stream&) override {
    std::vector<Lap> laps;
    for (size_t i = 0; i + 1 < marks_.size(); ++i) {
      const std::chrono::duration<double, std::micro> us = marks_[i + 1].time - marks_[i].time;
      laps.push_back({marks_[i].label, us.count()});
    }
    marks_.clear();
    return laps;
  }

 private:
  struct Mark {
    int label;
    std::chrono::steady_clock::time_point time;
  };
  std::vector<Mark> marks_;
};

#ifdef WIDEEP_CUDA

class EventClock : public StreamClock {
 public:
  ~EventClock() override {
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
  }

  void mark(Stream& stream, int label) override {
    if (labels_.size() == events_.size()) {
      cudaEvent_t event = nullptr;
      const Status made = cuda_status("cudaEventCreate", cudaEventCreate(&event));
      if (!made.is_ok()) return stream.fail(made);
      events_.push_back(event);
    }
    const cudaError_t error = cudaEventRecord(events_[labels_.size()], stream_of(stream));
    if (error != cudaSuccess) return stream.fail(cuda_status("cudaEventRecord", error));
    labels_.push_back(label);
  }

  Result<std::vector<Lap>> laps(Stream& stream) override {
    const std::vector<int> labels = std::move(labels_);
    labels_.clear();
    RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_of(stream)));
    std::vector<Lap> laps;
    for (size_t i = 0; i + 1 < labels.size(); ++i) {
      float ms = 0;
      RETURN_IF_CUDA_ERROR(cudaEventElapsedTime(&ms, events_[i], events_[i + 1]));
      laps.push_back({labels[i], 1e3 * static_cast<double>(ms)});
    }
    return laps;
  }

 private:
  std::vector<cudaEvent_t> events_;  // those of labels_, and some for later marks
  std::vector<int> labels_;
};

#endif

}  // namespace

std::unique_ptr<StreamClock> StreamClock::create(const Stream& stream) {
#ifdef WIDEEP_CUDA
  if (stream.is_cuda()) return std::make_unique<EventClock>();
#endif
  CHECK(!stream.is_cuda());
  return std::make_unique<HostClock>();
}

}  // namespace wideep::kernels
