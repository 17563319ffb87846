#include "dist/tensor_group.h"

#include <vector>

#include "base/check.h"
#ifdef WIDEEP_CUDA
#include "dist/cuda_tensor_group.h"
#endif

namespace wideep::dist {
namespace {

constexpr int kTag = 0;

std::span<float> floats_of(MatrixView view) {
  CHECK(view.dtype == DType::kF32);
  const std::span<std::byte> bytes = writable_bytes_of(view);
  return {reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float)};
}

// On the CPU: kF32 only, since its activations are.
class HostTensorGroup : public TensorGroup {
 public:
  explicit HostTensorGroup(Communicator& group) : TensorGroup(group) {}

  bool is_capturable() const override { return false; }
  Status all_reduce_sum(MatrixView data) override { return group_.all_reduce_sum(floats_of(data)); }
  Status all_gather_v(std::span<const std::byte> in, std::span<const int64_t> counts,
                      std::span<std::byte> out) override {
    return group_.all_gather_v(in, counts, out);
  }
  Status reduce_scatter_rows(ConstMatrixView in, std::span<const int64_t> rows,
                             MatrixView out) override {
    CHECK(in.dtype == DType::kF32 && in.stride == in.columns);
    std::vector<int64_t> counts;
    for (const int64_t count : rows) counts.push_back(count * in.columns);
    return group_.reduce_scatter_v({in.row<float>(0), static_cast<size_t>(in.rows * in.columns)},
                                   counts, floats_of(out));
  }
  Status all_to_all_v(std::span<const std::byte> in, std::span<const int64_t> send_counts,
                      std::span<std::byte> out, std::span<const int64_t> recv_counts) override {
    return group_.all_to_all_v(in, send_counts, out, recv_counts);
  }
  Status send(std::span<const std::byte> data, int peer) override {
    return group_.send(data, peer, kTag);
  }
  Status recv(std::span<std::byte> data, int peer) override {
    return group_.recv(data, peer, kTag);
  }
};

}  // namespace

std::span<const std::byte> bytes_of(ConstMatrixView view) {
  CHECK(view.stride == view.columns || view.rows <= 1);
  return {view.data, static_cast<size_t>(view.rows * view.columns * dtype_size(view.dtype))};
}

std::span<std::byte> writable_bytes_of(MatrixView view) {
  CHECK(view.stride == view.columns || view.rows <= 1);
  return {view.data, static_cast<size_t>(view.rows * view.columns * dtype_size(view.dtype))};
}

Result<std::unique_ptr<TensorGroup>> TensorGroup::create(Communicator& group, Stream& stream) {
#ifdef WIDEEP_CUDA
  if (stream.is_cuda()) return create_cuda_tensor_group(group, stream);
#endif
  CHECK(!stream.is_cuda());
  return std::unique_ptr<TensorGroup>(std::make_unique<HostTensorGroup>(group));
}

}  // namespace wideep::dist
