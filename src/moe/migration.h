// Moves experts between slots while the model runs: stage, then commit.
//
// Placements that were decided become moves, and moves are cut into rounds in which a rank sends at
// most one expert and receives at most one (eplb/moves.h). Every iteration issues some rounds:
// sources send, and the weights are on their way to staging memory while the model runs. When an
// update is complete it is committed: staging to slots, at the beginning of an iteration, the same
// on all ranks. Slots never change their address.
//
// All ranks have the same updates in the same order and so work out the same schedule alone, down
// to the places in everybody's staging memory. What they must agree on is how many iterations'
// copies are done on all of them: num_done() of each, of which the least is passed to finish().
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "dist/communicator.h"
#include "eplb/moves.h"
#include "eplb/types.h"
#include "moe/expert_copies.h"
#include "moe/slot_bytes.h"

namespace wideep::moe {

// Where experts can be read from, if not from the ranks that have them.
class ExpertSource {
 public:
  virtual ~ExpertSource() = default;
  virtual SlotBytes expert(int layer_index, int expert) const = 0;
};

// A new placement of a layer.
struct LayerPlacement {
  int layer_index = 0;
  std::vector<int> slots;       // [num_slots]
  std::vector<int64_t> quotas;  // [num_slots] or empty
};

struct MigrationOptions {
  eplb::Shape shape;
  dist::Communicator* group = nullptr;        // the EP group; outlives the migration
  std::vector<std::vector<SlotBytes>> slots;  // [layers][slots_per_rank] of this rank
  int max_rounds_per_iter = 1;
  const ExpertSource* source = nullptr;  // null: peers
  // With a place in staging memory for each slot of a rank; null: through the host's memory.
  std::unique_ptr<ExpertCopies> copies = nullptr;
};

// What staging takes of the memory that experts are in.
StagingShape staging_shape(const eplb::Shape& shape, const SlotBytes& expert);

// What an iteration did, over all ranks.
struct MigrationWork {
  int transfers = 0;  // experts sent from rank to rank, or read from the source
  int64_t bytes = 0;
  int commits = 0;  // layers
};

class Migration {
 public:
  // Staging memory for one layer's slots of a rank.
  static Result<Migration> create(MigrationOptions options);

  // Queues an update; all ranks in the same order. current: [num_slots] where the layer's experts
  // are now.
  void add(LayerPlacement placement, std::span<const int> current);

  // Iterations whose copies are done on this rank; ExpertCopies::kAll where that is all there were.
  int64_t num_done() { return options_.copies->num_done(); }

  // At the beginning of an iteration: takes what the ones before sent, and commits what is
  // complete, in the iterations before `agreed`: the least num_done() of all ranks. Returns the
  // placements that hold from now on.
  Result<std::vector<LayerPlacement>> finish(int64_t agreed = ExpertCopies::kAll);
  // Then: sends the next rounds.
  Status issue();
  // To be told of idle links and of the iteration's end.
  ExpertCopies& copies() { return *options_.copies; }

  bool is_idle() const { return updates_.empty(); }
  const MigrationWork& work() const { return work_; }  // of the last finish() and issue()

 private:
  struct Staged {
    int slot = 0;   // of all ranks
    int place = 0;  // in its rank's staging memory
  };
  struct Update {
    LayerPlacement placement;
    eplb::MovePlan moves;
    int next_round = -1;         // -1: copies within a rank, which every update begins with
    int64_t last_issue = -1;     // iteration of the last round
    std::vector<Staged> staged;  // of all ranks
  };
  // A place that a commit has read, and may be read still.
  struct Freed {
    int64_t iteration = 0;
    int rank = 0;
    int place = 0;
  };

  explicit Migration(MigrationOptions options);

  // Whether the next round of an update fits into every rank's staging memory.
  bool fits(const Update& update) const;
  Status issue_rounds();
  Status issue_round(Update& update);
  Status issue_move(Update& update, const eplb::Move& move);
  void release_places(int64_t agreed);
  Status commit(const Update& update);
  bool is_issued(const Update& update) const {
    return update.next_round >= update.moves.num_rounds;
  }

  MigrationOptions options_;
  int rank_;
  int64_t iteration_ = -1;
  std::vector<std::vector<int>> free_places_;  // [num_ranks]
  std::deque<Freed> freed_;                    // by iteration
  std::deque<Update> updates_;                 // oldest first; the first ones issued, maybe in part
  MigrationWork work_;
};

}  // namespace wideep::moe
