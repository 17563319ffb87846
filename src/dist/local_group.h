// The ranks of a local world's group, and their collectives. Internal to dist.
//
// A collective is one rendezvous. Each rank leaves its call and sleeps; the last one to come has
// all calls before it, judges them, and does the work itself where it is small: the sleepers need
// only be woken once, and woken ranks find the result in their buffers. Large work is cut into
// pieces: the last one starts on them, the others wake and help, and whoever finishes the last
// piece ends the collective. On two cores with eight ranks this needs eight thread switches a
// collective, where barriers before and after would need sixteen or more.
//
// The word `epoch_`, on which ranks sleep, counts: e while calls arrive, e + 1 while pieces of
// large work can be claimed, e + 2 when the collective has ended.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "dist/call.h"
#include "dist/communicator.h"
#include "dist/local_state.h"

namespace wideep::dist {

class LocalGroup {
 public:
  // world_ranks: of this group's ranks, [size].
  LocalGroup(std::shared_ptr<LocalState> state, std::vector<int> world_ranks);
  ~LocalGroup();
  LocalGroup(const LocalGroup&) = delete;
  LocalGroup& operator=(const LocalGroup&) = delete;

  int id() const { return id_; }
  int size() const { return static_cast<int>(world_ranks_.size()); }
  std::span<const int> world_ranks() const { return world_ranks_; }
  LocalState& state() const { return *state_; }

  // The call of rank `rank`; returns when the collective has ended.
  Status collective(int rank, const Call& call);

  // What a split made of a rank; no group where its color was -1.
  struct Part {
    std::shared_ptr<LocalGroup> group;
    int rank = 0;
  };
  // To be called once by each rank after its split.
  Part take_part(int rank) { return std::move(parts_[rank]); }

 private:
  friend class LocalState;

  // Under the state's mutex: ends the wait of ranks whose collective has not started.
  void cancel();

  Status launch(uint32_t epoch);
  Status await(uint32_t epoch);
  void help(uint32_t epoch);
  void finish(uint32_t epoch);
  Status judge();
  void make_parts();

  const std::shared_ptr<LocalState> state_;  // shared: groups may outlive the run
  const std::vector<int> world_ranks_;
  int id_ = 0;

  // Under the state's mutex while calls arrive; then the launching rank's.
  std::vector<Call> calls_;          // [size]
  std::vector<CallRecord> records_;  // [size]
  int arrived_ = 0;
  bool launched_ = false;

  // Written by the launching rank before epoch_ changes, read by the others after.
  Status outcome_;
  std::vector<Part> parts_;  // [size]
  int64_t units_ = 0;
  int64_t units_per_piece_ = 1;
  int num_pieces_ = 0;
  std::atomic<int> next_piece_{0};
  std::atomic<int> pieces_left_{0};
  std::atomic<uint32_t> epoch_{0};
  // The epoch whose collective was given up because the run has ended; an odd one: none. There is
  // no collective after it.
  std::atomic<uint32_t> cancelled_epoch_{1};
};

// A rank's handle of its group.
class LocalCommunicator : public Communicator {
 public:
  LocalCommunicator(std::shared_ptr<LocalGroup> group, int rank)
      : group_(std::move(group)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }
  std::span<const int> world_ranks() const override { return group_->world_ranks(); }
  bool shares_memory() const override { return true; }

 private:
  Status collective(const Call& call) override { return group_->collective(rank_, call); }
  Status do_send(std::span<const std::byte> data, int peer, int tag) override;
  Status do_recv(std::span<std::byte> data, int peer, int tag) override;
  Result<bool> try_recv(int peer, int tag) override;
  Result<std::unique_ptr<Communicator>> do_split(int color, int key) override;

  const std::shared_ptr<LocalGroup> group_;  // shared by the group's ranks, which end in any order
  const int rank_;
};

}  // namespace wideep::dist
