#include "kernels/side_stream.h"

#ifdef WIDEEP_CUDA
#include <utility>

#include "base/cuda.h"
#include "kernels/op_context.h"
#endif

namespace wideep::kernels {

#ifdef WIDEEP_CUDA

namespace {

class CudaSideStream : public SideStream {
 public:
  CudaSideStream(ThreadPool& pool, CudaStream handle, std::unique_ptr<OpContext> context)
      : handle_(std::move(handle)),
        context_(std::move(context)),
        stream_(Stream::of_cuda(pool, handle_.get(), context_.get())) {}
  ~CudaSideStream() override {
    cudaStreamSynchronize(handle_.get());
    for (cudaEvent_t event : {forked_, joined_}) {
      if (event != nullptr) cudaEventDestroy(event);
    }
  }

  Status create_events() {
    for (cudaEvent_t* event : {&forked_, &joined_}) {
      RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(event, cudaEventDisableTiming));
    }
    return Status::ok();
  }

  Stream& stream() override { return stream_; }

  void fork(Stream& main) override {
    is_forked_ = true;
    cudaEventRecord(forked_, stream_of(main));
    cudaStreamWaitEvent(handle_.get(), forked_);
    check_launch(main, "fork");
  }

  void join(Stream& main) override {
    if (!is_forked_) return;
    is_forked_ = false;
    cudaEventRecord(joined_, handle_.get());
    cudaStreamWaitEvent(stream_of(main), joined_);
    check_launch(main, "join");
    if (!stream_.status().is_ok()) main.fail(stream_.status());
  }

 private:
  CudaStream handle_;
  std::unique_ptr<OpContext> context_;
  Stream stream_;
  cudaEvent_t forked_ = nullptr;
  cudaEvent_t joined_ = nullptr;
  bool is_forked_ = false;
};

}  // namespace

Result<std::unique_ptr<SideStream>> SideStream::create(ThreadPool& pool) {
  ASSIGN_OR_RETURN(CudaStream handle, CudaStream::create());
  ASSIGN_OR_RETURN(std::unique_ptr<OpContext> context, OpContext::create());
  auto side = std::make_unique<CudaSideStream>(pool, std::move(handle), std::move(context));
  RETURN_IF_ERROR(side->create_events());
  return std::unique_ptr<SideStream>(std::move(side));
}

#else

Result<std::unique_ptr<SideStream>> SideStream::create(ThreadPool&) {
  return Status::unavailable("a side stream: this build has no CUDA");
}

#endif

}  // namespace wideep::kernels
