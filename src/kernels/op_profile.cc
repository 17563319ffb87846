#include "kernels/op_profile.h"

#ifdef WIDEEP_CUDA
#include "kernels/op_context.h"
#endif

namespace wideep::kernels {

Status begin_profile(Stream& stream) {
#ifdef WIDEEP_CUDA
  if (stream.is_cuda()) return stream.context().begin_profile(stream);
#endif
  CHECK(!stream.is_cuda());
  return Status::unavailable("a profile of ops: needs a GPU (--device cuda)");
}

Result<std::vector<OpTime>> end_profile(Stream& stream) {
#ifdef WIDEEP_CUDA
  if (stream.is_cuda()) return stream.context().end_profile(stream);
#endif
  CHECK(!stream.is_cuda());
  return Status::unavailable("a profile of ops: needs a GPU (--device cuda)");
}

}  // namespace wideep::kernels
