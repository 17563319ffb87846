// The weights of one expert as bytes: in a slot, in staging memory, or in the host's store.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "dist/communicator.h"

namespace wideep::moe {

struct SlotBytes {
  std::span<std::byte> gate_up;
  std::span<std::byte> down;

  int64_t size() const { return std::ssize(gate_up) + std::ssize(down); }
};

// Both of one size.
void copy_expert(const SlotBytes& from, const SlotBytes& to);

// Between two ranks of a group; see Communicator::send and recv.
Status send_expert(dist::Communicator& group, const SlotBytes& from, int peer, int tag);
Status receive_expert(dist::Communicator& group, const SlotBytes& to, int peer, int tag);

}  // namespace wideep::moe
