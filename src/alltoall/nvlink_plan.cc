#include "alltoall/nvlink_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "alltoall/nvlink_regime.h"

namespace wideep::alltoall {
namespace {

constexpr int64_t kRegionAlignment = 1024;

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Multiprocessors left to others by default, so that a collective of another stream can always run
// beside us: two kernels that wait for their peers must both fit on every GPU.
constexpr int kReservedSms = 32;

// Blocks that send a small batch at most, as many as fill the links, and those that count it where
// there is room for them beside.
constexpr int kSmallSenders = 56;
constexpr int kCountingBlocks = 4;

// Blocks that push a large batch by source at most: more of them wait for the links only.
constexpr int kMostPushBySource = 64;

const char* phase_name(Phase phase) {
  constexpr std::array<const char*, 5> kNames = {"start", "dispatch", "combine", "resume",
                                                 "counts of all ranks"};
  return kNames[static_cast<size_t>(phase)];
}

const char* awaited_name(Awaited awaited) {
  constexpr std::array<const char*, 6> kNames = {
      "its start of the call", "its counts",           "a row",
      "a summed row",          "this rank's own grid", "its resumption"};
  return kNames[static_cast<size_t>(awaited)];
}

}  // namespace

int64_t travel_bytes(const GroupShape& shape) {
  switch (shape.format) {
    case RowFormat::kF32:
      return int64_t{4} * shape.hidden_size;
    case RowFormat::kBf16:
      return int64_t{2} * shape.hidden_size;
    case RowFormat::kFp8:
    case RowFormat::kFp8Given:
      return shape.hidden_size;
    case RowFormat::kBytes:
      return shape.row_bytes;
  }
  return 0;
}

int scale_columns(const GroupShape& shape) {
  const bool scaled = shape.format == RowFormat::kFp8 || shape.format == RowFormat::kFp8Given;
  return scaled ? (shape.hidden_size + kScaleGroup - 1) / kScaleGroup : 0;
}

Result<Shape> make_kernel_shape(const GroupShape& shape, int num_ranks) {
  if (num_ranks > kMaxNvlinkRanks || shape.num_slots > kMaxSlots || shape.top_k > kMaxTopK) {
    return Status::invalid_input(
        fmt::format("all-to-all: NVLink: {} ranks, {} slots, top-k {}: at most {}, {} and {}",
                    num_ranks, shape.num_slots, shape.top_k, kMaxNvlinkRanks, kMaxSlots, kMaxTopK));
  }
  if (shape.format == RowFormat::kF32) {
    return Status::invalid_input("all-to-all: NVLink: rows are BF16, FP8 or bytes, not F32");
  }
  const int64_t bytes = travel_bytes(shape);
  const int64_t result_bytes = int64_t{2} * shape.hidden_size;
  if (bytes < kVectorBytes || bytes % kVectorBytes != 0 || result_bytes % kVectorBytes != 0) {
    return Status::invalid_input(
        fmt::format("all-to-all: NVLink: rows of {} bytes, results of {} bytes: both must be "
                    "multiples of {} bytes",
                    bytes, result_bytes, kVectorBytes));
  }
  if (shape.format == RowFormat::kFp8 && shape.hidden_size % kScaleGroup != 0) {
    return Status::invalid_input(
        fmt::format("all-to-all: NVLink: hidden_size {}: FP8 rows are quantised by groups of {}",
                    shape.hidden_size, kScaleGroup));
  }
  if (shape.combine == CombineMode::kExact && shape.layout == RowLayout::kBySource) {
    return Status::invalid_input(
        "all-to-all: NVLink: rows by source rank come back summed: exact combine needs rows by "
        "slot");
  }
  if (shape.weight_scales_input) {
    return Status::invalid_input(
        "all-to-all: NVLink: weight_scales_input: rows travel as they are");
  }
  const int64_t max_tokens =
      shape.max_tokens_of_rank > 0 ? shape.max_tokens_of_rank : shape.max_tokens;
  if (max_tokens * num_ranks * shape.top_k > INT32_MAX || shape.row_alignment < 1 ||
      shape.num_counts < 0) {
    return Status::invalid_input(
        fmt::format("all-to-all: NVLink: {} tokens a rank, {} ranks, top-k {}: more than 2^31 "
                    "rows, or row_alignment {} below 1",
                    max_tokens, num_ranks, shape.top_k, shape.row_alignment));
  }
  Shape result;
  result.num_ranks = num_ranks;
  result.num_slots = shape.num_slots;
  result.top_k = shape.top_k;
  result.max_tokens = static_cast<int>(max_tokens);
  result.row_bytes = bytes;
  result.scale_bytes = round_up(int64_t{4} * scale_columns(shape), kVectorBytes);
  result.result_bytes = result_bytes;
  result.by_source = shape.layout == RowLayout::kBySource;
  result.exact = shape.combine == CombineMode::kExact;
  result.num_counts = shape.num_counts;
  result.small_tokens = static_cast<int>(std::min(max_tokens, largest_small_batch(result)));
  return result;
}

Regions make_regions(const Shape& shape) {
  Regions at;
  const auto take = [&](int64_t bytes) {
    const int64_t begin = at.total;
    at.total = round_up(at.total + bytes, kRegionAlignment);
    return begin;
  };
  const int64_t ranks = shape.num_ranks;
  const int64_t packet = sizeof(Packet);
  at.abort = take(8);
  at.dispatch_ready = take(4 * ranks);
  at.combine_ready = take(4 * ranks);
  at.resume = take(packet * ranks);
  at.gathered = take(2 * ranks * shape.count_packets() * packet);
  at.cells = take(2 * ranks * shape.columns() * 8);
  at.headers = take(2 * ranks * shape.max_tokens * (shape.top_k + 1) * packet);
  at.small_rows =
      take(2 * ranks * shape.small_tokens * bytes_as_lines(shape.row_bytes, shape.scale_bytes));
  at.small_partials = take(int64_t{2} * shape.partials() * shape.small_tokens *
                           bytes_as_lines(shape.result_bytes, 0));
  const int64_t landing_row =
      shape.by_source ? shape.row_bytes : bytes_as_lines(shape.row_bytes, shape.scale_bytes);
  at.rows = take(ranks * shape.max_tokens * landing_row);
  at.scales = take(shape.by_source ? ranks * shape.max_tokens * shape.scale_bytes : 0);
  at.partials = take(int64_t{1} * shape.partials() * shape.max_tokens * shape.result_bytes);
  at.partial_flags = take(int64_t{4} * shape.partials() * shape.max_tokens);
  return at;
}

int64_t output_rows(const GroupShape& shape, int num_ranks) {
  if (shape.max_rows > 0) return shape.max_rows;
  const int64_t of_rank =
      shape.max_tokens_of_rank > 0 ? shape.max_tokens_of_rank : shape.max_tokens;
  const int64_t tokens = std::min(of_rank * num_ranks, shape.max_tokens);
  switch (shape.layout) {
    case RowLayout::kBySource:
      return of_rank * num_ranks;
    // A slot may be named more than once by a token.
    case RowLayout::kBySlotMasked:
      return tokens;
    case RowLayout::kBySlot:
      break;
  }
  const int64_t slots = shape.num_slots / num_ranks;
  const int64_t filled = std::min(slots, tokens * shape.top_k);
  return round_up(tokens * shape.top_k + filled * (shape.row_alignment - 1), shape.row_alignment);
}

int64_t largest_small_batch(const Shape& shape) {
  if (std::max(shape.row_bytes, shape.result_bytes) > kMostSmallRowBytes) return 0;
  const int64_t words = kSharedMemoryOfKernel / 4 - kSmallSharedWords - shape.columns();
  return std::clamp<int64_t>(words / (2 * shape.top_k), 0, kSmallTokens);
}

bool is_small_batch(const Shape& shape, int64_t tokens) {
  return tokens <= shape.small_tokens;
}

Blocks choose_blocks(const Shape& shape, int64_t tokens, int num_sms, int limit) {
  const int most = limit > 0 ? std::min(limit, num_sms)
                             : std::max(1, std::max(num_sms - kReservedSms, num_sms / 2));
  Blocks blocks;
  if (is_small_batch(shape, tokens)) {
    // Two blocks share a multiprocessor, and all may be taken: the blocks that send come first and
    // wait for nobody, so that a call ends whatever runs beside it.
    const int64_t room = 2 * int64_t{limit > 0 ? most : num_sms};
    const int64_t ranks = std::min(shape.num_ranks, shape.top_k);  // that a token goes to
    // A block a part of a row that a rank sends or receives, and some that count the batch.
    const int64_t parts = tokens * make_row_parts(shape.row_bytes).count;
    const int64_t senders = std::min<int64_t>(parts + std::min(shape.num_ranks, kCountingBlocks),
                                              std::min<int64_t>(room / 2, kSmallSenders));
    const int64_t receivers = std::clamp<int64_t>(parts * ranks, 1, room - senders);
    blocks.push = static_cast<int>(senders);
    blocks.dispatch = static_cast<int>(senders + receivers);
    const int64_t results = tokens * make_row_parts(shape.result_bytes).count;
    const int64_t pushers =
        std::clamp<int64_t>(results * std::max<int64_t>(1, ranks - 1), 1, room / 2);
    blocks.combine_push = static_cast<int>(pushers);
    blocks.combine = static_cast<int>(pushers + std::clamp<int64_t>(results, 1, room - pushers));
    return blocks;
  }
  blocks.dispatch = blocks.combine = std::max(most, 2);
  blocks.combine_push = std::max(1, blocks.combine / 3);
  // By source, those that receive have little to do. By slot they write several times what comes,
  // and a few that push fill the links: more of them with rows of FP8, which they may have to make.
  if (shape.by_source) {
    blocks.push = std::clamp(blocks.dispatch * 7 / 8, 1, kMostPushBySource);
  } else {
    blocks.push = std::min(std::max(1, blocks.dispatch * 3 / 10), shape.scale_bytes > 0 ? 28 : 16);
  }
  return blocks;
}

Status status_of(const ErrorRecord& record, int rank, double timeout_seconds) {
  const std::string where = fmt::format("all-to-all: rank {}: {}, epoch {}", rank,
                                        phase_name(record.phase), record.epoch);
  const char* const again = "the group must be created again, or the rank masked";
  switch (record.kind) {
    case ErrorKind::kNone:
      return Status::ok();
    case ErrorKind::kTimeout:
      return Status::aborted(
          fmt::format("{}: waited {:.3g} s for rank {}: {} {}, expected {}, seen {}: {}", where,
                      timeout_seconds, record.peer, awaited_name(record.awaited), record.index,
                      record.expected, record.seen, again));
    case ErrorKind::kAborted:
      return Status::aborted(fmt::format("{}: rank {} gave up first: its error says why: {}", where,
                                         record.peer, again));
    case ErrorKind::kBadSlot:
      return Status::aborted(fmt::format("{}: token {}: slot {} is not in [-1, {}): {}", where,
                                         record.index, static_cast<int64_t>(record.seen),
                                         record.expected, again));
    case ErrorKind::kOverflow:
      return Status::aborted(fmt::format(
          "{}: {} rows for {}: its output holds {}: make the group with max_rows {}: {}", where,
          record.seen, record.index < 0 ? "this rank" : fmt::format("slot {}", record.index),
          record.expected, record.seen, again));
  }
  return Status::aborted(where);
}

}  // namespace wideep::alltoall
