#include "dist/tensor_group_testing.h"

#include <fmt/format.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "base/buffer.h"
#include "base/float_formats.h"
#include "base/random.h"
#include "dist/tensor_group.h"

#ifdef WIDEEP_CUDA
#include "base/cuda.h"
#endif

namespace wideep::dist {
namespace {

// Memory of the stream's device, written and read from the host.
class DeviceMatrix {
 public:
  DeviceMatrix(Stream& stream, int64_t rows, int64_t columns, DType dtype)
      : stream_(stream), rows_(rows), columns_(columns), dtype_(dtype) {
    const MemorySpace space = stream.is_cuda() ? MemorySpace::kDevice : MemorySpace::kHost;
    memory_ = Buffer::allocate(rows * columns * dtype_size(dtype), space).value();
  }

  MatrixView view() const { return {memory_.data(), dtype_, rows_, columns_, columns_}; }
  int64_t elements() const { return rows_ * columns_; }

  Status set(const std::vector<float>& values) {
    std::vector<uint16_t> narrow(values.size());
    const void* from = values.data();
    if (dtype_ == DType::kBF16) {
      float_to_bf16(values, narrow);
      from = narrow.data();
    }
    return copy(memory_.data(), from);
  }

  Result<std::vector<float>> get() const {
    std::vector<float> values(static_cast<size_t>(elements()));
    std::vector<uint16_t> narrow(values.size());
    const bool is_narrow = dtype_ == DType::kBF16;
    RETURN_IF_ERROR(
        copy(is_narrow ? static_cast<void*>(narrow.data()) : values.data(), memory_.data()));
    if (is_narrow) bf16_to_float(reinterpret_cast<const std::byte*>(narrow.data()), values);
    return values;
  }

 private:
  Status copy(void* to, const void* from) const {
    const auto bytes = static_cast<size_t>(memory_.size());
    if (bytes == 0) return Status::ok();
#ifdef WIDEEP_CUDA
    if (stream_.is_cuda()) {
      const auto cuda = stream_of(stream_);
      RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, cuda));
      RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(cuda));
      return Status::ok();
    }
#endif
    std::memcpy(to, from, bytes);
    return Status::ok();
  }

  Stream& stream_;
  int64_t rows_;
  int64_t columns_;
  DType dtype_;
  Buffer memory_;
};

// Element i of rank r's matrix.
float value_of(int rank, int64_t i) {
  return static_cast<float>((rank * 7 + i) % 13);
}

std::vector<float> values_of(int rank, int64_t begin, int64_t end) {
  std::vector<float> values;
  for (int64_t i = begin; i < end; ++i) values.push_back(value_of(rank, i));
  return values;
}

std::vector<float> sums_of(int ranks, int64_t begin, int64_t end) {
  std::vector<float> sums(static_cast<size_t>(end - begin));
  for (int rank = 0; rank < ranks; ++rank) {
    for (int64_t i = begin; i < end; ++i) sums[i - begin] += value_of(rank, i);
  }
  return sums;
}

Status expect_equal(const char* what, const DeviceMatrix& actual,
                    const std::vector<float>& expected) {
  ASSIGN_OR_RETURN(const std::vector<float> values, actual.get());
  if (values == expected) return Status::ok();
  return Status::unavailable(fmt::format("{}: wrong values", what));
}

struct Case {
  TensorGroup& group;
  Stream& stream;
  DType dtype;
  int64_t columns;
  std::vector<int64_t> rows;  // of each rank

  int64_t begin() const {
    return std::accumulate(rows.begin(), rows.begin() + group.rank(), int64_t{0}) * columns;
  }
  int64_t total() const { return std::accumulate(rows.begin(), rows.end(), int64_t{0}); }
  int64_t own() const { return rows[group.rank()]; }
  int64_t row_bytes() const { return columns * dtype_size(dtype); }
};

Status check_sums(const Case& c) {
  DeviceMatrix all(c.stream, c.total(), c.columns, c.dtype);
  RETURN_IF_ERROR(all.set(values_of(c.group.rank(), 0, all.elements())));
  DeviceMatrix own(c.stream, c.own(), c.columns, c.dtype);
  RETURN_IF_ERROR(c.group.reduce_scatter_rows(all.view(), c.rows, own.view()));
  const int64_t end = c.begin() + own.elements();
  RETURN_IF_ERROR(
      expect_equal("reduce_scatter_rows", own, sums_of(c.group.size(), c.begin(), end)));
  RETURN_IF_ERROR(c.group.all_reduce_sum(all.view()));
  return expect_equal("all_reduce_sum", all, sums_of(c.group.size(), 0, all.elements()));
}

Status check_gather(const Case& c) {
  DeviceMatrix own(c.stream, c.own(), c.columns, c.dtype);
  RETURN_IF_ERROR(own.set(values_of(c.group.rank(), 0, own.elements())));
  DeviceMatrix all(c.stream, c.total(), c.columns, c.dtype);
  std::vector<int64_t> bytes;
  std::vector<float> expected;
  for (int rank = 0; rank < c.group.size(); ++rank) {
    bytes.push_back(c.rows[rank] * c.row_bytes());
    const std::vector<float> part = values_of(rank, 0, c.rows[rank] * c.columns);
    expected.insert(expected.end(), part.begin(), part.end());
  }
  RETURN_IF_ERROR(c.group.all_gather_v(bytes_of(own.view()), bytes, writable_bytes_of(all.view())));
  return expect_equal("all_gather_v", all, expected);
}

// Every rank sends rank r its rows of all, and gets as many as it has from each.
Status check_exchange(const Case& c) {
  DeviceMatrix all(c.stream, c.total(), c.columns, c.dtype);
  RETURN_IF_ERROR(all.set(values_of(c.group.rank(), 0, all.elements())));
  DeviceMatrix received(c.stream, c.own() * c.group.size(), c.columns, c.dtype);
  std::vector<int64_t> sends;
  std::vector<float> expected;
  for (int rank = 0; rank < c.group.size(); ++rank) {
    sends.push_back(c.rows[rank] * c.row_bytes());
    const std::vector<float> part = values_of(rank, c.begin(), c.begin() + c.own() * c.columns);
    expected.insert(expected.end(), part.begin(), part.end());
  }
  const std::vector<int64_t> receives(static_cast<size_t>(c.group.size()), c.own() * c.row_bytes());
  RETURN_IF_ERROR(c.group.all_to_all_v(bytes_of(all.view()), sends,
                                       writable_bytes_of(received.view()), receives));
  return expect_equal("all_to_all_v", received, expected);
}

// From rank to rank, as stages of a pipeline do.
Status check_messages(const Case& c) {
  DeviceMatrix data(c.stream, 3, c.columns, c.dtype);
  const int rank = c.group.rank();
  if (rank > 0) {
    RETURN_IF_ERROR(c.group.recv(writable_bytes_of(data.view()), rank - 1));
    RETURN_IF_ERROR(expect_equal("recv", data, values_of(rank - 1, 0, data.elements())));
  }
  if (rank + 1 == c.group.size()) return Status::ok();
  RETURN_IF_ERROR(data.set(values_of(rank, 0, data.elements())));
  return c.group.send(bytes_of(data.view()), rank + 1);
}

}  // namespace

Status check_tensor_group(Communicator& group, Stream& stream, DType dtype, uint64_t seed) {
  ASSIGN_OR_RETURN(const auto tensors, TensorGroup::create(group, stream));
  Random random(seed);
  for (int repeat = 0; repeat < 4; ++repeat) {
    Case c = {*tensors, stream, dtype, 1 + static_cast<int64_t>(random.below(40)), {}};
    for (int rank = 0; rank < group.size(); ++rank) {
      c.rows.push_back(static_cast<int64_t>(random.below(9)));
    }
    RETURN_IF_ERROR(check_sums(c));
    RETURN_IF_ERROR(check_gather(c));
    RETURN_IF_ERROR(check_exchange(c));
    RETURN_IF_ERROR(check_messages(c));
  }
  return Status::ok();
}

}  // namespace wideep::dist
