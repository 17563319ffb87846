// Batches for tests of the NVLink transport, and what must come out of them, worked out directly
// from what alltoall.h promises.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "alltoall/nvlink_group.h"
#include "base/random.h"
#include "dist/launch_together.h"

namespace wideep::alltoall {

// The tokens of all ranks. Rows are what dispatch takes: BF16, or bytes.
struct NvlinkBatch {
  GroupShape shape;
  std::vector<int> num_tokens;                  // [ranks]
  int64_t most_tokens = 0;                      // of the routing; decides the regime
  std::vector<std::vector<std::byte>> rows;     // [ranks][num_tokens, row bytes of the input]
  std::vector<std::vector<float>> scales;       // [ranks][num_tokens, scale columns] kFp8Given
  std::vector<std::vector<int32_t>> slots;      // [ranks][num_tokens, top_k]
  std::vector<std::vector<float>> weights;      // [ranks][num_tokens, top_k]
  std::vector<std::vector<uint16_t>> residual;  // [ranks][num_tokens, hidden_size] BF16
  std::vector<uint8_t> active;                  // [ranks]

  int num_ranks() const { return static_cast<int>(num_tokens.size()); }
  int64_t input_bytes() const;  // of a row
  std::string describe() const;
};

NvlinkBatch make_nvlink_batch(Random& random, const GroupShape& shape, std::vector<int> num_tokens);
// Random sizes and routing (some -1, some twice) for `ranks` ranks; max_tokens_of_rank is `most`.
NvlinkBatch random_nvlink_batch(Random& random, int ranks, int most);
// Other routing of the same sizes.
void reroute(Random& random, NvlinkBatch& batch);

// Memory of one rank for a batch, taken before anything runs: ranks that share a GPU must not wait
// for it while a kernel waits for them.
class NvlinkBuffers {
 public:
  static Result<NvlinkBuffers> allocate(const NvlinkBatch& batch, int rank);
  // Copies a batch of the same sizes to the device.
  Status upload(const NvlinkBatch& batch, int rank, cudaStream_t stream);

  Routing routing(const NvlinkBatch& batch, int rank) const;
  NvlinkDispatch dispatch(const NvlinkBatch& batch, int rank) const;
  MatrixView y(const NvlinkBatch& batch, int rank) const;
  ConstMatrixView residual(const NvlinkBatch& batch, int rank) const;

 private:
  Buffer rows_;
  Buffer scales_;
  Buffer slots_;
  Buffer weights_;
  Buffer residual_;
  Buffer y_;
};

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

int device_count();
// Multiprocessors of a rank, so that the kernels of all ranks fit on the GPUs at once.
int sms_for(int num_ranks);

}  // namespace wideep::alltoall
