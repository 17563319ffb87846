#include "dist/communicator.h"

#include <fmt/format.h>

namespace wideep::dist {

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
  constexpr int kTags = 1 << 30;
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

Result<std::unique_ptr<Communicator>> Communicator::split(int color, int key) {
  return do_split(color, key);
}

}  // namespace wideep::dist
