#include "engine/kv_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/random.h"

namespace wideep::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<int> iota(int count) {
  std::vector<int> values(static_cast<size_t>(count));
  std::iota(values.begin(), values.end(), 0);
  return values;
}

KvCache cache_of(int num_pages, bool partial = false) {
  return KvCache({.num_pages = num_pages, .page_tokens = 4, .enable_partial_reuse = partial});
}

// A table with the pages of all tokens, registered.
PageTable fill(KvCache& cache, const std::vector<int>& tokens) {
  PageTable table;
  std::vector<PageCopy> copies;
  cache.take_prefix(tokens, table, copies);
  EXPECT_TRUE(cache.extend(static_cast<int>(tokens.size()), table));
  cache.register_blocks(tokens, static_cast<int>(tokens.size()), table);
  return table;
}

TEST(KvCache, ExtendsAllOrNothing) {
  KvCache cache = cache_of(3);
  PageTable table;
  EXPECT_TRUE(cache.extend(5, table));
  EXPECT_THAT(table.pages, ElementsAre(0, 1));
  EXPECT_TRUE(cache.extend(8, table));  // has the room
  EXPECT_EQ(cache.num_available(), 1);
  EXPECT_FALSE(cache.extend(17, table));
  EXPECT_THAT(table.pages, ElementsAre(0, 1));
  cache.release(table);
  EXPECT_THAT(table.pages, IsEmpty());
  EXPECT_EQ(cache.num_available(), 3);
}

TEST(KvCache, FullBlocksAreSharedAndCounted) {
  KvCache cache = cache_of(8);
  PageTable first = fill(cache, iota(10));
  PageTable second;
  std::vector<PageCopy> copies;
  EXPECT_EQ(cache.take_prefix(iota(10), second, copies), 8);
  EXPECT_EQ(second.pages, std::vector(first.pages.begin(), first.pages.begin() + 2));
  EXPECT_THAT(copies, IsEmpty());
  cache.release(first);
  EXPECT_EQ(cache.num_available(), 6);  // the second still holds two
  cache.release(second);
  EXPECT_EQ(cache.num_available(), 8);
}

TEST(KvCache, BlocksOfAnotherPrefixDoNotMatch) {
  KvCache cache = cache_of(8);
  PageTable first = fill(cache, iota(8));
  std::vector<int> other = iota(8);
  other[0] = 99;  // the second block has the same tokens
  PageTable second;
  std::vector<PageCopy> copies;
  EXPECT_EQ(cache.take_prefix(other, second, copies), 0);
}

TEST(KvCache, EvictsTheLeastRecentlyReleasedEndsFirst) {
  KvCache cache = cache_of(4);
  PageTable table = fill(cache, iota(16));
  const std::vector<int> pages = table.pages;
  cache.release(table);
  PageTable other;
  EXPECT_TRUE(cache.extend(4, other));
  EXPECT_THAT(other.pages, ElementsAre(pages[3]));
  std::vector<PageCopy> copies;
  EXPECT_EQ(cache.take_prefix(iota(16), table, copies), 12);
}

TEST(KvCache, ABlockComputedTwiceIsRegisteredOnce) {
  KvCache cache = cache_of(8);
  PageTable a;
  PageTable b;
  ASSERT_TRUE(cache.extend(8, a) && cache.extend(8, b));
  cache.register_blocks(iota(8), 8, a);
  cache.register_blocks(iota(8), 8, b);
  EXPECT_EQ(a.last_block, b.last_block);
  const std::vector<int> pages = a.pages;
  cache.release(b);
  cache.release(a);
  std::vector<PageCopy> copies;
  PageTable again;
  EXPECT_EQ(cache.take_prefix(iota(8), again, copies), 8);
  EXPECT_EQ(again.pages, pages);
}

TEST(KvCache, APartOfABlockIsCopied) {
  KvCache cache = cache_of(8, /*partial=*/true);
  PageTable first = fill(cache, iota(8));
  std::vector<int> other = iota(8);
  other[6] = 99;
  PageTable second;
  std::vector<PageCopy> copies;
  EXPECT_EQ(cache.take_prefix(other, second, copies), 6);
  ASSERT_EQ(second.pages.size(), 2U);
  EXPECT_EQ(second.pages[0], first.pages[0]);
  EXPECT_THAT(copies, ElementsAre(PageCopy{first.pages[1], second.pages[1], 2}));
  EXPECT_EQ(second.num_registered, 1);
}

TEST(KvCache, WithoutAPageForTheCopyThePartIsComputed) {
  KvCache cache = cache_of(2, /*partial=*/true);
  PageTable first = fill(cache, iota(8));
  PageTable second;
  std::vector<PageCopy> copies;
  EXPECT_EQ(cache.take_prefix(iota(6), second, copies), 4);
  EXPECT_THAT(copies, IsEmpty());
}

TEST(KvCache, WithoutReuseNothingIsKept) {
  KvCache cache({.num_pages = 4, .page_tokens = 4, .enable_block_reuse = false});
  PageTable table = fill(cache, iota(8));
  cache.release(table);
  std::vector<PageCopy> copies;
  EXPECT_EQ(cache.take_prefix(iota(8), table, copies), 0);
}

// Random sequences over few tokens come and go: pages are never in two places unless their content
// is the same, and none is lost.
TEST(KvCache, PagesHaveTheContentThatTheirHoldersMean) {
  Random random(3);
  KvCache cache = cache_of(12, /*partial=*/true);
  std::vector<std::vector<int>> content(12);  // [page]: tokens from the sequence's start to its end
  struct Holder {
    std::vector<int> tokens;
    PageTable table;
  };
  std::vector<Holder> holders;
  int reused = 0;
  for (int step = 0; step < 5000; ++step) {
    if (holders.size() < 4) {
      Holder holder;
      for (uint64_t i = 1 + random.below(20); i > 0; --i) {
        holder.tokens.push_back(static_cast<int>(random.below(2)));
      }
      std::vector<PageCopy> copies;
      const auto& tokens = holder.tokens;
      int computed = cache.take_prefix(tokens, holder.table, copies);
      reused += computed;
      for (const PageCopy& copy : copies)
        content[static_cast<size_t>(copy.to)] = content[static_cast<size_t>(copy.from)];
      for (int i = 0; i < computed; ++i) {
        const auto& page =
            content[static_cast<size_t>(holder.table.pages[static_cast<size_t>(i / 4)])];
        ASSERT_TRUE(std::equal(tokens.begin(), tokens.begin() + i + 1, page.begin()))
            << "position " << i;
      }
      if (!cache.extend(static_cast<int>(tokens.size()), holder.table)) {
        cache.release(holder.table);
      } else {
        for (size_t i = static_cast<size_t>(computed) / 4; i < holder.table.pages.size(); ++i) {
          content[static_cast<size_t>(holder.table.pages[i])] = {
              tokens.begin(),
              tokens.begin() + static_cast<std::ptrdiff_t>(std::min(tokens.size(), 4 * (i + 1)))};
        }
        cache.register_blocks(tokens, static_cast<int>(tokens.size()), holder.table);
        holders.push_back(std::move(holder));
        continue;
      }
    }
    if (holders.empty()) continue;
    const size_t victim = random.below(holders.size());
    cache.release(holders[victim].table);
    holders.erase(holders.begin() + static_cast<std::ptrdiff_t>(victim));
  }
  for (Holder& holder : holders) cache.release(holder.table);
  EXPECT_EQ(cache.num_available(), 12);
  EXPECT_GT(reused, 5000);
}

}  // namespace
}  // namespace wideep::engine
