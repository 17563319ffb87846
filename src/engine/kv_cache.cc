#include "engine/kv_cache.h"

#include <algorithm>
#include <iterator>
#include <tuple>

#include "base/check.h"

namespace wideep::engine {
namespace {

int common_prefix(std::span<const int> a, std::span<const int> b) {
  return static_cast<int>(std::ranges::mismatch(a, b).in1 - a.begin());
}

}  // namespace

bool KvCache::BlockLess::less(const BlockView& a, const BlockView& b) {
  if (a.parent != b.parent) return a.parent < b.parent;
  return std::ranges::lexicographical_compare(a.tokens, b.tokens);
}

KvCache::KvCache(const Options& options)
    : options_(options), pages_(static_cast<size_t>(options.num_pages)) {
  CHECK(options.num_pages >= 1 && options.page_tokens >= 1);
  // From the back, so that pages are given out from 0 on: memory is touched in order.
  for (int id = options.num_pages - 1; id >= 0; --id) free_.push_back(id);
}

void KvCache::hold(int id) {
  Page& held = page(id);
  if (held.holders++ == 0) unused_.erase({held.released, id});
}

int KvCache::take_page() {
  int id = 0;
  if (!free_.empty()) {
    id = free_.back();
    free_.pop_back();
  } else {
    CHECK(!unused_.empty());
    id = unused_.begin()->second;
    unused_.erase(unused_.begin());
    index_.erase(page(id).entry);
    page(id) = {};
  }
  page(id).holders = 1;
  return id;
}

void KvCache::give_back(int id) {
  Page& returned = page(id);
  CHECK(returned.holders > 0);
  if (--returned.holders > 0) return;
  if (returned.block == 0) {
    free_.push_back(id);
  } else {
    returned.released = ++num_releases_;
    unused_.insert({returned.released, id});
  }
}

int KvCache::take_prefix(std::span<const int> tokens, PageTable& table,
                         std::vector<PageCopy>& copies) {
  CHECK(table.pages.empty());
  if (!options_.enable_block_reuse) return 0;
  const auto block_size = static_cast<size_t>(options_.page_tokens);
  size_t begin = 0;
  for (; begin + block_size <= tokens.size(); begin += block_size) {
    const auto found = index_.find(BlockView{table.last_block, tokens.subspan(begin, block_size)});
    if (found == index_.end()) break;
    hold(found->second);
    table.pages.push_back(found->second);
    table.last_block = page(found->second).block;
    ++table.num_registered;
  }
  const std::span<const int> rest =
      tokens.subspan(begin, std::min(block_size, tokens.size() - begin));
  int matched = static_cast<int>(begin);
  if (options_.enable_partial_reuse && !rest.empty()) {
    matched += take_partial(table.last_block, rest, table, copies);
  }
  return matched;
}

int KvCache::take_partial(int64_t parent, std::span<const int> tokens, PageTable& table,
                          std::vector<PageCopy>& copies) {
  // In the order of the index the longest common prefix is with a neighbour.
  const auto after = index_.lower_bound(BlockView{parent, tokens});
  int best = 0;
  int from = -1;
  const auto consider = [&](Index::const_iterator entry) {
    if (entry->first.parent != parent) return;
    const int length = common_prefix(tokens, entry->first.tokens);
    if (length > best) std::tie(best, from) = std::pair(length, entry->second);
  };
  if (after != index_.end()) consider(after);
  if (after != index_.begin()) consider(std::prev(after));
  if (best == 0) return 0;
  hold(from);  // so that it is not the page that is taken for the copy
  if (num_available() > 0) {
    table.pages.push_back(take_page());
    copies.push_back({from, table.pages.back(), best});
  } else {
    best = 0;
  }
  give_back(from);
  return best;
}

bool KvCache::extend(int num_tokens, PageTable& table) {
  const int missing = pages_for(num_tokens) - static_cast<int>(table.pages.size());
  if (missing > num_available()) return false;
  for (int i = 0; i < missing; ++i) table.pages.push_back(take_page());
  return true;
}

void KvCache::register_blocks(std::span<const int> tokens, int num_computed, PageTable& table) {
  if (!options_.enable_block_reuse) return;
  const auto block_size = static_cast<size_t>(options_.page_tokens);
  while ((table.num_registered + 1) * options_.page_tokens <= num_computed) {
    const auto i = static_cast<size_t>(table.num_registered);
    const std::span<const int> block = tokens.subspan(i * block_size, block_size);
    auto entry = index_.find(BlockView{table.last_block, block});
    if (entry == index_.end()) {
      const int id = table.pages[i];
      CHECK(page(id).block == 0 && page(id).holders == 1);
      entry = index_.insert({{table.last_block, Tokens(block.begin(), block.end())}, id}).first;
      page(id).block = ++last_block_;
      page(id).entry = entry;
    }
    // Where another sequence was first, its page stands for the block and ours ends with us.
    table.last_block = page(entry->second).block;
    ++table.num_registered;
  }
}

void KvCache::release(PageTable& table) {
  // From the end, so that it is evicted before what it builds on.
  std::for_each(table.pages.rbegin(), table.pages.rend(), [this](int id) { give_back(id); });
  table = {};
}

}  // namespace wideep::engine
