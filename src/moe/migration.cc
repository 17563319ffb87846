#include "moe/migration.h"

#include <algorithm>
#include <utility>

namespace wideep::moe {
namespace {

constexpr int kTag = 0x5107;  // of messages that carry an expert

}  // namespace

Migration::Migration(MigrationOptions options)
    : options_(std::move(options)),
      rank_(options_.group->rank()),
      num_staged_(static_cast<size_t>(options_.shape.num_ranks)) {
  CHECK_EQ(options_.group->size(), options_.shape.num_ranks);
  CHECK(options_.max_rounds_per_iter >= 1);
}

Result<Migration> Migration::create(MigrationOptions options) {
  Migration migration(std::move(options));
  const MigrationOptions& made = migration.options_;
  const SlotBytes& first = made.slots.front().front();
  for (const auto& layer : made.slots) {
    CHECK_EQ(std::ssize(layer), made.shape.slots_per_rank());
    for (const SlotBytes& slot : layer) {
      CHECK(slot.gate_up.size() == first.gate_up.size() && slot.down.size() == first.down.size());
    }
  }
  ASSIGN_OR_RETURN(migration.staging_,
                   Buffer::allocate(first.size() * made.shape.slots_per_rank()));
  std::byte* place = migration.staging_.data();
  for (int i = 0; i < made.shape.slots_per_rank(); ++i) {
    SlotBytes slot;
    slot.gate_up = {place, first.gate_up.size()};
    slot.down = {place + first.gate_up.size(), first.down.size()};
    migration.free_staging_.push_back(slot);
    place += first.size();
  }
  return migration;
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

Result<std::vector<LayerPlacement>> Migration::finish() {
  work_ = {};
  for (const Arrival& arrival : arrivals_) {
    RETURN_IF_ERROR(receive_expert(*options_.group, arrival.place, arrival.source_rank, kTag));
  }
  arrivals_.clear();
  std::vector<LayerPlacement> committed;
  while (!updates_.empty() && is_complete(updates_.front())) {
    commit(updates_.front());
    committed.push_back(std::move(updates_.front().placement));
    updates_.pop_front();
    ++work_.commits;
  }
  return committed;
}

void Migration::commit(const Update& update) {
  const int layer = update.placement.layer_index;
  for (const Staged& staged : update.staged) {
    copy_expert(staged.place, options_.slots[layer][staged.local_slot]);
    free_staging_.push_back(staged.place);
  }
  for (const eplb::Move& move : update.moves.moves)
    --num_staged_[options_.shape.rank_of(move.slot)];
}

bool Migration::fits(const Update& update) const {
  std::vector<int> staged = num_staged_;
  for (const eplb::Move& move : update.moves.moves) {
    if (move.round != update.next_round) continue;
    if (++staged[options_.shape.rank_of(move.slot)] > options_.shape.slots_per_rank()) return false;
  }
  return true;
}

Status Migration::issue() {
  int rounds = 0;
  for (size_t u = 0; u < updates_.size(); ++u) {
    Update& update = updates_[u];
    const bool builds_upon_earlier = std::any_of(
        updates_.begin(), updates_.begin() + static_cast<int64_t>(u), [&](const Update& earlier) {
          return earlier.placement.layer_index == update.placement.layer_index;
        });
    if (builds_upon_earlier) return Status::ok();
    while (!is_complete(update)) {
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
  return Status::ok();
}

SlotBytes Migration::take_staging() {
  CHECK(!free_staging_.empty());
  const SlotBytes place = free_staging_.back();
  free_staging_.pop_back();
  return place;
}

Status Migration::issue_move(Update& update, const eplb::Move& move) {
  const eplb::Shape& shape = options_.shape;
  const int layer = update.placement.layer_index;
  const int target = shape.rank_of(move.slot), source = shape.rank_of(move.source_slot);
  ++num_staged_[target];
  if (source != target) {
    ++work_.transfers;
    work_.bytes += options_.slots.front().front().size();
  }
  const bool from_peer = source != target && options_.source == nullptr;
  if (source == rank_ && from_peer) {
    const SlotBytes& slot = options_.slots[layer][move.source_slot % shape.slots_per_rank()];
    RETURN_IF_ERROR(send_expert(*options_.group, slot, target, kTag));
  }
  if (target != rank_) return Status::ok();
  const SlotBytes place = take_staging();
  update.staged.push_back({move.slot % shape.slots_per_rank(), place});
  if (from_peer) {
    arrivals_.push_back({source, place});
  } else if (source == target) {
    copy_expert(options_.slots[layer][move.source_slot % shape.slots_per_rank()], place);
  } else {
    copy_expert(options_.source->expert(layer, move.expert), place);
  }
  return Status::ok();
}

}  // namespace wideep::moe
