#include "dist/local_state.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "dist/local_group.h"

namespace wideep::dist {

LocalState::LocalState(int size) : waits_(size), mailboxes_(size) {}

void LocalState::abort(Status cause) {
  const std::lock_guard lock(mutex_);
  abort_locked(std::move(cause));
}

void LocalState::abort_locked(Status cause) {
  if (aborted_) return;
  aborted_ = true;
  cause_ = std::move(cause);
  for (LocalGroup* group : groups_) group->cancel();
  for (Mailbox& mailbox : mailboxes_) {
    mailbox.epoch.fetch_add(1, std::memory_order_release);
    mailbox.epoch.notify_one();
  }
}

Status LocalState::cause() {
  const std::lock_guard lock(mutex_);
  return cause_;
}

Status LocalState::aborted_status() const {
  return Status::aborted(fmt::format("the run was ended: {}", cause_.message()));
}

void LocalState::end(int rank) {
  const std::lock_guard lock(mutex_);
  waits_[rank] = {.kind = Wait::Kind::kEnded};
  ++num_ended_;
  check_for_standstill();
}

void LocalState::wait_begins(int rank, const Wait& wait) {
  waits_[rank] = wait;
  ++num_waiting_;
  check_for_standstill();
}

void LocalState::wait_ends(int rank) {
  waits_[rank] = {};
  --num_waiting_;
}

void LocalState::check_for_standstill() {
  if (aborted_ || num_waiting_ == 0) return;
  if (num_waiting_ + num_ended_ < static_cast<int>(waits_.size())) return;
  std::vector<std::string> all;
  for (size_t r = 0; r < waits_.size(); ++r) {
    all.push_back(describe(static_cast<int>(r), waits_[r]));
  }
  abort_locked(
      Status::aborted(fmt::format("the ranks wait for each other: {}", fmt::join(all, "; "))));
}

std::string LocalState::describe(int rank, const Wait& wait) {
  switch (wait.kind) {
    case Wait::Kind::kNone:
      return fmt::format("rank {} runs", rank);
    case Wait::Kind::kEnded:
      return fmt::format("rank {} has ended", rank);
    case Wait::Kind::kMessage:
      return fmt::format("rank {} in recv from rank {} with tag {}", rank, wait.peer, wait.tag);
    case Wait::Kind::kCollective:
      break;
  }
  return fmt::format("rank {} in {} of ranks {}", rank, op_name(wait.op),
                     fmt::join(wait.group->world_ranks(), " "));
}

Status LocalState::post(int to, Message message) {
  Mailbox& mailbox = mailboxes_[to];
  {
    const std::lock_guard lock(mutex_);
    if (aborted_) return aborted_status();
    const bool is_wanted =
        mailbox.wanted && mailbox.wanted->matches(message.group, message.source, message.tag);
    mailbox.messages.push_back(std::move(message));
    if (!is_wanted) return {};
    mailbox.wanted.reset();
    wait_ends(to);
    mailbox.epoch.fetch_add(1, std::memory_order_release);
  }
  mailbox.epoch.notify_one();
  return {};
}

Result<bool> LocalState::try_take(int to, int group, int source, int tag) {
  const std::lock_guard lock(mutex_);
  if (aborted_) return aborted_status();
  std::vector<Message>& messages = mailboxes_[to].messages;
  const auto found = std::ranges::find_if(
      messages, [&](const Message& m) { return m.matches(group, source, tag); });
  if (found == messages.end()) return false;
  messages.erase(found);
  return true;
}

Result<Message> LocalState::take(int to, int peer, int group, int source, int tag) {
  Mailbox& mailbox = mailboxes_[to];
  std::unique_lock lock(mutex_);
  for (;;) {
    if (aborted_) return aborted_status();
    const auto found =
        std::find_if(mailbox.messages.begin(), mailbox.messages.end(),
                     [&](const Message& m) { return m.matches(group, source, tag); });
    if (found != mailbox.messages.end()) {
      Message message = std::move(*found);
      mailbox.messages.erase(found);
      return message;
    }
    const uint32_t epoch = mailbox.epoch.load(std::memory_order_relaxed);
    mailbox.wanted = Message{.group = group, .source = source, .tag = tag, .data = nullptr};
    wait_begins(to, {.kind = Wait::Kind::kMessage, .peer = peer, .tag = tag});
    lock.unlock();
    mailbox.epoch.wait(epoch, std::memory_order_acquire);
    lock.lock();
  }
}

}  // namespace wideep::dist
