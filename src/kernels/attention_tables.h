// What attention on a GPU must know about a batch: which rows belong to which sequence, where the
// keys are, and how the work is cut. It is made once for all layers of a pass, before its first op:
//
//   tables->prepare(stream, sequences);            // a copy on the stream
//   attention(stream, {..., .tables = tables});    // for each layer
//
// Addresses never change, so a captured graph of a pass reads what the last prepare() before its
// replay wrote. For that the batch is padded to the size that the graph was captured with.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "base/stream.h"
#include "kernels/attention.h"
#include "kernels/attention_schedule.h"

namespace wideep::kernels {

// What the kernel that takes every case can hold of a row.
inline constexpr int kMaxAttentionKeyDim = 576;
inline constexpr int kMaxAttentionValueDim = 512;
inline constexpr int kMaxAttentionRowDim = 640;  // of the cache

// Limits of all batches, and the one shape that the layers of a model share.
struct AttentionTablesOptions {
  int max_sequences = 0;  // of a batch
  int max_rows = 0;
  int64_t max_pages = 0;  // of all sequences of a batch together
  int page_size = 0;      // tokens

  int num_heads = 0;
  int kv_heads = 0;
  int k_dim = 0;
  int v_dim = 0;
  // Of queries, outputs and cache; the fast kernels are for kBF16 in all three, the rest works too.
  DType dtype = DType::kBF16;
  int chunk_size = 0;  // of the layers that have chunks
  int cp_size = 1;
  int cp_rank = 0;
  // Of self_attention() on the same sequences; 0 where a model has none.
  int self_k_dim = 0;
  int self_v_dim = 0;
};

// Pairs of a row and a head in a tile, where the largest sequence has `pairs` for each KV head.
inline constexpr int attention_tile_pairs(int pairs) {
  return pairs <= 8 ? 8 : 32;
}

// A batch as the kernels see it. Pointers are memory of the device.
struct AttentionBatch {
  int num_sequences = 0;  // with those that fill the batch up
  int num_rows = 0;
  const int* first_row = nullptr;       // [num_sequences + 1] if rows are adjacent: and their end
  const int* rows = nullptr;            // [num_sequences]
  const int* first_position = nullptr;  // [num_sequences], -1 for those that fill up: they see none
  const int* first_page = nullptr;      // [num_sequences + 1] index in `pages`
  const int* pages = nullptr;           // of this rank, sequence by sequence
  int num_pages = 0;

  int tile_pairs = 0;               // pairs of a row and a head that share a KV head
  int num_tiles = 0;                // of one KV head
  const int* first_tile = nullptr;  // [num_sequences + 1]
};

// Used by one thread and one stream at a time.
class AttentionTables {
 public:
  // On the current device. All memory is taken here.
  static Result<std::unique_ptr<AttentionTables>> create(const AttentionTablesOptions& options);
  // Of device memory, for the plan of memory.
  static int64_t device_bytes(const AttentionTablesOptions& options);
  ~AttentionTables();

  // What a call with that chunk size and the options' context parallelism is to run on: these, or
  // others, whose sequences are cut so that neither is left. Null: only the kernel that knows both.
  const AttentionTables* plain(int chunk_size) const;

  // Waits only if the batch before the last one is still being copied. Never while a graph is
  // captured. The sequences are of the host; rows of a batch without a sequence keep what they had.
  //
  // padded_sequences > 0: a batch of a graph. Sequence i has row i alone, and rows from
  // sequences.size() to padded_sequences get zeros as their attention.
  Status prepare(Stream& stream, std::span<const AttentionSequence> sequences,
                 int padded_sequences = 0);

  const AttentionTablesOptions& options() const { return options_; }
  // Of the last prepare().
  const AttentionBatch& batch() const { return batch_; }
  // How a fast kernel is to cut that batch; null where there is none for it.
  const LatentSchedule* latent() const { return has_latent_ ? &latent_ : nullptr; }
  const GroupedSchedule* grouped() const { return has_grouped_ ? &grouped_ : nullptr; }
  const PromptSchedule* prompts() const { return has_prompts_ ? &prompts_ : nullptr; }
  // Whether self_attention() works on the batch.
  const PromptSchedule* self() const { return has_self_ ? &self_ : nullptr; }

 private:
  struct Memory;  // of the device and the host, and when the latter may be written again
  struct Tables;  // pointers into it

  explicit AttentionTables(const AttentionTablesOptions& options);

  Status create_plain();
  Status prepare_plain(Stream& stream, std::span<const AttentionSequence> sequences,
                       int padded_sequences);
  void describe(std::span<const AttentionSequence> sequences, int padded_sequences);
  void choose_schedules(int most_rows, bool is_padded, bool is_adjacent);
  Tables place(int* base) const;
  void fill(std::span<const AttentionSequence> sequences, const Tables& tables) const;

  AttentionTablesOptions options_;
  int num_sms_ = 0;
  bool is_hopper_ = false;
  std::vector<ScheduledSequence> scheduled_;  // of the batch
  AttentionBatch batch_;
  bool has_latent_ = false;
  LatentSchedule latent_;
  bool has_grouped_ = false;
  GroupedSchedule grouped_;
  bool has_prompts_ = false;
  PromptSchedule prompts_;
  bool has_self_ = false;
  PromptSchedule self_;
  std::unique_ptr<Memory> memory_;
  std::unique_ptr<AttentionTables> chunked_;  // a sequence for each chunk
  std::unique_ptr<AttentionTables> local_;    // over this rank's keys
  bool has_local_ = false;                    // of the batch
  std::vector<AttentionSequence> plain_sequences_;
};

}  // namespace wideep::kernels
