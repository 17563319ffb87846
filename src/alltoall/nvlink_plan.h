// What the NVLink transport works out on the host, from sizes that all ranks agree on: how much
// memory, which regime, how many blocks, and the words for an error of the device. No CUDA.
#pragma once

#include <cstdint>
#include <string>

#include "alltoall/alltoall.h"
#include "alltoall/nvlink_types.h"
#include "base/status.h"

namespace wideep::alltoall {

// The kernels' shape of a group's shape; kInvalidInput where they cannot serve it.
Result<Shape> make_kernel_shape(const GroupShape& shape, int num_ranks);

// Rows of the output that the largest batch may need on one rank, for kBySource and kBySlot all
// slots', for kBySlotMasked those of one slot.
int64_t output_rows(const GroupShape& shape, int num_ranks);

// Bytes of a row as it travels, without scales, and the scales of a row.
int64_t travel_bytes(const GroupShape& shape);
int scale_columns(const GroupShape& shape);

// Whether a batch of at most `tokens` a rank goes as lines.
bool is_small_batch(const Shape& shape, int64_t tokens);

struct Blocks {
  int dispatch = 1;
  int combine = 1;
  int push = 1;          // of dispatch's blocks, the first: those that send
  int combine_push = 1;  // the same of combine's
};
// Thread blocks for a batch of at most `tokens` a rank: of a large one each with a multiprocessor
// of its own, of a small one two on each. `limit`: of multiprocessors; 0: for a large batch num_sms
// less those that other communication needs, for a small one all. Two blocks at least.
Blocks choose_blocks(const Shape& shape, int64_t tokens, int num_sms, int limit);

// What a record says, for people. `world_ranks` numbers the ranks of the group.
Status status_of(const ErrorRecord& record, int rank, double timeout_seconds);

}  // namespace wideep::alltoall
