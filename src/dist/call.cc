#include "dist/call.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace wideep::dist {

namespace {

using Records = std::span<const CallRecord>;
using Ranks = std::span<const int>;

constexpr int64_t kFloat = sizeof(float);

// FNV-1a over the counts' bytes.
uint64_t hash_of(std::span<const int64_t> counts) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const std::byte b : std::as_bytes(counts)) {
    hash = (hash ^ static_cast<uint64_t>(b)) * 0x100000001b3;
  }
  return hash;
}

Status disagreement(Op op, const std::string& what) {
  return Status::aborted(fmt::format("{}: {}", op_name(op), what));
}

// All ranks pass the same `field` (named `what`) as the group's first.
template <typename Field>
Status check_same(Records records, Ranks ranks, const char* what, Field field) {
  const auto first = field(records[0].header);
  for (size_t r = 1; r < records.size(); ++r) {
    const auto mine = field(records[r].header);
    if (mine == first) continue;
    return disagreement(records[0].header.op,
                        fmt::format("rank {} passes {} {}, rank {} {}: all ranks of a group must "
                                    "pass the same",
                                    ranks[r], what, mine, ranks[0], first));
  }
  return {};
}

// A buffer's size against what the counts or the other buffers say.
Status check_bytes(Op op, int rank, const char* what, int64_t bytes, int64_t needed) {
  if (bytes == needed) return {};
  return disagreement(
      op,
      fmt::format("rank {} passes an {} buffer of {} bytes, the counts and the group's size need "
                  "{} bytes",
                  rank, what, bytes, needed));
}

Status check_all_gather(Records records, Ranks ranks) {
  RETURN_IF_ERROR(
      check_same(records, ranks, "bytes", [](const CallHeader& h) { return h.in_bytes; }));
  const int64_t needed = records[0].header.in_bytes * static_cast<int64_t>(records.size());
  for (size_t r = 0; r < records.size(); ++r) {
    RETURN_IF_ERROR(
        check_bytes(Op::kAllGather, ranks[r], "out", records[r].header.out_bytes, needed));
  }
  return {};
}

// Counts from 0, whose sum, in units of `unit` bytes, is a size.
Status check_counts(Op op, int rank, std::span<const int64_t> counts, int64_t unit) {
  int64_t left = std::numeric_limits<int64_t>::max() / unit;
  for (const int64_t count : counts) {
    if (count < 0 || count > left) {
      return disagreement(
          op, fmt::format("rank {} passes count {}: counts start at 0 and their sum fits 64 bits",
                          rank, count));
    }
    left -= count;
  }
  return {};
}

Status check_same_counts(Records records, Ranks ranks) {
  const auto& first = records[0].counts;
  for (size_t r = 1; r < records.size(); ++r) {
    const auto& mine = records[r].counts;
    for (size_t i = 0; i < first.size(); ++i) {
      if (mine[i] == first[i]) continue;
      return disagreement(records[0].header.op,
                          fmt::format("rank {} passes count {} for rank {}, rank {} passes {}: all "
                                      "ranks of a group must pass the same counts",
                                      ranks[r], mine[i], ranks[i], ranks[0], first[i]));
    }
  }
  return {};
}

Status check_all_gather_v(Records records, Ranks ranks) {
  const Op op = Op::kAllGatherV;
  RETURN_IF_ERROR(check_same_counts(records, ranks));
  RETURN_IF_ERROR(check_counts(op, ranks[0], records[0].counts, 1));
  const int64_t total = sum_of(records[0].counts);
  for (size_t r = 0; r < records.size(); ++r) {
    const CallHeader& header = records[r].header;
    RETURN_IF_ERROR(check_bytes(op, ranks[r], "in", header.in_bytes, records[0].counts[r]));
    RETURN_IF_ERROR(check_bytes(op, ranks[r], "out", header.out_bytes, total));
  }
  return {};
}

Status check_reduce_scatter_v(Records records, Ranks ranks) {
  const Op op = Op::kReduceScatterV;
  RETURN_IF_ERROR(check_same_counts(records, ranks));
  RETURN_IF_ERROR(check_counts(op, ranks[0], records[0].counts, kFloat));
  const int64_t total = kFloat * sum_of(records[0].counts);
  for (size_t r = 0; r < records.size(); ++r) {
    const CallHeader& header = records[r].header;
    RETURN_IF_ERROR(check_bytes(op, ranks[r], "in", header.in_bytes, total));
    RETURN_IF_ERROR(
        check_bytes(op, ranks[r], "out", header.out_bytes, kFloat * records[0].counts[r]));
  }
  return {};
}

Status check_all_to_all_v(Records records, Ranks ranks) {
  const Op op = Op::kAllToAllV;
  for (size_t r = 0; r < records.size(); ++r) {
    const CallRecord& record = records[r];
    RETURN_IF_ERROR(check_counts(op, ranks[r], record.counts, 1));
    RETURN_IF_ERROR(check_counts(op, ranks[r], record.recv_counts, 1));
    for (size_t to = 0; to < records.size(); ++to) {
      const int64_t sent = record.counts[to];
      const int64_t expected = records[to].recv_counts[r];
      if (sent == expected) continue;
      return disagreement(op, fmt::format("rank {} sends {} bytes to rank {}, which expects {}",
                                          ranks[r], sent, ranks[to], expected));
    }
    RETURN_IF_ERROR(check_bytes(op, ranks[r], "in", record.header.in_bytes, sum_of(record.counts)));
    RETURN_IF_ERROR(
        check_bytes(op, ranks[r], "out", record.header.out_bytes, sum_of(record.recv_counts)));
  }
  return {};
}

Status check_colors(Records records, Ranks ranks) {
  for (size_t r = 0; r < records.size(); ++r) {
    const int color = records[r].header.color;
    if (color < -1) {
      return disagreement(Op::kSplit,
                          fmt::format("rank {} passes color {}: a color is a group from 0, or -1 "
                                      "for no group",
                                      ranks[r], color));
    }
  }
  return {};
}

}  // namespace

const char* op_name(Op op) {
  switch (op) {
    case Op::kBarrier:
      return "barrier";
    case Op::kBroadcast:
      return "broadcast";
    case Op::kAllGather:
      return "all_gather";
    case Op::kAllGatherV:
      return "all_gather_v";
    case Op::kAllReduceSumFloat:
      return "all_reduce_sum of floats";
    case Op::kAllReduceSumInt64:
      return "all_reduce_sum of integers";
    case Op::kAllReduceMaxInt64:
      return "all_reduce_max";
    case Op::kReduceScatterV:
      return "reduce_scatter_v";
    case Op::kAllToAllV:
      return "all_to_all_v";
    case Op::kSplit:
      return "split";
    case Op::kEnd:
      return "nothing more (it has ended)";
  }
  return "an unknown call";
}

int64_t sum_of(std::span<const int64_t> counts) {
  int64_t sum = 0;
  for (const int64_t count : counts) sum += count;
  return sum;
}

CallHeader header_of(const Call& call) {
  const bool same_counts = call.op == Op::kAllGatherV || call.op == Op::kReduceScatterV;
  return {.op = call.op,
          .root = call.root,
          .color = call.color,
          .key = call.key,
          .in_bytes = static_cast<int64_t>(call.in.size()),
          .out_bytes = static_cast<int64_t>(call.out.size()),
          .num_counts = static_cast<int64_t>(call.counts.size()),
          .num_recv_counts = static_cast<int64_t>(call.recv_counts.size()),
          .counts_hash = same_counts ? hash_of(call.counts) : 0};
}

Status check_same_call(Records records, Ranks ranks) {
  const CallHeader& first = records[0].header;
  const auto size = static_cast<int64_t>(records.size());
  for (size_t r = 0; r < records.size(); ++r) {
    const CallHeader& mine = records[r].header;
    if (mine.op != first.op) {
      return Status::aborted(
          fmt::format("rank {} calls {} where rank {} calls {}: all ranks of a group must make the "
                      "same calls in the same order",
                      ranks[r], op_name(mine.op), ranks[0], op_name(first.op)));
    }
    if (has_counts(mine.op) && mine.num_counts != size) {
      return disagreement(mine.op, fmt::format("rank {} passes {} counts, the group has {} ranks",
                                               ranks[r], mine.num_counts, size));
    }
    if (mine.op == Op::kAllToAllV && mine.num_recv_counts != size) {
      return disagreement(
          mine.op, fmt::format("rank {} passes {} receive counts, the group has {} ranks", ranks[r],
                               mine.num_recv_counts, size));
    }
  }
  if (first.op != Op::kBroadcast) return {};
  RETURN_IF_ERROR(check_same(records, ranks, "root", [](const CallHeader& h) { return h.root; }));
  if (first.root < 0 || first.root >= size) {
    return disagreement(first.op,
                        fmt::format("root {} is not in the group of {} ranks", first.root, size));
  }
  return {};
}

Status check_sizes(Records records, Ranks ranks) {
  switch (records[0].header.op) {
    case Op::kBarrier:
    case Op::kEnd:
      return {};
    case Op::kAllGather:
      return check_all_gather(records, ranks);
    case Op::kAllGatherV:
      return check_all_gather_v(records, ranks);
    case Op::kReduceScatterV:
      return check_reduce_scatter_v(records, ranks);
    case Op::kAllToAllV:
      return check_all_to_all_v(records, ranks);
    case Op::kSplit:
      return check_colors(records, ranks);
    case Op::kBroadcast:
    case Op::kAllReduceSumFloat:
    case Op::kAllReduceSumInt64:
    case Op::kAllReduceMaxInt64:
      return check_same(records, ranks, "bytes", [](const CallHeader& h) { return h.out_bytes; });
  }
  return {};
}

std::vector<int> ranks_of_color(Records records, int color) {
  std::vector<int> ranks;
  for (size_t r = 0; r < records.size(); ++r) {
    if (records[r].header.color == color) ranks.push_back(static_cast<int>(r));
  }
  std::stable_sort(ranks.begin(), ranks.end(),
                   [&](int a, int b) { return records[a].header.key < records[b].header.key; });
  return ranks;
}

Status check_message_size(int receiver, size_t expected, int sender, size_t sent, int tag) {
  if (expected == sent) return {};
  return Status::aborted(
      fmt::format("recv: rank {} expects {} bytes from rank {} with tag {}, which sent {}",
                  receiver, expected, sender, tag, sent));
}

}  // namespace wideep::dist
