#include "dist/local_group.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "dist/local_ops.h"

namespace wideep::dist {

namespace {

// Work of fewer bytes is done by one rank: waking others to help costs more than it saves.
constexpr int64_t kSmallWorkBytes = 1 << 20;
// A piece of large work has about as many bytes, so that claims cost little.
constexpr int64_t kPieceBytes = 1 << 18;

}  // namespace

LocalGroup::LocalGroup(std::shared_ptr<LocalState> state, std::vector<int> world_ranks)
    : state_(std::move(state)),
      world_ranks_(std::move(world_ranks)),
      calls_(world_ranks_.size()),
      records_(world_ranks_.size()),
      parts_(world_ranks_.size()) {
  const std::lock_guard lock(state_->mutex_);
  id_ = state_->next_group_id_++;
  state_->groups_.push_back(this);
}

LocalGroup::~LocalGroup() {
  const std::lock_guard lock(state_->mutex_);
  std::erase(state_->groups_, this);
}

void LocalGroup::cancel() {
  // A collective that has started ends by itself; until then it uses the buffers of all ranks.
  if (arrived_ == 0 || launched_) return;
  const uint32_t epoch = epoch_.load(std::memory_order_relaxed);
  cancelled_epoch_.store(epoch, std::memory_order_relaxed);
  epoch_.store(epoch + 2, std::memory_order_release);
  epoch_.notify_all();
}

Status LocalGroup::collective(int rank, const Call& call) {
  uint32_t epoch = 0;
  bool is_last = false;
  {
    const std::lock_guard lock(state_->mutex_);
    if (state_->aborted_) return state_->aborted_status();
    epoch = epoch_.load(std::memory_order_relaxed);
    calls_[rank] = call;
    ++arrived_;
    is_last = arrived_ == size();
    if (is_last) {
      launched_ = true;
      for (int r = 0; r < size(); ++r) {
        if (r != rank) state_->wait_ends(world_ranks_[r]);
      }
    } else {
      state_->wait_begins(
          world_ranks_[rank],
          {.kind = LocalState::Wait::Kind::kCollective, .op = call.op, .group = this});
    }
  }
  return is_last ? launch(epoch) : await(epoch);
}

Status LocalGroup::judge() {
  for (int r = 0; r < size(); ++r) {
    records_[r] = {header_of(calls_[r]), calls_[r].counts, calls_[r].recv_counts};
  }
  RETURN_IF_ERROR(check_same_call(records_, world_ranks_));
  return check_sizes(records_, world_ranks_);
}

Status LocalGroup::launch(uint32_t epoch) {
  outcome_ = judge();
  if (!outcome_.is_ok()) {
    // What was refused must not be looked at: a root may not be in the group.
    finish(epoch);
    return outcome_;
  }
  const Work work = work_of(calls_);
  if (calls_[0].op == Op::kSplit) make_parts();
  if (work.bytes <= kSmallWorkBytes) {
    do_work(calls_, 0, work.units);
    finish(epoch);
    return outcome_;
  }
  const int64_t pieces = std::min(work.units, work.bytes / kPieceBytes);
  units_ = work.units;
  units_per_piece_ = (work.units + pieces - 1) / pieces;
  num_pieces_ = static_cast<int>((units_ + units_per_piece_ - 1) / units_per_piece_);
  next_piece_.store(0, std::memory_order_relaxed);
  pieces_left_.store(num_pieces_, std::memory_order_relaxed);
  epoch_.store(epoch + 1, std::memory_order_release);
  epoch_.notify_all();
  return await(epoch);
}

Status LocalGroup::await(uint32_t epoch) {
  epoch_.wait(epoch, std::memory_order_acquire);
  if (epoch_.load(std::memory_order_acquire) == epoch + 1) {
    help(epoch);
    epoch_.wait(epoch + 1, std::memory_order_acquire);
  }
  // Stays as it is until this rank has come to the next collective.
  if (cancelled_epoch_.load(std::memory_order_relaxed) != epoch) return outcome_;
  const std::lock_guard lock(state_->mutex_);
  return state_->aborted_status();
}

void LocalGroup::help(uint32_t epoch) {
  for (;;) {
    const int piece = next_piece_.fetch_add(1, std::memory_order_relaxed);
    if (piece >= num_pieces_) return;
    const int64_t begin = piece * units_per_piece_;
    do_work(calls_, begin, std::min(units_, begin + units_per_piece_));
    // Acquires the others' results, so that whoever sees the end sees all of them.
    if (pieces_left_.fetch_sub(1, std::memory_order_acq_rel) == 1) finish(epoch);
  }
}

void LocalGroup::finish(uint32_t epoch) {
  {
    const std::lock_guard lock(state_->mutex_);
    arrived_ = 0;
    launched_ = false;
  }
  epoch_.store(epoch + 2, std::memory_order_release);
  epoch_.notify_all();
}

void LocalGroup::make_parts() {
  for (int r = 0; r < size(); ++r) parts_[r] = {};
  for (int r = 0; r < size(); ++r) {
    const int color = records_[r].header.color;
    if (color < 0 || parts_[r].group != nullptr) continue;
    const std::vector<int> members = ranks_of_color(records_, color);
    std::vector<int> world_ranks;
    world_ranks.reserve(members.size());
    for (const int member : members) world_ranks.push_back(world_ranks_[member]);
    const auto group = std::make_shared<LocalGroup>(state_, std::move(world_ranks));
    for (size_t i = 0; i < members.size(); ++i) parts_[members[i]] = {group, static_cast<int>(i)};
  }
}

Status LocalCommunicator::do_send(std::span<const std::byte> data, int peer, int tag) {
  Message message{.group = group_->id(),
                  .source = rank_,
                  .tag = tag,
                  .data = std::make_unique_for_overwrite<std::byte[]>(data.size()),
                  .bytes = data.size()};
  if (!data.empty()) std::memcpy(message.data.get(), data.data(), data.size());
  return group_->state().post(group_->world_ranks()[peer], std::move(message));
}

Status LocalCommunicator::do_recv(std::span<std::byte> data, int peer, int tag) {
  const std::span<const int> world_ranks = group_->world_ranks();
  ASSIGN_OR_RETURN(
      const Message message,
      group_->state().take(world_ranks[rank_], world_ranks[peer], group_->id(), peer, tag));
  RETURN_IF_ERROR(
      check_message_size(world_ranks[rank_], data.size(), world_ranks[peer], message.bytes, tag));
  if (!data.empty()) std::memcpy(data.data(), message.data.get(), data.size());
  return {};
}

Result<bool> LocalCommunicator::try_recv(int peer, int tag) {
  return group_->state().try_take(group_->world_ranks()[rank_], group_->id(), peer, tag);
}

Result<std::unique_ptr<Communicator>> LocalCommunicator::do_split(int color, int key) {
  RETURN_IF_ERROR(group_->collective(rank_, {.op = Op::kSplit, .color = color, .key = key}));
  LocalGroup::Part part = group_->take_part(rank_);
  if (part.group == nullptr) return std::unique_ptr<Communicator>();
  return std::unique_ptr<Communicator>(
      std::make_unique<LocalCommunicator>(std::move(part.group), part.rank));
}

}  // namespace wideep::dist
