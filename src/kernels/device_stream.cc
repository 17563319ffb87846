#include "kernels/device_stream.h"

#include <fmt/format.h>

#include <utility>

#include "base/device.h"

#ifdef WIDEEP_CUDA
#include "base/cuda.h"
#include "kernels/op_context.h"
#include "kernels/side_stream.h"
#endif

namespace wideep::kernels {

#ifdef WIDEEP_CUDA

namespace {

class CudaDeviceStream : public DeviceStream {
 public:
  CudaDeviceStream(ThreadPool& pool, Uuid uuid, CudaStream handle,
                   std::unique_ptr<OpContext> context, std::unique_ptr<SideStream> side)
      : uuid_(uuid),
        handle_(std::move(handle)),
        context_(std::move(context)),
        side_(std::move(side)),
        stream_(Stream::of_cuda(pool, handle_.get(), context_.get())) {
    context_->set_side(side_.get());
  }
  ~CudaDeviceStream() override { cudaStreamSynchronize(handle_.get()); }

  Stream& stream() override { return stream_; }
  Uuid uuid() const override { return uuid_; }
  Result<int64_t> free_bytes() const override {
    size_t free = 0;
    size_t total = 0;
    RETURN_IF_CUDA_ERROR(cudaMemGetInfo(&free, &total));
    return static_cast<int64_t>(free);
  }

 private:
  Uuid uuid_;
  CudaStream handle_;
  std::unique_ptr<OpContext> context_;
  std::unique_ptr<SideStream> side_;
  Stream stream_;
};

}  // namespace

Result<std::unique_ptr<DeviceStream>> DeviceStream::open(ThreadPool& pool, int device) {
  RETURN_IF_CUDA_ERROR(cudaSetDevice(device));
  ASSIGN_OR_RETURN(CudaStream handle, CudaStream::create());
  ASSIGN_OR_RETURN(std::unique_ptr<OpContext> context, OpContext::create());
  ASSIGN_OR_RETURN(std::unique_ptr<SideStream> side, SideStream::create(pool));
  ASSIGN_OR_RETURN(const GpuUuid uuid, current_gpu_uuid());
  return std::unique_ptr<DeviceStream>(std::make_unique<CudaDeviceStream>(
      pool, uuid, std::move(handle), std::move(context), std::move(side)));
}

#else

Result<std::unique_ptr<DeviceStream>> DeviceStream::open(ThreadPool&, int device) {
  return Status::unavailable(fmt::format("GPU {}: {}", device, device_report().problem));
}

#endif

}  // namespace wideep::kernels
