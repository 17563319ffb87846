// Moves experts between slots while the model runs: stage, then commit.
//
// Placements that were decided become moves, and moves are cut into rounds in which a rank sends at
// most one expert and receives at most one (eplb/moves.h). Every iteration issues some rounds:
// sources send, the weights are on their way while the model runs, and the next iteration takes
// them into staging memory. When an update is complete it is committed: staging to slots, at the
// beginning of an iteration, the same on all ranks. Slots never change their address.
//
// All ranks have the same updates in the same order and so work out the same schedule alone.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "dist/communicator.h"
#include "eplb/moves.h"
#include "eplb/types.h"
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
};

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

  // At the beginning of an iteration: takes what the one before sent, and commits what is complete.
  // Returns the placements that hold from now on.
  Result<std::vector<LayerPlacement>> finish();
  // Then: sends the next rounds.
  Status issue();

  bool is_idle() const { return updates_.empty(); }
  const MigrationWork& work() const { return work_; }  // of the last finish() and issue()

 private:
  struct Staged {
    int local_slot = 0;
    SlotBytes place;  // in staging memory
  };
  struct Update {
    LayerPlacement placement;
    eplb::MovePlan moves;
    int next_round = -1;         // -1: copies within a rank, which every update begins with
    std::vector<Staged> staged;  // of this rank
  };
  struct Arrival {
    int source_rank = 0;
    SlotBytes place;
  };

  explicit Migration(MigrationOptions options);

  // Whether the next round of an update fits into every rank's staging memory.
  bool fits(const Update& update) const;
  Status issue_round(Update& update);
  Status issue_move(Update& update, const eplb::Move& move);
  SlotBytes take_staging();
  void commit(const Update& update);
  bool is_complete(const Update& update) const {
    return update.next_round >= update.moves.num_rounds;
  }

  MigrationOptions options_;
  int rank_;
  Buffer staging_;
  std::vector<SlotBytes> free_staging_;  // of this rank
  std::vector<int> num_staged_;          // [num_ranks]
  std::deque<Update> updates_;           // oldest first; the first ones issued, maybe in part
  std::vector<Arrival> arrivals_;        // sent in the iteration before
  MigrationWork work_;
};

}  // namespace wideep::moe
