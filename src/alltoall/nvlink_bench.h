// Times an all-to-all on GPUs: calls in a captured graph, one behind the other, as a model makes
// them. The first calls of a graph bring the ranks together and are not timed; the time of a call
// is the rest's mean, and of the ranks' times the largest counts.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "alltoall/alltoall.h"
#include "base/buffer.h"
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

// A batch of one rank.
struct BenchCase {
  int num_tokens = 0;  // no rank has more than most_tokens
  int64_t most_tokens = 0;
  std::vector<int32_t> slots;  // [num_tokens, top_k]
  int calls = 20;              // timed in one graph
  int replays = 40;
};

// [size, size] tokens of each rank that go to each, once whatever the number of their slots there.
// Collective; the same on all ranks.
Result<std::vector<int64_t>> rows_between(dist::Communicator& group, const GroupShape& shape,
                                          const BenchCase& bench);

// Rows of the busiest rank and direction.
struct Traffic {
  int64_t link_rows = 0;  // over its links: not its own
  int64_t all_rows = 0;   // its own too, as others count
};
Traffic busiest(const std::vector<int64_t>& rows, int size);

struct BenchResult {
  CallTime dispatch;
  CallTime combine;
  CallTime pair;  // a dispatch and its combine
};

// A rank's rows on its device, for all batches of at most `tokens`.
struct BenchRows {
  Buffer x;  // [tokens, hidden_size] BF16, random
  Buffer y;  // the same, for results

  static Result<BenchRows> create(int rank, int64_t tokens, int hidden_size);
};

// Collective; the stream is a CUDA stream of this rank's device, the group of `shape`, which has
// BF16 or FP8 rows. The same result on all ranks.
Result<BenchResult> bench_all_to_all(dist::Communicator& group, Stream& stream,
                                     AllToAll& all_to_all, const GroupShape& shape,
                                     const BenchRows& rows, const BenchCase& bench);

// Collective: times body(), which puts a call on the stream; the same result on all ranks.
Result<CallTime> time_calls(dist::Communicator& group, Stream& stream, int calls, int replays,
                            const std::function<Status()>& body);

// Slots for a rank's tokens: top_k different ones of each token, drawn by the slots' weights
// [num_slots] (of positive ones, at least top_k); without weights all alike.
std::vector<int32_t> draw_slots(uint64_t seed, int rank, int tokens, int num_slots, int top_k,
                                std::span<const double> weights = {});

}  // namespace wideep::alltoall
