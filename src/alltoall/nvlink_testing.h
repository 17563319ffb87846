// What must come out of batches on the NVLink transport, worked out directly from what alltoall.h
// promises, and ranks to run them on.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "alltoall/nvlink_batch_testing.h"
#include "alltoall/nvlink_group.h"
#include "dist/launch_together.h"

namespace wideep::alltoall {

// Waits for the stream; an error of it, or of the group.
Status finish_stream(cudaStream_t stream, const NvlinkGroup& group);

// y of a combine whose "experts" passed BF16 rows on, without a residual.
Status check_identity(const NvlinkBatch& batch, int rank, std::span<const uint16_t> y);

// One rank of a test: its group, stream and the ranks' communicator.
struct NvlinkRank {
  dist::Communicator& ranks;
  Stream& stream;
  NvlinkGroup& group;
  // Kernels start when all ranks have come to them, and ranks go on when all have: what waits for
  // the whole GPU in between, as copies and launches do under compute-sanitizer, finds no kernel
  // that waits for a rank. For bodies that all ranks go through.
  bool in_step = false;

  int rank() const { return ranks.rank(); }
  cudaStream_t cuda() const { return stream_of(stream); }
  template <typename Launch>
  Status start(const Launch& launch) const {
    return in_step ? dist::launch_together(ranks, launch) : launch();
  }
};

// Runs body on `num_ranks` threads, spread over the GPUs, each with a stream and a group of
// `shape`.
Status run_nvlink_ranks(int num_ranks, const GroupShape& shape,
                        const std::function<Status(NvlinkRank&)>& body);

// Memory of a rank for a batch, filled; all ranks have theirs when it returns.
Result<NvlinkBuffers> make_buffers(const NvlinkBatch& batch, NvlinkRank& rank);
// Poisons what is received, dispatches, and holds rows, scales and counts against the reference,
// bit by bit; fills the outputs with what the slots' "experts" make of the rows.
Status check_dispatch(const NvlinkBatch& batch, NvlinkRank& rank, const NvlinkBuffers& buffers);
// Combines after check_dispatch; y bit by bit.
Status check_combine(const NvlinkBatch& batch, NvlinkRank& rank, const NvlinkBuffers& buffers);
// A dispatch and a combine, checked.
Status check_round(const NvlinkBatch& batch, NvlinkRank& rank, const NvlinkBuffers& buffers);
// Two rounds of a batch in step, the second over what the first left; all ranks have done when it
// returns.
Status check_rounds(const NvlinkBatch& batch, NvlinkRank rank);

}  // namespace wideep::alltoall
