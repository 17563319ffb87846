// What rank 0 tells the ranks of its replica between two iterations, and what they tell it: plain
// bytes for a broadcast and a gather.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/status.h"
#include "engine/scheduler.h"

namespace wideep::engine {

// A new sequence and the scheduler that it goes to: the attention-DP rank, else 0.
struct Assignment {
  int scheduler = 0;
  SequenceSpec sequence;
};

struct Orders {
  std::vector<Assignment> sequences;
  std::vector<RequestId> cancels;
  bool shutdown = false;

  bool empty() const { return sequences.empty() && cancels.empty() && !shutdown; }
};

// The bytes are for processes of one program on machines of one kind: no versions, no byte order.
std::vector<std::byte> encode(const Orders& orders);
std::vector<std::byte> encode(std::span<const TokenOutput> outputs);
// kUnavailable where the bytes end early or too late.
Result<Orders> decode_orders(std::span<const std::byte> bytes);
Result<std::vector<TokenOutput>> decode_outputs(std::span<const std::byte> bytes);

}  // namespace wideep::engine
