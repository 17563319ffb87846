#include "models/batch_tables.h"

#include <algorithm>
#include <span>
#include <utility>

#include "base/arena.h"
#include "kernels/sampling.h"

namespace wideep::models {
namespace {

int64_t bytes_of(int64_t rows, int64_t wanted) {
  const int64_t ints = Arena::padded(rows * int64_t{sizeof(int)});
  return Arena::padded(sizeof(int)) + Arena::padded(rows * int64_t{sizeof(int64_t)}) + 2 * ints +
         Arena::padded(wanted * int64_t{sizeof(int)});
}

// Where each table lies, on the host as on the device.
struct Tables {
  Tables(std::span<std::byte> memory, int64_t rows, int64_t wanted) {
    Arena arena(memory);
    num_tokens = arena.take<int>(1);
    slots = arena.take<int64_t>(rows);
    token_ids = arena.take<int>(rows);
    positions = arena.take<int>(rows);
    logits_rows = arena.take<int>(wanted);
  }

  std::span<int> num_tokens;  // [1]
  std::span<int64_t> slots;
  std::span<int> token_ids;
  std::span<int> positions;
  std::span<int> logits_rows;
};

// Rows of the sequence in order, and where the cache keeps them.
void place_sequence(const BatchSequence& sequence, const BatchTables::Paging& paging,
                    const Tables& tables) {
  for (int i = 0; i < sequence.num_rows; ++i) {
    const int row = sequence.first_row + i;
    const int position = sequence.first_position + i;
    const int block = position / paging.page_size;
    tables.positions[row] = position;
    CHECK(block / paging.cp < std::ssize(sequence.pages));
    const int64_t page = sequence.pages[block / paging.cp];
    tables.slots[row] = block % paging.cp == paging.cp_rank
                            ? page * paging.page_size + position % paging.page_size
                            : -1;
  }
}

}  // namespace

BatchTables::BatchTables(std::unique_ptr<kernels::Staging> staging)
    : staging_(std::move(staging)) {}

Result<std::unique_ptr<BatchTables>> BatchTables::create(const Stream& stream, int64_t max_rows) {
  ASSIGN_OR_RETURN(std::unique_ptr<kernels::Staging> staging,
                   kernels::Staging::create(stream, scratch_bytes(max_rows)));
  return std::unique_ptr<BatchTables>(new BatchTables(std::move(staging)));
}

int64_t BatchTables::scratch_bytes(int64_t max_rows) {
  return bytes_of(max_rows, max_rows);
}

void BatchTables::place(const Batch& batch, const Paging& paging, bool is_padded,
                        ForwardPass& pass) {
  const auto first = std::ranges::lower_bound(batch.logits_rows, pass.own_begin);
  const auto last = std::ranges::lower_bound(batch.logits_rows, pass.own_end);
  const int64_t padding = pass.num_rows - std::ssize(batch.token_ids);
  const int64_t wanted = last - first + padding;
  const Tables host(staging_->begin(), pass.num_rows, wanted);
  host.num_tokens.front() = static_cast<int>(std::ssize(batch.token_ids));
  std::ranges::copy(batch.token_ids, host.token_ids.begin());
  std::transform(first, last, host.logits_rows.begin(),
                 [&](int row) { return row - pass.own_begin; });
  sequences_.clear();
  int row = 0;
  for (const BatchSequence& sequence : batch.sequences) {
    CHECK(sequence.first_row == row);
    place_sequence(sequence, paging, host);
    row += sequence.num_rows;
    sequences_.push_back(
        {sequence.first_row, sequence.num_rows, sequence.first_position, sequence.pages.data()});
  }
  CHECK(row == std::ssize(batch.token_ids));
  for (; row < pass.num_rows; ++row) {
    host.token_ids[row] = 0;
    host.positions[row] = 0;
    host.slots[row] = -1;
    host.logits_rows[row] = row;
  }
  const int64_t bytes = bytes_of(pass.num_rows, wanted);
  const std::span<std::byte> memory = pass.arena->take<std::byte>(bytes);
  staging_->send(*pass.stream, bytes, memory.data());
  const Tables tables(memory, pass.num_rows, wanted);
  const bool has_sampled = std::ranges::any_of(batch.token_ids, [](int id) { return id < 0; });
  if (has_sampled) kernels::take_sampled(*pass.stream, batch.sampled_tokens, tables.token_ids);
  if (is_padded) pass.num_tokens = tables.num_tokens.data();
  pass.token_ids = tables.token_ids;
  pass.positions = tables.positions;
  pass.slots = tables.slots;
  pass.logits_rows = tables.logits_rows;
  pass.sequences = sequences_;
}

}  // namespace wideep::models
