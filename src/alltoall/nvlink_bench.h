// Times an all-to-all on GPUs: calls in a captured graph, one behind the other, as a model makes
// them. The first calls of a graph bring the ranks together and are not timed; the time of a call
// is the rest's mean, and of the ranks' times the largest counts.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "alltoall/alltoall.h"
#include "base/status.h"
#include "base/stream.h"
#include "dist/communicator.h"

namespace wideep::alltoall {

// Microseconds of one call, over the replays of its graph; the slowest rank of each.
struct CallTime {
  double median = 0;
  double p99 = 0;
  double fastest_rank = 0;  // the same median of the fastest rank
};

struct BenchCase {
  GroupShape shape;
  int num_tokens = 0;  // of this rank; no rank has more than most_tokens
  int64_t most_tokens = 0;
  std::vector<int32_t> slots;  // [num_tokens, top_k]
  int calls = 20;              // timed in one graph
  int replays = 40;
};

struct BenchResult {
  CallTime dispatch;
  CallTime combine;
  CallTime pair;  // a dispatch and its combine
  // Bytes of rows and scales over the links of the busiest rank and direction.
  int64_t dispatch_bytes = 0;
  int64_t combine_bytes = 0;
  int64_t local_bytes = 0;  // rows and scales written to slots, busiest rank
};

// Collective; the stream is a CUDA stream of this rank's device. The same result on all ranks.
Result<BenchResult> bench_all_to_all(dist::Communicator& group, Stream& stream,
                                     const BenchCase& bench);

// The same on `num_ranks` threads, spread over the GPUs of this machine.
Result<BenchResult> bench_on_local_ranks(int num_ranks,
                                         const std::function<BenchCase(int rank)>& make_case);

// Collective: times body(), which puts a call on the stream; the same result on all ranks.
Result<CallTime> time_calls(dist::Communicator& group, Stream& stream, int calls, int replays,
                            const std::function<Status()>& body);

// Slots for a rank's tokens: top_k different ones of each token, every slot alike.
std::vector<int32_t> uniform_slots(uint64_t seed, int rank, int tokens, const GroupShape& shape);

}  // namespace wideep::alltoall
