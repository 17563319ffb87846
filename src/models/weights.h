// Loading a rank's weights: what to read is planned first, then read and packed in parallel.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/share.h"
#include "base/status.h"
#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/linear.h"
#include "models/device_loader.h"
#include "models/weight_source.h"

namespace wideep::models {

// Owns packed weights, tables and vectors. add_*() plans one and returns where it will be: the
// place is filled by load() and stays as long as the store.
class WeightStore {
 public:
  // Of the host, or of the GPU that is current when it is loaded.
  explicit WeightStore(MemorySpace space = MemorySpace::kHost) : space_(space) {}
  WeightStore(const WeightStore&) = delete;
  WeightStore& operator=(const WeightStore&) = delete;

  // One weight of the rows of all parts, one below the other; the parts have the same columns.
  const kernels::PackedWeight& add_linear(std::vector<MatrixRequest> parts, DType dtype);
  // Weights of one shape, side by side: of heads, or of experts.
  const std::vector<kernels::PackedWeight>& add_linear_group(
      std::vector<std::vector<MatrixRequest>> members, DType dtype);
  // A table in row-major order, kF32 or kBF16.
  const ConstMatrixView& add_table(const MatrixRequest& request, DType dtype);
  // kF32.
  const std::span<const float>& add_vector(const VectorRequest& request);

  // Bytes of the source that load() will read.
  Result<int64_t> bytes_to_read(const WeightSource& source) const;

  // Reads and packs everything that was added, on the stream's pool. Called once. The first error
  // in the order of adding. For a GPU the stream is one of it, and everything is there when load()
  // returns.
  Status load(Stream& stream, WeightSource& source);

  int64_t bytes() const { return bytes_; }

  // The memory of a weight of this store, after load(): expert slots are written to when experts
  // move.
  std::span<std::byte> memory_of(const kernels::PackedWeight& weight) const;

 private:
  struct LinearGroup {
    std::vector<std::vector<MatrixRequest>> members;
    std::vector<kernels::PackedWeight> weights;
    int64_t offset = 0;  // of the first in memory_; the others follow
  };
  struct Table {
    MatrixRequest request;
    ConstMatrixView view;
    int64_t offset = 0;
  };
  struct Vector {
    VectorRequest request;
    std::span<const float> values;
    int64_t offset = 0;
  };
  using Job = std::function<Status(WeightSource&)>;

  int64_t weight_bytes(const kernels::PackedWeight& weight) const;
  int64_t reserve(int64_t bytes);
  void place();
  void add_jobs(const LinearGroup& group, int member, std::vector<Job>& jobs) const;
  std::vector<Job> jobs();
  void add_pieces(const WeightSource& source, const LinearGroup& group, int member,
                  std::vector<DevicePiece>& pieces) const;
  std::vector<DevicePiece> device_pieces(const WeightSource& source) const;

  const MemorySpace space_;
  // Deques, so that what add_*() returned stays where it is.
  std::deque<LinearGroup> linears_;
  std::deque<Table> tables_;
  std::deque<Vector> vectors_;
  int64_t bytes_ = 0;
  Buffer memory_;
};

}  // namespace wideep::models
