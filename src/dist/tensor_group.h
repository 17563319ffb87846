// Collectives over tensors, in order with the ops of a stream: what layers of a model use. On the
// CPU they are the Communicator's. On GPUs they go through NCCL where every rank of the group has a
// GPU of its own, else through the hosts' memory (several ranks on one GPU, for tests).
//
// All ranks of a group make the same calls in the same order. Matrices have adjacent rows. Sums of
// kF32 and kBF16 are in fp32 in the order of the ranks, but for NCCL's, which round partial sums to
// the matrix's type in an order of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/status.h"
#include "base/stream.h"
#include "base/tensor.h"
#include "dist/communicator.h"

namespace wideep::dist {

class TensorGroup {
 public:
  // Collective. Group and stream outlive the result.
  static Result<std::unique_ptr<TensorGroup>> create(Communicator& group, Stream& stream);
  virtual ~TensorGroup() = default;
  TensorGroup(const TensorGroup&) = delete;
  TensorGroup& operator=(const TensorGroup&) = delete;

  int rank() const { return group_.rank(); }
  int size() const { return group_.size(); }
  // Whether calls may be captured in a CUDA graph.
  virtual bool is_capturable() const = 0;

  // In place.
  virtual Status all_reduce_sum(MatrixView data) = 0;
  // Rank r gives counts[r] bytes; all ranks pass the same counts.
  virtual Status all_gather_v(std::span<const std::byte> in, std::span<const int64_t> counts,
                              std::span<std::byte> out) = 0;
  // Rank r gets the rows [rows[0] + ... + rows[r - 1], ... + rows[r]) of the sum of all `in`.
  virtual Status reduce_scatter_rows(ConstMatrixView in, std::span<const int64_t> rows,
                                     MatrixView out) = 0;
  virtual Status all_to_all_v(std::span<const std::byte> in, std::span<const int64_t> send_counts,
                              std::span<std::byte> out, std::span<const int64_t> recv_counts) = 0;
  // Of one size on both sides.
  virtual Status send(std::span<const std::byte> data, int peer) = 0;
  virtual Status recv(std::span<std::byte> data, int peer) = 0;

 protected:
  explicit TensorGroup(Communicator& group) : group_(group) {}

  Communicator& group_;
};

// The bytes of a matrix with adjacent rows.
std::span<const std::byte> bytes_of(ConstMatrixView view);
std::span<std::byte> writable_bytes_of(MatrixView view);

}  // namespace wideep::dist
