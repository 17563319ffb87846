#include "engine/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_testing.h"

namespace wideep::engine {
namespace {

using ::testing::HasSubstr;

MemoryPlanInput input_of() {
  return {.available_bytes = 10'000'000,
          .weight_bytes = 3'000'000,
          .activation_bytes = 1'000'000,
          .kv_bytes_per_token = 1000,
          .page_size = 32,
          .cp = 1,
          .free_memory_fraction = 0.5,
          .max_tokens = std::nullopt,
          .max_batch_size = 1000,
          .max_seq_len = 4096};
}

TEST(MemoryPlan, TakesAShareOfWhatIsLeft) {
  const MemoryPlan plan = plan_memory(input_of()).value();
  EXPECT_EQ(plan.num_pages, 93);  // 3 MB in pages of 32 kB
  EXPECT_EQ(plan.kv_cache, 93 * 32'000);
  EXPECT_EQ(plan.page_tokens, 32);
}

TEST(MemoryPlan, TakesNoMoreThanAllSequencesNeed) {
  MemoryPlanInput input = input_of();
  input.max_batch_size = 2;
  input.max_seq_len = 100;  // 4 pages
  EXPECT_EQ(plan_memory(input)->num_pages, 8);
}

TEST(MemoryPlan, ContextParallelRanksShareTheSpanOfAPage) {
  MemoryPlanInput input = input_of();
  input.cp = 2;
  input.max_batch_size = 2;
  input.max_seq_len = 100;  // 2 pages of 64 positions
  const MemoryPlan plan = plan_memory(input).value();
  EXPECT_EQ(plan.num_pages, 4);
  EXPECT_EQ(plan.page_tokens, 64);
  EXPECT_EQ(plan.kv_cache, 4 * 32'000);
}

TEST(MemoryPlan, HoldsToTheTokensThatAreAllowed) {
  MemoryPlanInput input = input_of();
  input.max_tokens = 100;
  EXPECT_EQ(plan_memory(input)->num_pages, 3);
  input.max_tokens = 31;
  EXPECT_EQ(error_of(plan_memory(input)),
            "kv_cache_config.max_tokens: 31: must be at least tokens_per_block 32");
}

TEST(MemoryPlan, TooLittleMemoryNamesAllNumbers) {
  MemoryPlanInput input = input_of();
  input.weight_bytes = 8'950'000;
  EXPECT_EQ(plan_memory(input).status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(error_of(plan_memory(input)),
              HasSubstr("this rank has 9.5 MiB, its weights take 8.5 MiB and its activations 1.0 "
                        "MiB; of what is left the KV cache gets 0.0 MiB, and a page of 32 tokens "
                        "takes 0.0 MiB"));
  input.weight_bytes = 20'000'000;
  EXPECT_FALSE(plan_memory(input).is_ok());
}

TEST(MemoryPlan, FewerPagesTakeLess) {
  const MemoryPlan plan = with_pages(plan_memory(input_of()).value(), 10);
  EXPECT_EQ(plan.num_pages, 10);
  EXPECT_EQ(plan.kv_cache, 320'000);
  EXPECT_THAT(describe(plan), HasSubstr("10 pages of 32 tokens: 320 tokens"));
}

TEST(AvailableMemory, ReadsTheSystemsEstimate) {
  EXPECT_EQ(parse_meminfo("MemTotal: 9 kB\nMemAvailable:   1234 kB\n", "m").value(), 1234 * 1024);
  EXPECT_EQ(error_of(parse_meminfo("MemTotal: 9 kB\nMemAvailable: x kB\n", "m")),
            "m: has no line \"MemAvailable: N kB\"");
  EXPECT_GT(available_memory().value(), 0);
}

TEST(AvailableMemory, HoldsToTheControlGroupsLimit) {
  const TemporaryFolder folder;
  EXPECT_EQ(control_group_memory(folder.path()), std::nullopt);
  folder.write("memory.max", "max\n");
  folder.write("memory.current", "700\n");
  folder.write("memory.stat", "anon 500\ninactive_file 100\nactive_file 7\n");
  EXPECT_EQ(control_group_memory(folder.path()), std::nullopt);
  folder.write("memory.max", "1000\n");
  EXPECT_EQ(control_group_memory(folder.path()), 400);
  folder.write("memory.current", "1200\n");
  EXPECT_EQ(control_group_memory(folder.path()), 0);
}

}  // namespace
}  // namespace wideep::engine
