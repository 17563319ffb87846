// NCCL's own collectives on the rows that an all-to-all would move, to compare with: from buffers
// that are packed already, without counts, layout or sums by slot.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "alltoall/nvlink_bench.h"
#include "base/status.h"
#include "base/stream.h"
#include "dist/communicator.h"

namespace wideep::alltoall {

struct CollectiveTimes {
  CallTime dispatch;
  CallTime combine;
};

class NcclBench {
 public:
  virtual ~NcclBench() = default;
  NcclBench(const NcclBench&) = delete;
  NcclBench& operator=(const NcclBench&) = delete;

  // Collective. Buffers for at most `most_rows` rows of `row_bytes` to each rank; kUnavailable
  // where this build has no NCCL.
  static Result<std::unique_ptr<NcclBench>> create(dist::Communicator& group, int64_t most_rows,
                                                   int64_t row_bytes);

  // Grouped sends and receives: rows[from * size + to] rows of dispatch_bytes go out, and as many
  // of combine_bytes come back. Own rows stay where they are.
  virtual Result<CollectiveTimes> time_all_to_all(Stream& stream, const BenchCase& bench,
                                                  const std::vector<int64_t>& rows,
                                                  int64_t dispatch_bytes,
                                                  int64_t combine_bytes) = 0;
  // All-gather of every rank's most_tokens rows, and a reduce-scatter of BF16 rows.
  virtual Result<CollectiveTimes> time_gather_scatter(Stream& stream, const BenchCase& bench,
                                                      int64_t dispatch_bytes,
                                                      int64_t combine_bytes) = 0;

  // Puts a sum of `elements` BF16 over all ranks on the stream.
  virtual Status all_reduce(Stream& stream, int64_t elements) = 0;

 protected:
  NcclBench() = default;
};

}  // namespace wideep::alltoall
