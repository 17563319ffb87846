#include "kernels/attention_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/cuda.h"

namespace wideep::kernels {
namespace {

// Tables lie one behind the other, the pages last because only those in use are copied.
struct Layout {
  explicit Layout(const AttentionTablesOptions& options) : sequences(options.max_sequences) {}

  int64_t first_row() const { return 0; }
  int64_t num_rows() const { return sequences; }
  int64_t first_position() const { return 2 * sequences; }
  int64_t first_page() const { return 3 * sequences; }
  int64_t first_tile() const { return 4 * sequences; }
  int64_t pages() const { return 5 * sequences + 1; }

  int64_t sequences;
};

int64_t total_ints(const AttentionTablesOptions& options) {
  return Layout(options).pages() + options.max_pages;
}

// Pages of this rank that hold the first `keys` tokens of a sequence.
int held_pages(const AttentionTablesOptions& options, int keys) {
  const int pages = (keys + options.page_size - 1) / options.page_size;
  return (pages - options.cp_rank + options.cp_size - 1) / options.cp_size;
}

}  // namespace

struct AttentionTables::Memory {
  // What the host writes next while the copy of the other may be under way.
  struct Staging {
    Buffer ints;
    cudaEvent_t copied = nullptr;
  };

  ~Memory() {
    for (const Staging& one : staging) {
      if (one.copied != nullptr) cudaEventDestroy(one.copied);
    }
  }

  Buffer device;
  std::array<Staging, 2> staging;
  int next = 0;
};

AttentionTables::AttentionTables(const AttentionTablesOptions& options)
    : options_(options), memory_(std::make_unique<Memory>()) {}

AttentionTables::~AttentionTables() = default;

int64_t AttentionTables::device_bytes(const AttentionTablesOptions& options) {
  return total_ints(options) * int64_t{sizeof(int)};
}

Result<std::unique_ptr<AttentionTables>> AttentionTables::create(
    const AttentionTablesOptions& options) {
  CHECK(options.max_sequences > 0 && options.max_rows > 0 && options.page_size > 0);
  CHECK(options.kv_heads > 0 && options.num_heads % options.kv_heads == 0);
  CHECK(options.cp_size >= 1 && options.cp_rank >= 0 && options.cp_rank < options.cp_size);
  if (options.k_dim > kMaxAttentionKeyDim || options.v_dim > kMaxAttentionValueDim) {
    return Status::invalid_input(
        fmt::format("attention: keys of {} and values of {} dimensions: on a CUDA device at most "
                    "{} and {} work",
                    options.k_dim, options.v_dim, kMaxAttentionKeyDim, kMaxAttentionValueDim));
  }
  std::unique_ptr<AttentionTables> tables(new AttentionTables(options));
  const int64_t bytes = device_bytes(options);
  ASSIGN_OR_RETURN(tables->memory_->device, device_buffer(bytes));
  for (Memory::Staging& staging : tables->memory_->staging) {
    ASSIGN_OR_RETURN(staging.ints, pinned_buffer(bytes));
    RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&staging.copied, cudaEventDisableTiming));
  }
  const Layout layout(options);
  const int* ints = tables->memory_->device.as<int>();
  AttentionBatch& batch = tables->batch_;
  batch.first_row = ints + layout.first_row();
  batch.num_rows = ints + layout.num_rows();
  batch.first_position = ints + layout.first_position();
  batch.first_page = ints + layout.first_page();
  batch.first_tile = ints + layout.first_tile();
  batch.pages = ints + layout.pages();
  return tables;
}

Status AttentionTables::prepare(Stream& stream, std::span<const AttentionSequence> sequences,
                                int padded_sequences) {
  const bool is_padded = padded_sequences > 0;
  const int count = is_padded ? padded_sequences : static_cast<int>(std::ssize(sequences));
  CHECK(count <= options_.max_sequences && std::ssize(sequences) <= count);
  const int group = options_.num_heads / options_.kv_heads;
  int most_rows = 1;
  for (const AttentionSequence& sequence : sequences) {
    CHECK(sequence.first_row >= 0 && sequence.num_rows >= 0 && sequence.first_position >= 0);
    CHECK(sequence.first_row + sequence.num_rows <= options_.max_rows);
    most_rows = std::max(most_rows, sequence.num_rows);
  }
  CHECK(!is_padded || most_rows == 1);
  batch_.num_sequences = count;
  batch_.tile_rows = attention_tile_rows(most_rows * group);

  Memory::Staging& staging = memory_->staging[memory_->next];
  memory_->next = 1 - memory_->next;
  RETURN_IF_CUDA_ERROR(cudaEventSynchronize(staging.copied));
  const Layout layout(options_);
  int* ints = staging.ints.as<int>();
  int tiles = 0;
  int64_t pages = 0;
  for (int s = 0; s < count; ++s) {
    const AttentionSequence sequence =
        s < std::ssize(sequences) ? sequences[s] : AttentionSequence{s, 1, -1, nullptr};
    CHECK(!is_padded || (sequence.first_row == s && sequence.num_rows == 1));
    ints[layout.first_row() + s] = sequence.first_row;
    ints[layout.num_rows() + s] = sequence.num_rows;
    ints[layout.first_position() + s] = sequence.first_position;
    ints[layout.first_page() + s] = static_cast<int>(pages);
    ints[layout.first_tile() + s] = tiles;
    tiles += (sequence.num_rows * group + batch_.tile_rows - 1) / batch_.tile_rows;
    if (sequence.num_rows == 0) continue;
    const int held = held_pages(options_, sequence.first_position + sequence.num_rows);
    CHECK(pages + held <= options_.max_pages);
    std::copy_n(sequence.pages, held, ints + layout.pages() + pages);
    pages += held;
  }
  ints[layout.first_tile() + count] = tiles;
  batch_.num_tiles = tiles;

  const auto handle = static_cast<cudaStream_t>(stream.cuda());
  const auto bytes = static_cast<size_t>(layout.pages() + pages) * sizeof(int);
  RETURN_IF_CUDA_ERROR(
      cudaMemcpyAsync(memory_->device.data(), ints, bytes, cudaMemcpyHostToDevice, handle));
  RETURN_IF_CUDA_ERROR(cudaEventRecord(staging.copied, handle));
  return Status::ok();
}

}  // namespace wideep::kernels
