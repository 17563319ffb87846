// How the fast attention kernels' work is cut among thread blocks. Host code: the tables that it
// writes are copied to the device as they are. kernels/adapters/ says which kernels read them.
#pragma once

#include <cstdint>
#include <span>

namespace wideep::kernels {

struct ScheduledSequence {
  int first_row = 0;
  int num_rows = 0;
  int keys = 0;            // with those of its rows; row i sees keys - num_rows + 1 + i
  int first_page = 0;      // index in the list of all pages
  bool is_prompt = false;  // PromptSchedule has it, GroupedSchedule not
};

// Hands out pieces of a table of ints, in memory of the host or, by the same calls, of the device.
class IntTable {
 public:
  explicit IntTable(int* base) : base_(base) {}
  int* take(int64_t count) {
    int* piece = base_ + used_;
    used_ += (count + 3) / 4 * 4;  // 16 bytes
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  int* base_;
  int64_t used_ = 0;
};

// Latent attention: all heads share one row of the cache, so that the rows of a sequence and their
// heads are `pairs`, and a tile of pairs goes over the keys of the sequence at once. Groups of one
// or two thread blocks, as many as the device holds at a time, take equal shares of all tiles'
// keys: the tiles lie on a line that is cut where a share is full, so a tile has several pieces
// where a cut meets it. Afterwards each block adds the pieces of some rows.
struct LatentSchedule {
  static constexpr int kBlockPairs = 64;  // of one thread block
  static constexpr int kBlockKeys = 64;   // pieces begin at multiples

  int num_heads = 0;
  int blocks_of_group = 1;  // 1 or 2: together they have a tile
  int groups = 0;

  // Pieces, group by group.
  int* first_row = nullptr;   // of the sequence
  int* first_page = nullptr;  // of the sequence
  int* partial = nullptr;     // row of the partial results where the piece's are, -1: it is all
  int* num_rows = nullptr;    // of the sequence
  int* keys = nullptr;        // of the sequence
  int* first_pair = nullptr;  // of the tile, in the sequence
  int* begin_key = nullptr;
  int* end_key = nullptr;
  int* group_begin = nullptr;  // [groups + 1] of pieces
  // [groups * blocks_of_group] What a block adds: pairs [begin, end) of all rows and heads, whose
  // pieces are at partial rows merge_partial, + merge_stride, ... below merge_partial_end.
  int* merge_begin = nullptr;
  int* merge_end = nullptr;
  int* merge_partial = nullptr;
  int* merge_partial_end = nullptr;
  int* merge_stride = nullptr;

  int tile_pairs() const { return kBlockPairs * blocks_of_group; }
  int num_blocks() const { return groups * blocks_of_group; }
  // Partial rows that any schedule has at most.
  int64_t max_partial_rows() const { return int64_t{2} * groups * tile_pairs(); }
  // The kernel finds the last key of a tile by a division that is exact then.
  static bool fits(int num_heads) { return num_heads > 0 && kBlockPairs * 2 % num_heads == 0; }
  // Groups of two where one block has too few pairs for a sequence.
  static LatentSchedule of_device(int num_sms, int num_heads, int most_rows);

  int64_t count_tiles(std::span<const ScheduledSequence> sequences) const;
  // Places the tables; more tiles, more memory.
  void place(int64_t tiles, IntTable& table);
  // Fills the tables.
  void fill(std::span<const ScheduledSequence> sequences) const;
};

// Grouped-query attention: a thread block has a tile of pairs (row, head of a group) of one
// sequence and KV head, and all of the keys or, where tiles are few, a chunk of them: all chunks
// have the same size, which is the smallest for which the device holds all blocks at a time.
struct GroupedSchedule {
  int kv_heads = 1;
  int group = 1;       // query heads of a KV head
  int tile_pairs = 0;  // 16, 64 or 128
  int page_size = 0;
  int grid = 0;  // blocks of a KV head, valid or not
  bool is_split = false;
  int64_t partial_rows = 0;  // at most, where it is split

  int* sequence = nullptr;        // [grid]
  int* tile = nullptr;            // [grid]
  int* chunk = nullptr;           // [grid]
  bool* is_valid = nullptr;       // [grid]
  int* row_begin = nullptr;       // [sequences + 1] rows of the outputs or of the partial ones
  int* merge_begin = nullptr;     // [rows + 1] partial rows of each row
  int* chunk_keys = nullptr;      // [1]
  int* last_page_keys = nullptr;  // [sequences]

  // Rows must lie one behind the other, from 0 on. `is_fixed`: the grid, the tiles and whether it
  // is split depend on the number of rows and sequences alone, each of one row.
  static GroupedSchedule of_batch(int num_sms, int kv_heads, int group, int page_size,
                                  std::span<const ScheduledSequence> sequences, bool is_fixed);

  int tiles_of(const ScheduledSequence& sequence) const {
    if (sequence.is_prompt) return 0;
    return (sequence.num_rows * group + tile_pairs - 1) / tile_pairs;
  }
  void place(std::span<const ScheduledSequence> sequences, IntTable& table);
  void fill(std::span<const ScheduledSequence> sequences) const;
};

// Prompts: a thread block has a tile of rows of one sequence and head over all of its keys. Blocks,
// one for each multiprocessor, get a list of tiles; the tiles of a head are neighbours in time, so
// that its keys stay in the cache.
struct PromptSchedule {
  static constexpr int kTileRows = 128;
  // Of a sequence: with fewer, most of a tile is empty, and GroupedSchedule does better.
  static constexpr int kFewestRows = 64;

  int num_heads = 0;
  int blocks = 0;

  int* block_begin = nullptr;  // [blocks + 1] of pieces
  // Pieces, block by block.
  int* sequence = nullptr;
  int* head = nullptr;
  int* tile = nullptr;       // of the sequence
  int* first_row = nullptr;  // of the sequence
  int* first_key = nullptr;  // of the sequence: a row, or its first page in the list of all
  int* num_rows = nullptr;   // of the sequence
  int* keys = nullptr;       // of the sequence

  // kPages: the sequences with is_prompt, over all of their keys. kRows: all sequences, over their
  // own rows.
  enum class Keys { kPages, kRows };

  static int64_t count_pieces(int num_heads, std::span<const ScheduledSequence> sequences,
                              Keys keys_are);
  void place(int64_t pieces, IntTable& table);
  void fill(std::span<const ScheduledSequence> sequences, Keys keys_are) const;
};

}  // namespace wideep::kernels
