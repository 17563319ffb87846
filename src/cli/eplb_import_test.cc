#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/file.h"
#include "base/file_testing.h"
#include "cli/cli_testing.h"
#include "cli/commands.h"
#include "eplb/statistics.h"

namespace wideep::cli {
namespace {

using ::testing::HasSubstr;

class EplbImportTest : public ::testing::Test {
 protected:
  CommandResult import(std::vector<std::string> flags) {
    flags.insert(flags.begin(), "import");
    return run_command(add_eplb_import, std::move(flags));
  }

  const TemporaryFolder folder_;
  const std::string load_ = folder_.write("load.json", R"({"logical_count": [[0, 0], [3, 1]]})");
  const std::string out_ = folder_ / "out";
};

TEST_F(EplbImportTest, WritesAStatisticsFolder) {
  const CommandResult result =
      import({"--from", "sglang", "--input", load_, "--output", out_, "--ranks", "2",
              "--iterations", "3", "--tokens_per_rank", "10", "--top_k", "1"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, out_ +
                            ": 2 ranks, 3 iterations, 1 layers, 2 experts, top_k 1, 10 tokens a "
                            "rank\n");
  EXPECT_EQ(result.err, "");
  const eplb::Statistics statistics = eplb::read_statistics(out_).value();
  EXPECT_EQ(statistics.num_ranks, 2);
  EXPECT_EQ(statistics.num_iterations(), 3);
  EXPECT_EQ(statistics.layers, std::vector<int>{1});
  EXPECT_EQ(statistics.row(0, 0)[0] + statistics.row(0, 0)[1], 20);
}

TEST_F(EplbImportTest, TakesOneDataSetOfATable) {
  const std::string table =
      folder_.write("load.csv", "dataset,layer_idx,0,1\nwiki,4,1,0\ncode,4,0,1\n");
  const CommandResult result = import({"--from", "csv", "--input", table, "--dataset", "code",
                                       "--output", out_, "--iterations", "1", "--top_k", "1"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(eplb::read_statistics(out_).value().row(0, 0)[0], 0);
}

TEST_F(EplbImportTest, BadInputEndsWithTwoAndOneLine) {
  const std::string bad = folder_.write("bad.json", R"({"logical_count": [[3, -1]]})");
  const CommandResult result = import({"--from", "sglang", "--input", bad, "--output", out_});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(result.err,
            "error: " + bad +
                ": logical_count: layer 0, expert 1: -1 is not a count: must be a whole "
                "number from 0 to 2^50\n");
  EXPECT_FALSE(path_exists(out_));
}

TEST_F(EplbImportTest, BadFlagsAreNamed) {
  EXPECT_THAT(import({"--from", "pickle", "--input", load_, "--output", out_}).err,
              HasSubstr("--from"));
  EXPECT_THAT(import({"--from", "sglang", "--input", load_}).err, HasSubstr("--output"));
  const CommandResult ranks =
      import({"--from", "sglang", "--input", load_, "--output", out_, "--ranks", "0"});
  EXPECT_EQ(ranks.exit_code, 2);
  EXPECT_THAT(ranks.err, HasSubstr("--ranks 0: must be from 1 to 1024"));
}

}  // namespace
}  // namespace wideep::cli
