#include "kernels/op_context.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/cuda.h"
#include "kernels/adapters/blas.h"
#include "kernels/adapters/tensor_map.h"

namespace wideep {

Result<std::unique_ptr<OpContext>> OpContext::create(const OpContextOptions& options) {
  std::unique_ptr<OpContext> context(new OpContext());
  int device = 0;
  RETURN_IF_CUDA_ERROR(cudaGetDevice(&device));
  RETURN_IF_CUDA_ERROR(
      cudaDeviceGetAttribute(&context->num_sms_, cudaDevAttrMultiProcessorCount, device));
  ASSIGN_OR_RETURN(context->workspace_, device_buffer(options.workspace_bytes));
  ASSIGN_OR_RETURN(context->blas_, kernels::Blas::create());
  ASSIGN_OR_RETURN(context->tensor_maps_, kernels::TensorMapEncoder::create());
  return context;
}

// Marks on the stream: mark i + 1 is the end of op i.
struct OpContext::Profile {
  ~Profile() {
    for (cudaEvent_t mark : marks) cudaEventDestroy(mark);
  }
  Status mark(cudaStream_t stream) {
    cudaEvent_t event = nullptr;
    RETURN_IF_CUDA_ERROR(cudaEventCreate(&event));
    marks.push_back(event);
    RETURN_IF_CUDA_ERROR(cudaEventRecord(event, stream));
    return Status::ok();
  }

  std::vector<cudaEvent_t> marks;
  std::vector<std::string> ops;
};

OpContext::OpContext() = default;
OpContext::~OpContext() = default;

namespace {

// What the host needs to put a step's ops on the stream.
constexpr std::chrono::milliseconds kHeadStart{30};

void CUDART_CB sleep_on_stream(void*) {
  std::this_thread::sleep_for(kHeadStart);
}

}  // namespace

Status OpContext::begin_profile(Stream& stream) {
  const auto cuda = stream_of(stream);
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(cuda));
  RETURN_IF_CUDA_ERROR(cudaLaunchHostFunc(cuda, sleep_on_stream, nullptr));
  profile_ = std::make_unique<Profile>();
  return profile_->mark(cuda);
}

Result<std::vector<kernels::OpTime>> OpContext::end_profile(Stream& stream) {
  CHECK(profile_ != nullptr);
  const std::unique_ptr<Profile> profile = std::move(profile_);
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_of(stream)));
  std::vector<kernels::OpTime> times;
  for (size_t i = 0; i < profile->ops.size(); ++i) {
    float ms = 0;
    RETURN_IF_CUDA_ERROR(cudaEventElapsedTime(&ms, profile->marks[i], profile->marks[i + 1]));
    auto time = std::ranges::find(times, profile->ops[i], &kernels::OpTime::op);
    if (time == times.end()) time = times.insert(times.end(), {profile->ops[i], 0, 0});
    ++time->calls;
    time->us += 1e3 * ms;
  }
  return times;
}

namespace kernels {

void check_launch(Stream& stream, const char* op) {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) {
    OpContext::Profile* profile = stream.context().profile_.get();
    if (profile == nullptr) return;
    const Status marked = profile->mark(stream_of(stream));
    if (marked.is_ok()) {
      profile->ops.emplace_back(op);
    } else {
      stream.fail(marked);
    }
    return;
  }
  stream.fail(Status::unavailable(fmt::format("CUDA: {}: {}", op, cudaGetErrorString(error))));
}

}  // namespace kernels

}  // namespace wideep
