// Batches for tests of the NVLink transport, and their memory on GPUs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "alltoall/nvlink_group.h"
#include "base/buffer.h"
#include "base/random.h"

namespace wideep::alltoall {

// Whether dispatch takes rows of this format as BF16.
bool is_bf16(RowFormat format);

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

int device_count();
// Multiprocessors of a rank, so that the kernels of all ranks fit on the GPUs at once.
int sms_for(int num_ranks);

}  // namespace wideep::alltoall
