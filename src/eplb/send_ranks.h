// How many ranks a token is sent to: the size of the all-to-all is this times the tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "eplb/statistics.h"
#include "eplb/trace.h"
#include "eplb/types.h"

namespace wideep::eplb {

// Expected number of distinct ranks of a token, prepared once for a placement.
class SendRanks {
 public:
  // slots: [num_slots] expert of each slot; every expert must have one.
  SendRanks(const Shape& shape, std::span<const int> slots);

  // The sum over ranks of 1 - product over the rank's slots of (1 - 1 / n_e), for the slots of the
  // experts in `chosen` (-1: not routed), n_e being the replicas of the expert: each slot of an
  // expert is an independent chance, as in TensorRT-LLM's tool. Exact where no rank holds an expert
  // twice; a little low where one does. O(replicas of the chosen experts).
  double of_token(std::span<const int32_t> chosen);

 private:
  struct Chance {
    int rank = 0;
    double miss = 0;  // probability that no slot of the expert on this rank is taken
  };

  std::vector<int> starts_;      // [num_experts + 1] into chances_
  std::vector<Chance> chances_;  // by expert, then rank
  std::vector<double> miss_;     // [num_ranks] scratch: 1 between calls
  std::vector<int> touched_;     // scratch: ranks whose miss_ is not 1
};

// Means of a token over a layer.
struct SendRanksRow {
  int layer = 0;
  double ranks = 0;        // distinct ranks of a token; 0 where no token was routed
  int64_t num_tokens = 0;  // tokens that were routed to at least one expert
};

// Mean over all tokens of one layer, every rank and iteration in `records`. kInvalidInput for an id
// that the placement does not know.
Result<SendRanksRow> send_ranks_row(const std::vector<RawIds>& records, int layer,
                                    const Shape& shape, std::span<const int> slots);

// The same over one row of trace.layers(); trace.num_experts() must be shape.num_experts.
SendRanksRow send_ranks_row(const Trace& trace, int layer_index, const Shape& shape,
                            std::span<const int> slots);

// Unweighted mean of the layers; 0 for none.
double average_send_ranks(std::span<const SendRanksRow> rows);

}  // namespace wideep::eplb
