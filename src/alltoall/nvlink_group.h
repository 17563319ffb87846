// The all-to-all between GPUs that reach each other's memory (NVLink): an AllToAll whose pointers
// are the device's and whose calls are launches on a CUDA stream. Nothing waits on the host, so all
// of it can be captured in a graph and replayed with other routing in the same memory.
//
// A peer that does not come makes every rank of the group fail within its timeout instead of
// hanging: check() says who was waited for, and calls fail from then on, until the rank is masked
// with set_rank_active() or the group is made again. docs/alltoall.md has the protocol.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <vector>

#include "alltoall/alltoall.h"
#include "alltoall/nvlink_kernels.h"
#include "alltoall/nvlink_plan.h"
#include "alltoall/nvlink_types.h"
#include "alltoall/symmetric_memory.h"
#include "base/cuda.h"

namespace wideep::alltoall {

struct NvlinkDispatch {
  ConstMatrixView x;       // [num_tokens, hidden_size] in the format (kFp8: BF16)
  ConstMatrixView scales;  // kFp8Given: [num_tokens, hidden_size / 128] kF32, rows adjacent
};

struct NvlinkCombine {
  ConstMatrixView rows;      // [num_rows, hidden_size] BF16; null: Received::outputs
  ConstMatrixView residual;  // [num_tokens, hidden_size] BF16, added at the end; null: none
  MatrixView y;              // [num_tokens, hidden_size] BF16
};

class NvlinkGroup : public AllToAll {
 public:
  // Collective, with the rank's device current; the shape has been compared. `kind`: of the memory.
  static Result<std::unique_ptr<NvlinkGroup>> create(
      dist::Communicator& group, const GroupShape& shape,
      SymmetricMemory::Kind kind = SymmetricMemory::Kind::kAuto);
  ~NvlinkGroup() override;

  // Remembers the routing; dispatch() may be called more than once with it.
  Status plan(Stream& stream, const Routing& routing) override;
  std::span<const int32_t> rows_of_slots() const override { return {}; }
  Result<Received> dispatch(Stream& stream, ConstMatrixView x) override;
  Status combine(Stream& stream, MatrixView y) override;

  // The same with all that may be given.
  Result<Received> dispatch(Stream& stream, const NvlinkDispatch& in);
  Status combine(Stream& stream, const NvlinkCombine& in);

  // own: [shape.num_counts] of this rank, all: [ranks, num_counts], both on the device.
  Status gather_counts(Stream& stream, std::span<const int32_t> own, std::span<int32_t> all);

  // What the device reported so far; does not wait for it.
  Status check() const;

  // Leaves a rank out, or takes it in again: slots there count as -1, nothing is sent there or
  // expected from there. Collective over the ranks that are active afterwards, also after a
  // failure; waits for the stream. kAborted where one of them does not come.
  Status set_rank_active(Stream& stream, int rank, bool active);

  // Bytes on the device for a group of this shape: symmetric memory, and everything but a few
  // words for each thread block.
  static Result<int64_t> symmetric_bytes(const GroupShape& shape, int num_ranks);
  static Result<int64_t> device_bytes(const GroupShape& shape, int num_ranks);
  const Shape& kernel_shape() const { return view_.shape; }
  Blocks blocks(int64_t most_tokens) const;

 private:
  NvlinkGroup(const GroupShape& shape, int rank, int num_ranks);
  Status allocate(dist::Communicator& group, SymmetricMemory::Kind kind);
  Status allocate_scratch();
  Status allocate_outputs();
  Status check_view(const char* what, ConstMatrixView view, int64_t rows, DType dtype,
                    int64_t columns) const;
  int64_t most_tokens() const;
  Received received() const;
  DispatchArgs dispatch_args(const NvlinkDispatch& in) const;

  const GroupShape shape_;
  const int rank_;
  const int num_ranks_;
  int num_sms_ = 0;
  int max_blocks_ = 0;
  int64_t rows_capacity_ = 0;  // of all the output
  std::unique_ptr<SymmetricMemory> memory_;
  Buffer scratch_;
  Buffer error_;  // pinned, an ErrorRecord
  Buffer rows_;
  Buffer scales_;
  Buffer outputs_;
  Buffer counts_;
  GroupView view_;
  DispatchArgs outputs_view_;  // where a dispatch delivers; the rest is the call's
  std::vector<uint8_t> active_;
  uint32_t generation_ = 0;
  Routing routing_;
  bool planned_ = false;
  bool dispatched_ = false;
};

}  // namespace wideep::alltoall
