// TensorGroup on GPUs. Internal to dist; built with CUDA only.
#pragma once

#include <memory>

#include "dist/tensor_group.h"

namespace wideep::dist {

Result<std::unique_ptr<TensorGroup>> create_cuda_tensor_group(Communicator& group, Stream& stream);

// Every rank has a GPU of its own. Only in builds with NCCL.
Result<std::unique_ptr<TensorGroup>> create_nccl_tensor_group(Communicator& group, Stream& stream);

}  // namespace wideep::dist
