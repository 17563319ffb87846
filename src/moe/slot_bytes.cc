#include "moe/slot_bytes.h"

#include <cstring>

#include "base/check.h"

namespace wideep::moe {

void copy_expert(const SlotBytes& from, const SlotBytes& to) {
  CHECK(from.gate_up.size() == to.gate_up.size() && from.down.size() == to.down.size());
  std::memcpy(to.gate_up.data(), from.gate_up.data(), to.gate_up.size());
  std::memcpy(to.down.data(), from.down.data(), to.down.size());
}

Status send_expert(dist::Communicator& group, const SlotBytes& from, int peer, int tag) {
  RETURN_IF_ERROR(group.send(from.gate_up, peer, tag));
  return group.send(from.down, peer, tag);
}

Status receive_expert(dist::Communicator& group, const SlotBytes& to, int peer, int tag) {
  RETURN_IF_ERROR(group.recv(to.gate_up, peer, tag));
  return group.recv(to.down, peer, tag);
}

}  // namespace wideep::moe
