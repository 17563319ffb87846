#include "moe/migration.h"

#include <algorithm>
#include <utility>

namespace wideep::moe {

StagingShape staging_shape(const eplb::Shape& shape, const SlotBytes& expert) {
  return {std::ssize(expert.gate_up), std::ssize(expert.down), shape.slots_per_rank()};
}

Migration::Migration(MigrationOptions options)
    : options_(std::move(options)), rank_(options_.group->rank()) {
  CHECK_EQ(options_.group->size(), options_.shape.num_ranks);
  CHECK(options_.max_rounds_per_iter >= 1);
  std::vector<int> places;
  for (int place = options_.shape.slots_per_rank() - 1; place >= 0; --place) {
    places.push_back(place);
  }
  free_places_.assign(static_cast<size_t>(options_.shape.num_ranks), places);
}

Result<Migration> Migration::create(MigrationOptions options) {
  const SlotBytes first = options.slots.front().front();
  for (const auto& layer : options.slots) {
    CHECK_EQ(std::ssize(layer), options.shape.slots_per_rank());
    for (const SlotBytes& slot : layer) {
      CHECK(slot.gate_up.size() == first.gate_up.size() && slot.down.size() == first.down.size());
    }
  }
  if (options.copies == nullptr) {
    ASSIGN_OR_RETURN(options.copies,
                     make_host_copies(*options.group, staging_shape(options.shape, first)));
  }
  return Migration(std::move(options));
}

void Migration::add(LayerPlacement placement, std::span<const int> current) {
  // An update builds upon the one before it of the same layer, which is committed first.
  std::span<const int> previous = current;
  for (const Update& update : updates_) {
    if (update.placement.layer_index == placement.layer_index) previous = update.placement.slots;
  }
  Update update;
  update.moves = eplb::plan_moves(options_.shape, previous, placement.slots);
  update.placement = std::move(placement);
  updates_.push_back(std::move(update));
}

Result<std::vector<LayerPlacement>> Migration::finish(int64_t agreed) {
  work_ = {};
  ++iteration_;
  RETURN_IF_ERROR(options_.copies->begin_boundary());
  release_places(agreed);
  std::vector<LayerPlacement> committed;
  while (!updates_.empty() && is_issued(updates_.front()) && updates_.front().last_issue < agreed) {
    RETURN_IF_ERROR(commit(updates_.front()));
    committed.push_back(std::move(updates_.front().placement));
    updates_.pop_front();
    ++work_.commits;
  }
  release_places(agreed);
  return committed;
}

void Migration::release_places(int64_t agreed) {
  while (!freed_.empty() && freed_.front().iteration < agreed) {
    free_places_[freed_.front().rank].push_back(freed_.front().place);
    freed_.pop_front();
  }
}

Status Migration::commit(const Update& update) {
  const eplb::Shape& shape = options_.shape;
  const int layer = update.placement.layer_index;
  for (const Staged& staged : update.staged) {
    const int rank = shape.rank_of(staged.slot);
    if (rank == rank_) {
      RETURN_IF_ERROR(options_.copies->commit(
          staged.place, options_.slots[layer][staged.slot % shape.slots_per_rank()]));
    }
    freed_.push_back({iteration_, rank, staged.place});
  }
  return Status::ok();
}

bool Migration::fits(const Update& update) const {
  std::vector<int> wanted(free_places_.size());
  for (const eplb::Move& move : update.moves.moves) {
    if (move.round != update.next_round) continue;
    const int rank = options_.shape.rank_of(move.slot);
    if (++wanted[rank] > std::ssize(free_places_[rank])) return false;
  }
  return true;
}

Status Migration::issue() {
  RETURN_IF_ERROR(issue_rounds());
  return options_.copies->end_boundary();
}

Status Migration::issue_rounds() {
  int rounds = 0;
  for (size_t u = 0; u < updates_.size(); ++u) {
    Update& update = updates_[u];
    const bool builds_upon_earlier = std::any_of(
        updates_.begin(), updates_.begin() + static_cast<int64_t>(u), [&](const Update& earlier) {
          return earlier.placement.layer_index == update.placement.layer_index;
        });
    if (builds_upon_earlier) return Status::ok();
    while (!is_issued(update)) {
      const bool is_local = update.next_round < 0;
      if (!fits(update) || (!is_local && rounds == options_.max_rounds_per_iter)) {
        return Status::ok();
      }
      RETURN_IF_ERROR(issue_round(update));
      rounds += is_local ? 0 : 1;
    }
  }
  return Status::ok();
}

Status Migration::issue_round(Update& update) {
  for (const eplb::Move& move : update.moves.moves) {
    if (move.round == update.next_round) RETURN_IF_ERROR(issue_move(update, move));
  }
  ++update.next_round;
  update.last_issue = iteration_;
  return Status::ok();
}

Status Migration::issue_move(Update& update, const eplb::Move& move) {
  const eplb::Shape& shape = options_.shape;
  const int layer = update.placement.layer_index;
  const int target = shape.rank_of(move.slot), source = shape.rank_of(move.source_slot);
  const int place = free_places_[target].back();
  free_places_[target].pop_back();
  update.staged.push_back({move.slot, place});
  if (source != target) {
    ++work_.transfers;
    work_.bytes += options_.slots.front().front().size();
  }
  if (source != target && options_.source != nullptr) {
    return target != rank_
               ? Status::ok()
               : options_.copies->send(options_.source->expert(layer, move.expert), target, place);
  }
  if (source == rank_) {
    const SlotBytes& slot = options_.slots[layer][move.source_slot % shape.slots_per_rank()];
    RETURN_IF_ERROR(options_.copies->send(slot, target, place));
  }
  return target == rank_ && source != rank_ ? options_.copies->receive(source, place)
                                            : Status::ok();
}

}  // namespace wideep::moe
