// Pages of the KV cache: who holds them, and which computed blocks can be used again.
//
// A page holds the keys and values of page_tokens consecutive positions of a sequence. Pages are
// counted, never touched: this is bookkeeping, the memory belongs to the engine. Nothing here
// depends on time or on the order of a hash table, so ranks that make the same calls have the same
// pages.
//
// Reuse: a full page whose tokens are computed is registered under (block before it, its tokens).
// Block ids are never given twice, so a chain of blocks stands for one sequence of tokens, exactly:
// no hash, no collision. Registered pages that nobody holds stay until their room is needed, the
// least recently released first, ends of sequences before their beginnings. A partial match of a
// block is copied to a fresh page.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <utility>
#include <vector>

namespace wideep::engine {

// Copies the first `num_tokens` tokens of a page, in all layers and on all ranks, before the
// iteration's batch runs; in the order of the list.
struct PageCopy {
  int from = 0;
  int to = 0;
  int num_tokens = 0;

  bool operator==(const PageCopy&) const = default;
};

// The pages of one sequence: page i holds positions [i * page_tokens, (i + 1) * page_tokens).
struct PageTable {
  std::vector<int> pages;

  // Blocks [0, num_registered) are known to the cache; `last_block` is the id of the last of them,
  // 0 for none.
  int num_registered = 0;
  int64_t last_block = 0;
};

class KvCache {
 public:
  struct Options {
    int num_pages = 0;
    int page_tokens = 32;
    bool enable_block_reuse = true;
    bool enable_partial_reuse = true;
  };
  explicit KvCache(const Options& options);

  int num_pages() const { return static_cast<int>(pages_.size()); }
  // Pages that extend() can give out: free ones and registered ones that nobody holds.
  int num_available() const { return static_cast<int>(free_.size() + unused_.size()); }
  int pages_for(int num_tokens) const {
    return (num_tokens + options_.page_tokens - 1) / options_.page_tokens;
  }

  // Fills an empty table with what the cache has of the first `tokens` and returns how many of them
  // are computed then. Appends to `copies` where the last of these pages is a partial match.
  // O(blocks log cached).
  int take_prefix(std::span<const int> tokens, PageTable& table, std::vector<PageCopy>& copies);

  // Adds pages until the table has room for num_tokens; false, and nothing changed, where too few
  // are available.
  bool extend(int num_tokens, PageTable& table);

  // Registers the full blocks of tokens[0, num_computed) that are not registered yet.
  void register_blocks(std::span<const int> tokens, int num_computed, PageTable& table);

  // Gives all pages back and empties the table.
  void release(PageTable& table);

 private:
  using Tokens = std::vector<int>;
  struct BlockKey {
    int64_t parent = 0;
    Tokens tokens;
  };
  // What find() compares with, so that looking up needs no copy.
  struct BlockView {
    int64_t parent = 0;
    std::span<const int> tokens;
  };
  struct BlockLess {
    using is_transparent = void;
    template <typename A, typename B>
    bool operator()(const A& a, const B& b) const {
      return less({a.parent, a.tokens}, {b.parent, b.tokens});
    }
    static bool less(const BlockView& a, const BlockView& b);
  };
  using Index = std::map<BlockKey, int, BlockLess>;  // block -> page

  struct Page {
    int holders = 0;
    int64_t block = 0;     // id, 0: not registered
    int64_t released = 0;  // when it was last released, counted in releases
    Index::iterator entry = {};
  };

  Page& page(int id) { return pages_[static_cast<size_t>(id)]; }
  void hold(int id);
  // A page with one holder and no content. num_available() > 0.
  int take_page();
  void give_back(int id);
  // Copies the longest partial match of the block `tokens` after `parent` to a fresh page; returns
  // its length, 0 where there is none or no page for it.
  int take_partial(int64_t parent, std::span<const int> tokens, PageTable& table,
                   std::vector<PageCopy>& copies);

  Options options_;
  std::vector<Page> pages_;
  std::vector<int> free_;                     // never registered, or evicted
  std::set<std::pair<int64_t, int>> unused_;  // (released, page): registered, no holder
  Index index_;
  int64_t last_block_ = 0;
  int64_t num_releases_ = 0;
};

}  // namespace wideep::engine
