// Batches for tests of the all-to-all, and what must come out of them, worked out directly from
// what alltoall.h promises.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "alltoall/alltoall.h"
#include "base/random.h"

namespace wideep::alltoall {

// The tokens of all ranks.
struct BatchCase {
  GroupShape shape;
  std::vector<int> num_tokens;              // [ranks]
  std::vector<std::vector<float>> x;        // [ranks][num_tokens, hidden_size]
  std::vector<std::vector<int32_t>> slots;  // [ranks][num_tokens, top_k]
  std::vector<std::vector<float>> weights;  // [ranks][num_tokens, top_k]

  int num_ranks() const { return static_cast<int>(num_tokens.size()); }
  Routing routing(int rank) const { return {num_tokens[rank], slots[rank], weights[rank].data()}; }
  std::string describe() const;
};

// Random rows to random slots, some to none. max_tokens is set to what there is.
BatchCase make_batch(Random& random, const GroupShape& shape, std::vector<int> num_tokens);
// Also random sizes.
BatchCase random_batch(Random& random);

// plan, dispatch and combine of one rank, held against the reference: rows and y bit by bit. The
// slots' "experts" multiply by a number of their own. before_call(i) runs before the i-th call.
Status check_round_trip(
    const BatchCase& batch, const GroupShape& shape, Stream& stream, int rank, AllToAll& all_to_all,
    const std::function<void(int)>& before_call = [](int) {});

}  // namespace wideep::alltoall
