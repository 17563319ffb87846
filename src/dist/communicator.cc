#include "dist/communicator.h"

#include <fmt/format.h>

#include <chrono>
#include <thread>

namespace wideep::dist {
namespace {

constexpr int kTags = 1 << 30;  // of callers
constexpr int kLeaveTag = kTags;
constexpr std::chrono::milliseconds kLeavePause{1};

}  // namespace

Status Communicator::barrier() {
  return collective({.op = Op::kBarrier});
}

Status Communicator::broadcast(std::span<std::byte> data, int root) {
  return collective({.op = Op::kBroadcast, .root = root, .out = data});
}

Status Communicator::all_gather(std::span<const std::byte> in, std::span<std::byte> out) {
  return collective({.op = Op::kAllGather, .in = in, .out = out});
}

Status Communicator::all_gather_v(std::span<const std::byte> in, std::span<const int64_t> counts,
                                  std::span<std::byte> out) {
  return collective({.op = Op::kAllGatherV, .in = in, .out = out, .counts = counts});
}

Status Communicator::all_reduce_sum(std::span<float> data) {
  return collective({.op = Op::kAllReduceSumFloat, .out = std::as_writable_bytes(data)});
}

Status Communicator::all_reduce_sum(std::span<int64_t> data) {
  return collective({.op = Op::kAllReduceSumInt64, .out = std::as_writable_bytes(data)});
}

Status Communicator::all_reduce_max(std::span<int64_t> data) {
  return collective({.op = Op::kAllReduceMaxInt64, .out = std::as_writable_bytes(data)});
}

Status Communicator::reduce_scatter_v(std::span<const float> in, std::span<const int64_t> counts,
                                      std::span<float> out) {
  return collective({.op = Op::kReduceScatterV,
                     .in = std::as_bytes(in),
                     .out = std::as_writable_bytes(out),
                     .counts = counts});
}

Status Communicator::all_to_all_v(std::span<const std::byte> in,
                                  std::span<const int64_t> send_counts, std::span<std::byte> out,
                                  std::span<const int64_t> recv_counts) {
  return collective({.op = Op::kAllToAllV,
                     .in = in,
                     .out = out,
                     .counts = send_counts,
                     .recv_counts = recv_counts});
}

Status Communicator::check_peer(const char* what, int peer, int tag) const {
  if (peer >= 0 && peer < size() && tag >= 0 && tag < kTags) return {};
  return Status::aborted(
      fmt::format("{}: peer {} with tag {}: peers of this group are 0 to {}, tags 0 to {}", what,
                  peer, tag, size() - 1, kTags - 1));
}

Status Communicator::send(std::span<const std::byte> data, int peer, int tag) {
  RETURN_IF_ERROR(check_peer("send", peer, tag));
  return do_send(data, peer, tag);
}

Status Communicator::recv(std::span<std::byte> data, int peer, int tag) {
  RETURN_IF_ERROR(check_peer("recv", peer, tag));
  return do_recv(data, peer, tag);
}

bool Communicator::leave() {
  if (is_left_behind_) return false;
  const Result<bool> all_left = wait_for_leavers();
  is_left_behind_ = !all_left.is_ok() || !*all_left;
  return !is_left_behind_;
}

Result<bool> Communicator::wait_for_leavers() {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(kLeaveSeconds);
  for (int r = 0; r < size(); ++r) {
    if (r != rank()) RETURN_IF_ERROR(do_send({}, r, kLeaveTag));
  }
  for (int r = 0; r < size(); ++r) {
    bool has_come = r == rank();
    while (!has_come) {
      ASSIGN_OR_RETURN(has_come, try_recv(r, kLeaveTag));
      if (has_come) break;
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(kLeavePause);
    }
  }
  return true;
}

Result<std::unique_ptr<Communicator>> Communicator::split(int color, int key) {
  return do_split(color, key);
}

}  // namespace wideep::dist
