#include "kernels/attention_schedule.h"

#include <algorithm>
#include <queue>
#include <tuple>
#include <vector>

#include "base/check.h"

namespace wideep::kernels {
namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// What a piece costs beside its keys, in blocks of keys: its queries come in, its results go out.
constexpr int64_t kPieceCost = 2;
// A piece is no smaller, and a share may grow by so much rather than that less is cut off.
constexpr int64_t kSmallestPiece = 2;

struct LatentTile {
  const ScheduledSequence* sequence = nullptr;
  int first_pair = 0;
  int pairs = 0;
  int end_key = 0;  // of its last row
};

// Calls body(tile) for all tiles in order.
template <typename Body>
void for_each_tile(const LatentSchedule& schedule, std::span<const ScheduledSequence> sequences,
                   const Body& body) {
  for (const ScheduledSequence& sequence : sequences) {
    const int pairs = sequence.num_rows * schedule.num_heads;
    for (int first = 0; first < pairs; first += schedule.tile_pairs()) {
      const int count = std::min(schedule.tile_pairs(), pairs - first);
      const int last_row = (first + count - 1) / schedule.num_heads;
      body(LatentTile{&sequence, first, count, sequence.keys - sequence.num_rows + 1 + last_row});
    }
  }
}

int64_t blocks_of(const LatentTile& tile) {
  return ceil_div(std::max(tile.end_key, 0), LatentSchedule::kBlockKeys);
}

// Lays tiles on the line and cuts it.
class LatentWriter {
 public:
  LatentWriter(const LatentSchedule& schedule, int64_t cost)
      : schedule_(schedule), cost_left_(cost) {
    schedule_.group_begin[0] = 0;
    begin_share();
  }

  void add(const LatentTile& tile) {
    const int64_t blocks = blocks_of(tile);
    const int first_partial = partial_rows_;
    int64_t begin = 0;
    while (true) {
      const int64_t rest = blocks - begin;
      const int64_t room = share_left_ - kPieceCost;
      if (rest <= room + kSmallestPiece || group_ + 1 == schedule_.groups) {
        write(tile, begin, blocks, begin > 0);
        break;
      }
      if (room >= kSmallestPiece) {
        write(tile, begin, begin + room, true);
        begin += room;
        cost_left_ += kPieceCost;  // of one more piece
      }
      end_share();
      begin_share();
    }
    if (partial_rows_ > first_partial) splits_.push_back({tile, first_partial, partial_rows_});
  }

  void finish() {
    while (group_ < schedule_.groups) end_share();
    write_merges();
  }

 private:
  struct Split {
    LatentTile tile;
    int partial = 0;
    int partial_end = 0;
  };

  void begin_share() { share_left_ = ceil_div(cost_left_, schedule_.groups - group_); }
  void end_share() { schedule_.group_begin[++group_] = pieces_; }

  // Blocks [begin, end) of the tile's keys.
  void write(const LatentTile& tile, int64_t begin, int64_t end, bool is_part) {
    const int p = pieces_++;
    schedule_.first_row[p] = tile.sequence->first_row;
    schedule_.first_page[p] = tile.sequence->first_page;
    schedule_.partial[p] = is_part ? partial_rows_ : -1;
    schedule_.num_rows[p] = tile.sequence->num_rows;
    schedule_.keys[p] = tile.sequence->keys;
    schedule_.first_pair[p] = tile.first_pair;
    schedule_.begin_key[p] = static_cast<int>(begin) * LatentSchedule::kBlockKeys;
    schedule_.end_key[p] =
        std::min(static_cast<int>(end) * LatentSchedule::kBlockKeys, std::max(tile.end_key, 0));
    if (is_part) partial_rows_ += tile.pairs;
    share_left_ -= end - begin + kPieceCost;
    cost_left_ -= end - begin + kPieceCost;
  }

  void write_merges() {
    const int blocks = schedule_.num_blocks();
    const auto splits = static_cast<int>(std::ssize(splits_));
    CHECK(splits <= blocks && partial_rows_ <= schedule_.max_partial_rows());
    const int blocks_of_split = splits > 0 ? blocks / splits : 0;
    for (int b = 0; b < blocks; ++b) {
      const int of_split = splits > 0 ? b % blocks_of_split : 0;
      Split split;
      if (splits > 0 && b / blocks_of_split < splits) split = splits_[b / blocks_of_split];
      const auto share = static_cast<int>(ceil_div(split.tile.pairs, std::max(blocks_of_split, 1)));
      const int begin = std::min(of_split * share, split.tile.pairs);
      const int end = std::min(begin + share, split.tile.pairs);
      const int first =
          split.tile.sequence == nullptr
              ? 0
              : split.tile.sequence->first_row * schedule_.num_heads + split.tile.first_pair;
      schedule_.merge_begin[b] = first + begin;
      schedule_.merge_end[b] = first + end;
      schedule_.merge_partial[b] = split.partial + begin;
      schedule_.merge_partial_end[b] = split.partial_end;
      schedule_.merge_stride[b] = std::max(split.tile.pairs, 1);
    }
  }

  const LatentSchedule& schedule_;
  int64_t cost_left_;  // of all that is not written
  int64_t share_left_ = 0;
  int group_ = 0;
  int pieces_ = 0;
  int partial_rows_ = 0;
  std::vector<Split> splits_;
};

}  // namespace

LatentSchedule LatentSchedule::of_device(int num_sms, int num_heads, int most_rows) {
  LatentSchedule schedule;
  schedule.num_heads = num_heads;
  schedule.blocks_of_group = int64_t{num_heads} * most_rows > kBlockPairs ? 2 : 1;
  schedule.groups = num_sms / schedule.blocks_of_group;
  return schedule;
}

int64_t LatentSchedule::count_tiles(std::span<const ScheduledSequence> sequences) const {
  int64_t tiles = 0;
  for (const ScheduledSequence& sequence : sequences) {
    tiles += ceil_div(int64_t{sequence.num_rows} * num_heads, tile_pairs());
  }
  return tiles;
}

void LatentSchedule::place(int64_t tiles, IntTable& table) {
  const int64_t pieces = tiles + groups;  // each group ends at most one piece early
  for (int** piece :
       {&first_row, &first_page, &partial, &num_rows, &keys, &first_pair, &begin_key, &end_key}) {
    *piece = table.take(pieces);
  }
  group_begin = table.take(groups + 1);
  for (int** merge :
       {&merge_begin, &merge_end, &merge_partial, &merge_partial_end, &merge_stride}) {
    *merge = table.take(num_blocks());
  }
}

void LatentSchedule::fill(std::span<const ScheduledSequence> sequences) const {
  int64_t cost = 0;
  for_each_tile(*this, sequences,
                [&](const LatentTile& tile) { cost += blocks_of(tile) + kPieceCost; });
  LatentWriter writer(*this, cost);
  for_each_tile(*this, sequences, [&](const LatentTile& tile) { writer.add(tile); });
  writer.finish();
}

namespace {

// Keys of a chunk, so that a prefill is not cut small.
constexpr int64_t kSmallestChunk = 128;

int64_t chunks_of(const ScheduledSequence& sequence, int64_t chunk_keys) {
  return std::max<int64_t>(ceil_div(sequence.keys, chunk_keys), 1);
}

// Blocks of a KV head.
int64_t count_blocks(const GroupedSchedule& schedule, std::span<const ScheduledSequence> sequences,
                     int64_t chunk_keys) {
  int64_t blocks = 0;
  for (const ScheduledSequence& sequence : sequences) {
    blocks += schedule.tiles_of(sequence) * chunks_of(sequence, chunk_keys);
  }
  return blocks;
}

// The smallest chunk, of whole pages, with at most `grid` blocks; all keys if there is none.
int64_t choose_chunk(const GroupedSchedule& schedule, std::span<const ScheduledSequence> sequences,
                     int64_t grid) {
  int64_t most_keys = 1;
  for (const ScheduledSequence& sequence : sequences) {
    if (!sequence.is_prompt) most_keys = std::max<int64_t>(most_keys, sequence.keys);
  }
  int64_t low = ceil_div(kSmallestChunk, schedule.page_size);
  int64_t high = std::max(low, ceil_div(most_keys, schedule.page_size));
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (count_blocks(schedule, sequences, middle * schedule.page_size) <= grid) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return high * schedule.page_size;
}

}  // namespace

GroupedSchedule GroupedSchedule::of_batch(int num_sms, int kv_heads, int group, int page_size,
                                          std::span<const ScheduledSequence> sequences,
                                          bool is_fixed) {
  GroupedSchedule schedule;
  schedule.kv_heads = kv_heads;
  schedule.group = group;
  schedule.page_size = page_size;
  int64_t rows = 0;
  int64_t count = 0;
  for (const ScheduledSequence& sequence : sequences) {
    if (sequence.is_prompt) continue;
    rows += sequence.num_rows;
    ++count;
  }
  const int64_t mean = rows * group / std::max<int64_t>(count, 1);
  schedule.tile_pairs = mean <= 16 ? 16 : mean <= 64 ? 64 : 128;

  // Two blocks fit on a multiprocessor.
  const int64_t resident = std::max(2 * num_sms / kv_heads, 1);
  const int64_t tiles = count_blocks(schedule, sequences, INT32_MAX);
  schedule.is_split = 2 * tiles <= resident;
  schedule.grid = static_cast<int>(tiles);
  if (!schedule.is_split) return schedule;
  const int64_t chunk = choose_chunk(schedule, sequences, resident);
  schedule.grid = static_cast<int>(is_fixed ? resident : count_blocks(schedule, sequences, chunk));
  schedule.is_split = is_fixed || schedule.grid > tiles;
  const int64_t rows_of_tile = std::min<int64_t>(ceil_div(schedule.tile_pairs, group), rows);
  schedule.partial_rows = schedule.grid * rows_of_tile;
  return schedule;
}

void GroupedSchedule::place(std::span<const ScheduledSequence> sequences, IntTable& table) {
  int64_t rows = 0;
  for (const ScheduledSequence& one : sequences) rows += one.num_rows;
  sequence = table.take(grid);
  tile = table.take(grid);
  chunk = table.take(grid);
  is_valid = reinterpret_cast<bool*>(table.take(ceil_div(grid, sizeof(int))));
  row_begin = table.take(std::ssize(sequences) + 1);
  merge_begin = table.take(rows + 1);
  chunk_keys = table.take(1);
  last_page_keys = table.take(std::ssize(sequences));
}

void GroupedSchedule::fill(std::span<const ScheduledSequence> sequences) const {
  const int64_t keys = is_split ? choose_chunk(*this, sequences, grid) : INT32_MAX;
  *chunk_keys = static_cast<int>(keys);
  int block = 0;
  int row = 0;
  int out_row = 0;
  for (int s = 0; s < std::ssize(sequences); ++s) {
    const ScheduledSequence& one = sequences[s];
    // Prompts have no partial rows.
    const int chunks = one.is_prompt ? (is_split ? 0 : 1) : static_cast<int>(chunks_of(one, keys));
    // The last rows see the most keys, and begin first.
    for (int t = tiles_of(one) - 1; t >= 0; --t) {
      for (int c = 0; c < chunks; ++c, ++block) {
        CHECK(block < grid);
        sequence[block] = s;
        tile[block] = t;
        chunk[block] = c;
        is_valid[block] = true;
      }
    }
    row_begin[s] = out_row;
    last_page_keys[s] = one.keys > 0 ? (one.keys - 1) % page_size + 1 : 0;
    for (int i = 0; i < one.num_rows; ++i, ++row, out_row += chunks) merge_begin[row] = out_row;
  }
  row_begin[std::ssize(sequences)] = out_row;
  merge_begin[row] = out_row;
  std::fill(is_valid + block, is_valid + grid, false);
}

namespace {

struct PromptTile {
  int sequence = 0;
  int tile = 0;
  int keys = 0;  // that its last row sees
};

// Of one head, the longest of a sequence first.
std::vector<PromptTile> prompt_tiles(std::span<const ScheduledSequence> sequences,
                                     PromptSchedule::Keys keys_are) {
  std::vector<PromptTile> tiles;
  for (int s = 0; s < std::ssize(sequences); ++s) {
    const ScheduledSequence& one = sequences[s];
    const bool is_paged = keys_are == PromptSchedule::Keys::kPages;
    if (is_paged && !one.is_prompt) continue;
    const int before = is_paged ? one.keys - one.num_rows : 0;
    const auto count = static_cast<int>(ceil_div(one.num_rows, PromptSchedule::kTileRows));
    for (int tile = count - 1; tile >= 0; --tile) {
      const int end_row = std::min((tile + 1) * PromptSchedule::kTileRows, one.num_rows);
      tiles.push_back({s, tile, before + end_row});
    }
  }
  std::ranges::stable_sort(tiles, std::greater(), &PromptTile::keys);
  return tiles;
}

}  // namespace

int64_t PromptSchedule::count_pieces(int num_heads, std::span<const ScheduledSequence> sequences,
                                     Keys keys_are) {
  int64_t tiles = 0;
  for (const ScheduledSequence& one : sequences) {
    if (keys_are == Keys::kPages && !one.is_prompt) continue;
    tiles += ceil_div(one.num_rows, kTileRows);
  }
  return tiles * num_heads;
}

void PromptSchedule::place(int64_t pieces, IntTable& table) {
  block_begin = table.take(blocks + 1);
  for (int** piece : {&sequence, &head, &tile, &first_row, &first_key, &num_rows, &keys}) {
    *piece = table.take(pieces);
  }
}

void PromptSchedule::fill(std::span<const ScheduledSequence> sequences, Keys keys_are) const {
  const std::vector<PromptTile> tiles = prompt_tiles(sequences, keys_are);
  // Head after head, the next tile goes to the block that has the least to do.
  using Load = std::tuple<int64_t, int>;  // keys, block
  std::priority_queue<Load, std::vector<Load>, std::greater<>> loads;
  for (int b = 0; b < blocks; ++b) loads.emplace(0, b);
  std::vector<int> block_of;
  std::fill_n(block_begin, blocks + 1, 0);
  for (int h = 0; h < num_heads; ++h) {
    for (const PromptTile& tile_of : tiles) {
      const auto [load, block] = loads.top();
      loads.pop();
      loads.emplace(load + tile_of.keys + kTileRows, block);
      block_of.push_back(block);
      ++block_begin[block + 1];
    }
  }
  for (int b = 0; b < blocks; ++b) block_begin[b + 1] += block_begin[b];
  std::vector<int> next(block_begin, block_begin + blocks);
  size_t i = 0;
  for (int h = 0; h < num_heads; ++h) {
    for (const PromptTile& tile_of : tiles) {
      const ScheduledSequence& one = sequences[tile_of.sequence];
      const bool is_paged = keys_are == Keys::kPages;
      const int piece = next[block_of[i++]]++;
      sequence[piece] = tile_of.sequence;
      head[piece] = h;
      tile[piece] = tile_of.tile;
      first_row[piece] = one.first_row;
      first_key[piece] = is_paged ? one.first_page : one.first_row;
      num_rows[piece] = one.num_rows;
      keys[piece] = is_paged ? one.keys : one.num_rows;
    }
  }
}

}  // namespace wideep::kernels
