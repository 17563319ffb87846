#include "kernels/attention_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "base/cuda.h"
#include "kernels/adapters/flashinfer.h"

namespace wideep::kernels {
namespace {

bool is_latent(const AttentionTablesOptions& options) {
  return options.kv_heads == 1 && options.k_dim == adapters::kLatentKeyDim &&
         options.v_dim == adapters::kLatentValueDim && LatentSchedule::fits(options.num_heads);
}

bool is_grouped(const AttentionTablesOptions& options) {
  return options.k_dim == adapters::kGroupedHeadDim && options.v_dim == adapters::kGroupedHeadDim;
}

// Whether rows lie one behind the other, from 0 on.
bool has_adjacent_rows(std::span<const ScheduledSequence> sequences) {
  int row = 0;
  for (const ScheduledSequence& sequence : sequences) {
    if (sequence.first_row != row) return false;
    row += sequence.num_rows;
  }
  return true;
}

// One for the rows of each chunk of each sequence: within it, positions count from its first key.
// Pages must not straddle chunks.
void cut_chunks(const AttentionTablesOptions& options, std::span<const AttentionSequence> sequences,
                std::vector<AttentionSequence>& cut) {
  for (const AttentionSequence& sequence : sequences) {
    int done = 0;
    do {
      const int position = sequence.first_position + done;
      const int first_key = position / options.chunk_size * options.chunk_size;
      const int rows =
          std::min(sequence.num_rows - done, first_key + options.chunk_size - position);
      cut.push_back({sequence.first_row + done, rows, position - first_key,
                     sequence.pages + first_key / options.page_size});
      done += rows;
    } while (done < sequence.num_rows);
  }
}

// Tokens of this rank among the first `keys` of a sequence.
int held_keys(const AttentionTablesOptions& options, int keys) {
  const int page = keys / options.page_size;  // the first that is not whole
  const int whole = (page - options.cp_rank + options.cp_size - 1) / options.cp_size;
  const int rest = page % options.cp_size == options.cp_rank ? keys % options.page_size : 0;
  return whole * options.page_size + rest;
}

// One for each row, over the keys of this rank that it sees.
void cut_rows(const AttentionTablesOptions& options, std::span<const AttentionSequence> sequences,
              std::vector<AttentionSequence>& cut) {
  for (const AttentionSequence& sequence : sequences) {
    for (int i = 0; i < sequence.num_rows; ++i) {
      const int keys = held_keys(options, sequence.first_position + i + 1);
      cut.push_back({sequence.first_row + i, 1, keys - 1, sequence.pages});
    }
    if (sequence.num_rows == 0) cut.push_back({sequence.first_row, 0, 0, sequence.pages});
  }
}

// Pages of this rank that hold the first `keys` tokens of a sequence.
int held_pages(const AttentionTablesOptions& options, int keys) {
  const int pages = (keys + options.page_size - 1) / options.page_size;
  return (pages - options.cp_rank + options.cp_size - 1) / options.cp_size;
}

std::optional<AttentionTablesOptions> chunked_options(const AttentionTablesOptions& options) {
  if (options.chunk_size == 0 || options.chunk_size % options.page_size != 0) return std::nullopt;
  if (options.cp_size > 1) return std::nullopt;
  AttentionTablesOptions result = options;
  // Rows of a sequence begin and end in the middle of chunks.
  result.max_sequences = 2 * options.max_sequences + options.max_rows / options.chunk_size;
  result.chunk_size = 0;
  result.self_k_dim = result.self_v_dim = 0;
  return result;
}

std::optional<AttentionTablesOptions> local_options(const AttentionTablesOptions& options) {
  if (options.cp_size == 1) return std::nullopt;
  AttentionTablesOptions result = options;
  result.max_sequences = options.max_sequences + options.max_rows;
  result.chunk_size = 0;
  result.cp_size = 1;
  result.cp_rank = 0;
  result.self_k_dim = result.self_v_dim = 0;
  return result;
}

// Of the tables of one batch, without those that it stands for.
int64_t own_bytes(const AttentionTablesOptions& options) {
  // More than any batch needs: the schedules' tiles are of 16 pairs or more, and a multiprocessor
  // adds a few pieces.
  constexpr int64_t kMostMultiprocessors = 256;
  const int64_t rows = options.max_rows;
  const int64_t sequences = options.max_sequences;
  const int64_t group = options.num_heads / options.kv_heads;
  const int64_t tiles = rows * group / 16 + sequences + 2 * kMostMultiprocessors;
  const int64_t prompt_tiles =
      options.num_heads * (rows / PromptSchedule::kTileRows + std::min(sequences, rows));
  const int64_t ints = 8 * (sequences + 4) + 8 * tiles + 2 * 7 * (prompt_tiles + 4) +
                       2 * (rows + 4) + 16 * kMostMultiprocessors + options.max_pages;
  return ints * static_cast<int64_t>(sizeof(int));
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

// All of a batch, one behind the other; the pages last, since only their number changes from one
// replay of a graph to the next.
struct AttentionTables::Tables {
  int* first_row = nullptr;
  int* rows = nullptr;
  int* first_position = nullptr;
  int* first_page = nullptr;
  int* first_tile = nullptr;
  LatentSchedule latent;
  GroupedSchedule grouped;
  PromptSchedule prompts;
  PromptSchedule self;
  int* pages = nullptr;
  int64_t used = 0;  // without the pages
};

AttentionTables::AttentionTables(const AttentionTablesOptions& options)
    : options_(options), memory_(std::make_unique<Memory>()) {
  scheduled_.reserve(options.max_sequences);
}

AttentionTables::~AttentionTables() = default;

int64_t AttentionTables::device_bytes(const AttentionTablesOptions& options) {
  int64_t bytes = own_bytes(options);
  if (const auto chunked = chunked_options(options)) bytes += own_bytes(*chunked);
  if (const auto local = local_options(options)) bytes += own_bytes(*local);
  return bytes;
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
  int device = 0;
  int major = 0;
  RETURN_IF_CUDA_ERROR(cudaGetDevice(&device));
  RETURN_IF_CUDA_ERROR(
      cudaDeviceGetAttribute(&tables->num_sms_, cudaDevAttrMultiProcessorCount, device));
  RETURN_IF_CUDA_ERROR(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  tables->is_hopper_ = major == 9;
  const int64_t bytes = own_bytes(options);
  ASSIGN_OR_RETURN(tables->memory_->device, device_buffer(bytes));
  for (Memory::Staging& staging : tables->memory_->staging) {
    ASSIGN_OR_RETURN(staging.ints, pinned_buffer(bytes));
    RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&staging.copied, cudaEventDisableTiming));
  }
  RETURN_IF_ERROR(tables->create_plain());
  return tables;
}

Status AttentionTables::create_plain() {
  if (const auto options = chunked_options(options_)) {
    ASSIGN_OR_RETURN(chunked_, create(*options));
  }
  if (const auto options = local_options(options_)) {
    ASSIGN_OR_RETURN(local_, create(*options));
  }
  return Status::ok();
}

const AttentionTables* AttentionTables::plain(int chunk_size) const {
  if (options_.cp_size > 1) return chunk_size == 0 && has_local_ ? local_.get() : nullptr;
  if (chunk_size == 0) return this;
  return chunk_size == options_.chunk_size ? chunked_.get() : nullptr;
}

Status AttentionTables::prepare_plain(Stream& stream, std::span<const AttentionSequence> sequences,
                                      int padded_sequences) {
  if (chunked_ != nullptr) {
    plain_sequences_.clear();
    cut_chunks(options_, sequences, plain_sequences_);
    RETURN_IF_ERROR(chunked_->prepare(stream, plain_sequences_, padded_sequences));
  }
  if (local_ == nullptr) return Status::ok();
  // Rows by themselves waste nothing where their heads alone fill a tile.
  has_local_ = is_latent(options_) || std::ranges::all_of(sequences, [](const auto& sequence) {
                 return sequence.num_rows <= 1;
               });
  if (!has_local_) return Status::ok();
  plain_sequences_.clear();
  cut_rows(options_, sequences, plain_sequences_);
  return local_->prepare(stream, plain_sequences_, padded_sequences);
}

void AttentionTables::describe(std::span<const AttentionSequence> sequences, int padded_sequences) {
  const bool is_padded = padded_sequences > 0;
  const int count = is_padded ? padded_sequences : static_cast<int>(std::ssize(sequences));
  CHECK(count <= options_.max_sequences && std::ssize(sequences) <= count);
  batch_ = {};
  batch_.num_sequences = count;
  scheduled_.clear();
  int most_rows = 1;
  int pages = 0;
  bool has_shared_pages = false;
  for (int s = 0; s < count; ++s) {
    const AttentionSequence sequence =
        s < std::ssize(sequences) ? sequences[s] : AttentionSequence{s, 1, -1, nullptr};
    CHECK(sequence.first_row >= 0 && sequence.num_rows >= 0 && sequence.first_position >= -1);
    CHECK(sequence.first_row + sequence.num_rows <= options_.max_rows);
    CHECK(!is_padded || (sequence.first_row == s && sequence.num_rows == 1));
    const int keys = sequence.num_rows > 0 ? sequence.first_position + sequence.num_rows : 0;
    // Sequences cut from one follow each other, and share its list.
    const bool shares = s > 0 && s < std::ssize(sequences) && sequence.num_rows > 0 &&
                        sequence.pages == sequences[s - 1].pages;
    const int first_page = shares ? scheduled_.back().first_page : pages;
    scheduled_.push_back({sequence.first_row, sequence.num_rows, keys, first_page});
    has_shared_pages |= shares;
    most_rows = std::max(most_rows, sequence.num_rows);
    batch_.num_rows += sequence.num_rows;
    pages = std::max(pages, first_page + held_pages(options_, keys));
  }
  CHECK(pages <= options_.max_pages);
  const int group = options_.num_heads / options_.kv_heads;
  batch_.tile_pairs = attention_tile_pairs(most_rows * group);

  batch_.num_pages = pages;
  choose_schedules(most_rows, is_padded, has_adjacent_rows(scheduled_) && !has_shared_pages);
}

void AttentionTables::choose_schedules(int most_rows, bool is_padded, bool is_adjacent) {
  const int group = options_.num_heads / options_.kv_heads;
  const bool is_fast = adapters::kHasFlashInfer && is_hopper_ && options_.cp_size == 1 &&
                       options_.dtype == DType::kBF16 && batch_.num_rows > 0;
  has_latent_ = is_fast && is_latent(options_);
  if (has_latent_) latent_ = LatentSchedule::of_device(num_sms_, options_.num_heads, most_rows);
  has_grouped_ = is_fast && is_grouped(options_) && is_adjacent;
  has_prompts_ = has_grouped_ && !is_padded && most_rows >= PromptSchedule::kFewestRows;
  if (has_prompts_) {
    for (ScheduledSequence& sequence : scheduled_) {
      sequence.is_prompt = sequence.num_rows >= PromptSchedule::kFewestRows;
    }
  }
  if (has_grouped_) {
    grouped_ = GroupedSchedule::of_batch(num_sms_, options_.kv_heads, group, options_.page_size,
                                         scheduled_, is_padded);
  }
  has_self_ = is_fast && !is_padded && options_.self_k_dim == adapters::kSelfKeyDim &&
              options_.self_v_dim == adapters::kSelfValueDim &&
              std::ranges::all_of(scheduled_, [](const ScheduledSequence& sequence) {
                return sequence.keys == sequence.num_rows;
              });
  prompts_.num_heads = self_.num_heads = options_.num_heads;
  prompts_.blocks = self_.blocks = num_sms_;
}

AttentionTables::Tables AttentionTables::place(int* base) const {
  const int64_t sequences = batch_.num_sequences;
  IntTable table(base);
  Tables tables;
  tables.first_row = table.take(sequences + 1);
  tables.rows = table.take(sequences);
  tables.first_position = table.take(sequences);
  tables.first_page = table.take(sequences + 1);
  tables.first_tile = table.take(sequences + 1);
  tables.latent = latent_;
  if (has_latent_) tables.latent.place(latent_.count_tiles(scheduled_), table);
  tables.grouped = grouped_;
  if (has_grouped_) tables.grouped.place(scheduled_, table);
  const auto pieces = [&](PromptSchedule::Keys keys) {
    return PromptSchedule::count_pieces(options_.num_heads, scheduled_, keys);
  };
  tables.prompts = prompts_;
  if (has_prompts_) tables.prompts.place(pieces(PromptSchedule::Keys::kPages), table);
  tables.self = self_;
  if (has_self_) tables.self.place(pieces(PromptSchedule::Keys::kRows), table);
  tables.used = table.used();
  tables.pages = base + tables.used;
  return tables;
}

void AttentionTables::fill(std::span<const AttentionSequence> sequences,
                           const Tables& tables) const {
  const int group = options_.num_heads / options_.kv_heads;
  int row = 0;
  int tile = 0;
  int copied = 0;  // pages
  for (int s = 0; s < batch_.num_sequences; ++s) {
    const ScheduledSequence& sequence = scheduled_[s];
    tables.first_row[s] = sequence.first_row;
    tables.rows[s] = sequence.num_rows;
    tables.first_position[s] = sequence.keys - sequence.num_rows;
    tables.first_page[s] = sequence.first_page;
    tables.first_tile[s] = tile;
    row = sequence.first_row + sequence.num_rows;
    tile += (sequence.num_rows * group + batch_.tile_pairs - 1) / batch_.tile_pairs;
    const int end = sequence.first_page + held_pages(options_, sequence.keys);
    for (; copied < end; ++copied) {
      tables.pages[copied] = sequences[s].pages[copied - sequence.first_page];
    }
  }
  tables.first_row[batch_.num_sequences] = row;
  tables.first_page[batch_.num_sequences] = batch_.num_pages;
  tables.first_tile[batch_.num_sequences] = tile;
  if (has_latent_) tables.latent.fill(scheduled_);
  if (has_grouped_) tables.grouped.fill(scheduled_);
  if (has_prompts_) tables.prompts.fill(scheduled_, PromptSchedule::Keys::kPages);
  if (has_self_) tables.self.fill(scheduled_, PromptSchedule::Keys::kRows);
}

Status AttentionTables::prepare(Stream& stream, std::span<const AttentionSequence> sequences,
                                int padded_sequences) {
  describe(sequences, padded_sequences);
  Memory::Staging& staging = memory_->staging[memory_->next];
  memory_->next = 1 - memory_->next;
  RETURN_IF_CUDA_ERROR(cudaEventSynchronize(staging.copied));
  const Tables host = place(staging.ints.as<int>());
  const int64_t ints = host.used + batch_.num_pages;
  CHECK(ints * static_cast<int64_t>(sizeof(int)) <= staging.ints.size());
  fill(sequences, host);

  const Tables device = place(memory_->device.as<int>());
  batch_.first_row = device.first_row;
  batch_.rows = device.rows;
  batch_.first_position = device.first_position;
  batch_.first_page = device.first_page;
  batch_.first_tile = device.first_tile;
  batch_.pages = device.pages;
  batch_.num_tiles = host.first_tile[batch_.num_sequences];
  latent_ = device.latent;
  grouped_ = device.grouped;
  prompts_ = device.prompts;
  self_ = device.self;

  const auto bytes = static_cast<size_t>(ints) * sizeof(int);
  const auto handle = stream_of(stream);
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(memory_->device.data(), staging.ints.data(), bytes,
                                       cudaMemcpyHostToDevice, handle));
  RETURN_IF_CUDA_ERROR(cudaEventRecord(staging.copied, handle));
  return prepare_plain(stream, sequences, padded_sequences);
}

}  // namespace wideep::kernels
