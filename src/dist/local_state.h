// What the rank threads of one run of a local world share: who waits for what, why the run is being
// ended, and the messages on their way. Internal to dist.
//
// One mutex guards it all; it is held for tens of nanoseconds a call, never while data moves.
// Waiting happens on atomics outside of it, so that a rank sleeps until its own wait is over.
//
// Because a waiting rank is only ever released by a running one, "all ranks that have not ended
// wait" means that nothing will happen any more; the run is then ended with the list of who waits
// for what.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "dist/call.h"

namespace wideep::dist {

class LocalGroup;

struct Message {
  int group = 0;
  int source = 0;  // rank in the group
  int tag = 0;
  std::unique_ptr<std::byte[]> data;
  size_t bytes = 0;

  bool matches(int of_group, int from, int with_tag) const {
    return group == of_group && source == from && tag == with_tag;
  }
};

class LocalState {
 public:
  explicit LocalState(int size);

  // Ends the run: all waits end with kAborted. The first cause stays, later ones are dropped.
  void abort(Status cause);

  // The body of this rank of the world has returned.
  void end(int rank);

  // The first cause given to abort; ok where there is none.
  Status cause();

  // Puts a copy of data into the mailbox of world rank `to`.
  Status post(int to, Message message);
  // Takes the first message that matches out of the mailbox of world rank `to`, and waits for it;
  // `peer` is the sender's world rank.
  Result<Message> take(int to, int peer, int group, int source, int tag);
  // The same without waiting: drops the message, where there is one.
  Result<bool> try_take(int to, int group, int source, int tag);

 private:
  friend class LocalGroup;

  // What a rank waits for, for the message where all of them do.
  struct Wait {
    enum class Kind { kNone, kCollective, kMessage, kEnded } kind = Kind::kNone;
    Op op = Op::kBarrier;
    const LocalGroup* group = nullptr;
    int peer = 0;
    int tag = 0;
  };

  struct Mailbox {
    std::vector<Message> messages;
    // What the owner waits for, in the fields but data.
    std::optional<Message> wanted;
    std::atomic<uint32_t> epoch{0};  // changes when the owner is to look again
  };

  // What follows needs mutex_.
  void abort_locked(Status cause);
  Status aborted_status() const;
  void wait_begins(int rank, const Wait& wait);
  void wait_ends(int rank);
  void check_for_standstill();
  static std::string describe(int rank, const Wait& wait);

  std::mutex mutex_;
  bool aborted_ = false;
  Status cause_;
  int num_waiting_ = 0;
  int num_ended_ = 0;
  int next_group_id_ = 0;
  std::vector<Wait> waits_;          // [size]
  std::deque<Mailbox> mailboxes_;    // [size]; a deque, since a Mailbox does not move
  std::vector<LocalGroup*> groups_;  // those that exist
};

}  // namespace wideep::dist
