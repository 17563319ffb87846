#include "eplb/statistics.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/file_testing.h"
#include "base/random.h"
#include "base/safetensors.h"
#include "eplb/statistics_writer.h"

namespace wideep::eplb {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::string_view kMeta = R"({"num_experts": 3, "num_experts_per_token": 2})";

// A tensor; without a shape it is one row.
template <typename T>
struct Entry {
  Entry(std::string name, std::vector<T> row)
      : key(std::move(name)), values(std::move(row)), shape{std::ssize(values)} {}
  Entry(std::string name, std::vector<T> elements, std::vector<int64_t> sizes)
      : key(std::move(name)), values(std::move(elements)), shape(std::move(sizes)) {}

  std::string key;
  std::vector<T> values;
  std::vector<int64_t> shape;
};

template <typename T>
void write_tensors(const std::string& path, const std::vector<Entry<T>>& entries) {
  std::vector<TensorToWrite> tensors;
  for (const Entry<T>& entry : entries) {
    tensors.push_back(
        {entry.key, DTypeOf<T>::kValue, entry.shape, std::as_bytes(std::span(entry.values))});
  }
  ASSERT_TRUE(write_safetensors(path, tensors).is_ok());
}

// Two ranks, iterations 100 and 101, layers 3 and 4, three experts.
class StatisticsFolder : public TemporaryFolder {
 public:
  StatisticsFolder() {
    write("meta_info.json", kMeta);
    write_tensors<int64_t>(*this / "rank0.safetensors", {{"100_3", {1, 2, 3}},
                                                         {"100_4", {4, 5, 6}},
                                                         {"101_3", {7, 8, 9}},
                                                         {"101_4", {10, 11, 12}}});
    write_tensors<int64_t>(
        *this / "rank1.safetensors",
        {{"101_4", {1, 0, 0}}, {"101_3", {0, 1, 0}}, {"100_4", {0, 0, 1}}, {"100_3", {1, 1, 1}}});
  }

  std::string error() const { return error_of(read_statistics(path())); }
};

TEST(Statistics, SumsRanks) {
  const StatisticsFolder folder;
  const Statistics statistics = read_statistics(folder.path()).value();
  EXPECT_EQ(statistics.num_experts, 3);
  EXPECT_EQ(statistics.top_k, 2);
  EXPECT_EQ(statistics.num_ranks, 2);
  EXPECT_EQ(statistics.iter_start, 100);
  EXPECT_EQ(statistics.iter_stop, 102);
  EXPECT_THAT(statistics.layers, ElementsAre(3, 4));
  EXPECT_THAT(statistics.row(0, 0), ElementsAre(2, 3, 4));
  EXPECT_THAT(statistics.row(0, 1), ElementsAre(4, 5, 7));
  EXPECT_THAT(statistics.row(1, 0), ElementsAre(7, 9, 9));
  EXPECT_THAT(statistics.row(1, 1), ElementsAre(11, 11, 12));
  const Load load = total_load(statistics);
  EXPECT_EQ(load.top_k, 2);
  EXPECT_THAT(load.layers, ElementsAre(3, 4));
  EXPECT_THAT(load.tokens, ElementsAre(9, 12, 13, 15, 16, 19));
}

TEST(Statistics, CutsToTheWindow) {
  const StatisticsFolder folder;
  for (const IterationWindow window : {IterationWindow{101, 102}, {101, -1}}) {
    const Statistics last = read_statistics(folder.path(), window).value();
    EXPECT_EQ(last.iter_start, 101);
    EXPECT_EQ(last.num_iterations(), 1);
    EXPECT_THAT(last.row(0, 1), ElementsAre(11, 11, 12));
  }
  EXPECT_EQ(read_statistics(folder.path(), {-1, 101}).value().iter_start, 100);
  EXPECT_THAT(error_of(read_statistics(folder.path(), {101, 101})),
              HasSubstr("iterations [101, 101) are empty"));
  EXPECT_THAT(error_of(read_statistics(folder.path(), {99, -1})),
              HasSubstr("iterations [99, 102) are not all recorded: the folder has [100, 102)"));
  EXPECT_THAT(error_of(read_statistics(folder.path(), {-1, 103})), HasSubstr("not all recorded"));
}

TEST(Statistics, IgnoresWhatOtherToolsLeaveInTheFolder) {
  const StatisticsFolder folder;
  for (const char* name :
       {"rank0_raw.safetensors", "cooccurrence_rank0.safetensors", "rank7_numtokens.json",
        "token_selected_experts_rank0.safetensors", "notes.txt", "rankings.csv"}) {
    folder.write(name, "not read");
  }
  folder.write("meta_info.json",
               R"({"num_experts": 3, "num_experts_per_token": 2, "ep_size": 2, "x": [{}]})");
  EXPECT_EQ(folder.error(), "");
  folder.write("rank-1.safetensors", "");
  EXPECT_THAT(folder.error(), HasSubstr("rank-1.safetensors: not a name of a statistics file"));
}

TEST(Statistics, ReadsInt32) {
  const StatisticsFolder folder;
  write_tensors<int32_t>(folder / "rank1.safetensors", {{"100_3", {1, 1, 1}},
                                                        {"100_4", {0, 0, 1}},
                                                        {"101_3", {0, 1, 0}},
                                                        {"101_4", {1, 0, 2147483647}}});
  const Statistics statistics = read_statistics(folder.path()).value();
  EXPECT_THAT(statistics.row(1, 1), ElementsAre(11, 11, 2147483659));
}

TEST(Statistics, NamesWhatIsWrongWithTheFolder) {
  const TemporaryFolder empty;
  EXPECT_EQ(read_statistics(empty / "none").status().code(), StatusCode::kNotFound);
  EXPECT_THAT(error_of(read_statistics(empty.path())), StartsWith(empty / "meta_info.json"));
  EXPECT_THAT(error_of(read_statistics(empty.write("file", ""))), HasSubstr("not a folder"));
  empty.write("meta_info.json", kMeta);
  EXPECT_THAT(error_of(read_statistics(empty.path())), HasSubstr("no file rank0.safetensors"));

  const StatisticsFolder gap;
  std::filesystem::rename(gap / "rank1.safetensors", gap / "rank2.safetensors");
  EXPECT_THAT(gap.error(), HasSubstr("rank1.safetensors is missing: the folder has rank2"));
}

TEST(Statistics, ChecksMetaInfo) {
  const StatisticsFolder folder;
  const std::pair<const char*, const char*> bad[] = {
      {"", "not valid JSON"},
      {"[]", "not a JSON object"},
      {R"({"num_experts": 3})", "no key \"num_experts_per_token\""},
      {R"({"num_experts": "3", "num_experts_per_token": 2})", "num_experts is \"3\""},
      {R"({"num_experts": 3.0, "num_experts_per_token": 2})", "num_experts is 3.0"},
      {R"({"num_experts": 0, "num_experts_per_token": 2})", "from 1 to 32767"},
      {R"({"num_experts": 1e99, "num_experts_per_token": 2})", "num_experts is 1e+99"},
      {R"({"num_experts": 18446744073709551615, "num_experts_per_token": 2})", "from 1 to 32767"},
      {R"({"num_experts": 3, "num_experts_per_token": 4})", "num_experts_per_token is 4"},
      {R"({"num_experts": 3, "num_experts_per_token": -1})", "from 1 to 3"},
      {R"({"num_experts": 3, "num_experts_per_token": 2, "ep_size": 0})", "ep_size is 0"},
      {R"({"num_experts": 4, "num_experts_per_token": 2})", "shape is [3], must be [4]"},
  };
  for (const auto& [meta, problem] : bad) {
    folder.write("meta_info.json", meta);
    EXPECT_THAT(folder.error(), HasSubstr(problem)) << meta;
  }
}

TEST(Statistics, ChecksTheGrid) {
  const StatisticsFolder folder;
  const std::string rank0 = folder / "rank0.safetensors";
  write_tensors<int64_t>(rank0, {{"100_3", {1, 2, 3}}, {"102_3", {1, 2, 3}}});
  EXPECT_THAT(folder.error(), HasSubstr("rank0.safetensors: iteration 101 is missing"));
  write_tensors<int64_t>(rank0, {{"5_3", {1, 2, 3}}, {"5_10", {1, 2, 3}}, {"6_3", {1, 2, 3}}});
  EXPECT_THAT(folder.error(),
              HasSubstr("no entry \"6_10\": every iteration must have every layer"));
  write_tensors<int64_t>(rank0, {});
  EXPECT_THAT(folder.error(), HasSubstr("holds no counts"));
  for (const char* key : {"5", "5_", "_3", "-5_3", "05_3", "5_3_1", "a_b", "5_2147483647"}) {
    write_tensors<int64_t>(rank0, {{key, {1, 2, 3}}});
    EXPECT_THAT(folder.error(), HasSubstr(fmt::format("key \"{}\" is not ITERATION_LAYER", key)));
  }
}

TEST(Statistics, NamesRanksThatDisagree) {
  const StatisticsFolder folder;
  const std::string rank1 = folder / "rank1.safetensors";
  const Entry<int64_t> a{"100_3", {1, 2, 3}};
  const Entry<int64_t> b{"100_4", {1, 2, 3}};
  const Entry<int64_t> c{"101_3", {1, 2, 3}};
  write_tensors<int64_t>(rank1, {a, b, c});
  EXPECT_THAT(folder.error(), HasSubstr("rank1.safetensors: no entry \"101_4\", which the file of "
                                        "rank 0 has"));
  write_tensors<int64_t>(rank1, {a, b, c, {"101_5", {1, 2, 3}}});
  EXPECT_THAT(folder.error(), HasSubstr("rank1.safetensors: entry \"101_5\" is not in the file"));
  write_tensors<int64_t>(rank1, {a, b, c, {"101_4", {1, 2, 3, 4}}});
  EXPECT_THAT(folder.error(), HasSubstr("rank1.safetensors: \"101_4\": shape is [4], must be [3]"));
  write_tensors<int64_t>(rank1, {a, b, c, {"101_4", {1, 2, 3}, {1, 3}}});
  EXPECT_THAT(folder.error(), HasSubstr("shape is [1, 3], must be [3]"));
}

TEST(Statistics, NamesBadCounts) {
  const StatisticsFolder folder;
  const auto replace_last = [&](const std::vector<int64_t>& values) {
    write_tensors<int64_t>(
        folder / "rank1.safetensors",
        {{"100_3", {0, 0, 0}}, {"100_4", {0, 0, 0}}, {"101_3", {0, 0, 0}}, {"101_4", values}});
    return folder.error();
  };
  EXPECT_THAT(replace_last({0, -1, 0}), HasSubstr("rank1.safetensors: \"101_4\": element 1 is -1"));
  EXPECT_THAT(replace_last({0, 0, INT64_MAX}), HasSubstr("element 2 is 9223372036854775807"));
  EXPECT_THAT(replace_last({(int64_t{1} << 50) - 9, 0, 0}), HasSubstr("also summed"));
  EXPECT_EQ(replace_last({(int64_t{1} << 50) - 10, 0, 0}), "");
  write_tensors<float>(folder / "rank1.safetensors", {{"100_3", {1, 2, 3}}});
  EXPECT_THAT(folder.error(), HasSubstr("\"100_3\": dtype is F32, must be I64"));
}

TEST(Statistics, NamesTruncatedFiles) {
  const StatisticsFolder folder;
  const std::string bytes = contents_of(folder / "rank1.safetensors");
  for (const size_t size : {size_t{0}, size_t{7}, bytes.size() / 2, bytes.size() - 1}) {
    folder.write("rank1.safetensors", bytes.substr(0, size));
    EXPECT_THAT(folder.error(), HasSubstr("rank1.safetensors: ")) << size;
  }
}

TEST(Statistics, WritesWhatItReads) {
  Random random(3);
  for (int round = 0; round < 20; ++round) {
    const TemporaryFolder parent;
    const std::string folder = parent / "a/b";
    const int num_experts = 1 + static_cast<int>(random.below(40));
    const int num_ranks = 1 + static_cast<int>(random.below(5));
    const int first = static_cast<int>(random.below(120));
    const int iterations = 1 + static_cast<int>(random.below(12));
    std::vector<int64_t> sums(static_cast<size_t>(iterations * 2 * num_experts));
    std::vector<std::vector<RankCounts>> counts(static_cast<size_t>(num_ranks));
    for (auto& of_rank : counts) {
      size_t at = 0;
      for (int i = 0; i < iterations; ++i) {
        for (const int layer : {9, 10}) {
          RankCounts entry{first + i, layer, {}};
          for (int e = 0; e < num_experts; ++e) {
            entry.tokens.push_back(static_cast<int64_t>(random.below(1000)));
            sums[at++] += entry.tokens.back();
          }
          of_rank.push_back(std::move(entry));
        }
      }
    }
    const Status written = write_statistics(folder, num_experts, 1, counts);
    ASSERT_TRUE(written.is_ok()) << written.message();
    const Statistics read = read_statistics(folder).value();
    EXPECT_EQ(read.num_ranks, num_ranks);
    EXPECT_EQ(read.iter_start, first);
    EXPECT_EQ(read.iter_stop, first + iterations);
    EXPECT_THAT(read.layers, ElementsAre(9, 10));
    EXPECT_EQ(read.tokens, sums);
  }
}

TEST(StatisticsWriter, ReplacesAnOlderFolderAsAWhole) {
  const StatisticsFolder folder;
  folder.write("rank0_raw.safetensors", "stale");
  ASSERT_TRUE(write_statistics(folder.path(), 2, 1, {{{7, 0, {1, 2}}}}).is_ok());
  EXPECT_THAT(list_directory(folder.path()).value(),
              ElementsAre("meta_info.json", "rank0.safetensors"));
  EXPECT_EQ(contents_of(folder / "meta_info.json"),
            R"({"num_experts": 2, "num_experts_per_token": 1})");
  EXPECT_THAT(read_statistics(folder.path()).value().tokens, ElementsAre(1, 2));
}

TEST(StatisticsWriter, LeavesForeignFoldersAlone) {
  const StatisticsFolder folder;
  folder.write("thesis.tex", "");
  const auto before = list_directory(folder.path()).value();
  EXPECT_THAT(error_of(write_statistics(folder.path(), 2, 1, {})),
              HasSubstr("holds \"thesis.tex\", which is no statistics file"));
  EXPECT_THAT(error_of(write_statistics(folder / "thesis.tex", 2, 1, {})),
              HasSubstr("exists and is not a folder"));
  EXPECT_EQ(list_directory(folder.path()).value(), before);
  EXPECT_EQ(folder.error(), "");
}

TEST(StatisticsWriter, WithoutCommitNothingChanges) {
  const StatisticsFolder folder;
  const auto before = list_directory(folder.path()).value();
  const std::string fresh = folder / "rank0_numtokens.json";  // any new folder
  for (const std::string& path : {folder.path(), fresh}) {
    StatisticsWriter writer =
        StatisticsWriter::create(path, {.num_experts = 2, .top_k = 1}).value();
    const RankCounts counts{7, 0, {1, 2}};
    ASSERT_TRUE(writer.add_counts(0, {&counts, 1}).is_ok());
  }
  EXPECT_EQ(list_directory(folder.path()).value(), before);
  EXPECT_EQ(read_statistics(folder.path()).value().num_experts, 3);
}

// What a run of EP 2 with a balancer of 4 slots for 3 experts leaves, with pp 2: four rank files.
Status write_slots_and_experts(const std::string& folder) {
  ASSIGN_OR_RETURN(StatisticsWriter writer,
                   StatisticsWriter::create(
                       folder, {.num_experts = 3, .top_k = 2, .num_slots = 4, .ep_size = 2}));
  for (int rank = 0; rank < 4; ++rank) {
    const RankCounts slots{7, 3, {rank, 0, 0, 1}};
    const RankCounts experts{7, 3, {rank, 1, 0}};
    RETURN_IF_ERROR(writer.add_counts(rank, {&slots, 1}));
    RETURN_IF_ERROR(writer.add_expert_counts(rank, {&experts, 1}));
  }
  return writer.commit();
}

TEST(StatisticsWriter, KeepsSlotsAndExpertsSideBySide) {
  const StatisticsFolder folder;
  EXPECT_EQ(expert_folder(folder.path()), folder.path());
  ASSERT_EQ(write_slots_and_experts(folder.path()).message(), "");
  EXPECT_THAT(list_directory(folder.path()).value(),
              ElementsAre("experts", "meta_info.json", "rank0.safetensors", "rank1.safetensors",
                          "rank2.safetensors", "rank3.safetensors"));
  EXPECT_EQ(contents_of(folder / "meta_info.json"),
            R"({"num_experts": 4, "num_experts_per_token": 2, "ep_size": 2})");
  const Statistics slots = read_statistics(folder.path()).value();
  EXPECT_THAT(slots.tokens, ElementsAre(6, 0, 0, 4));
  EXPECT_EQ(slots.num_ranks, 2);
  ASSERT_EQ(expert_folder(folder.path()), folder / "experts");
  const Statistics experts = read_statistics(expert_folder(folder.path())).value();
  EXPECT_THAT(experts.tokens, ElementsAre(6, 4, 0));
  EXPECT_EQ(experts.num_ranks, 2);
  // Replaced by the next run, in both directions, and never with files that are not ours.
  ASSERT_EQ(write_slots_and_experts(folder.path()).message(), "");
  folder.write("experts/notes.txt", "");
  EXPECT_THAT(error_of(write_slots_and_experts(folder.path())),
              HasSubstr("experts: holds \"notes.txt\", which is no statistics file"));
  std::filesystem::remove(folder / "experts/notes.txt");
  ASSERT_TRUE(write_statistics(folder.path(), 2, 1, {{{7, 0, {1, 2}}}}).is_ok());
  EXPECT_THAT(list_directory(folder.path()).value(),
              ElementsAre("meta_info.json", "rank0.safetensors"));
}

TEST(StatisticsWriter, HalfReplacedFoldersHaveNoExpertView) {
  const TemporaryFolder folder;
  ASSERT_EQ(write_slots_and_experts(folder.path()).message(), "");
  std::filesystem::remove(folder / "meta_info.json");
  EXPECT_EQ(expert_folder(folder.path()), folder.path());
}

RawIds raw(int rank, int iteration, int layer, std::vector<int32_t> experts) {
  return {rank, iteration, layer, 2, std::move(experts)};
}

TEST(RawStatistics, ComeBackInOrder) {
  const StatisticsFolder folder;
  ASSERT_TRUE(
      write_raw_statistics(folder.path(), {raw(1, 100, 3, {0, 1, 2, -1}), raw(0, 101, 3, {2, 0}),
                                           raw(0, 100, 10, {}), raw(0, 100, 3, {1, 2})})
          .is_ok());
  const std::vector<RawIds> all = read_raw_statistics(folder.path()).value();
  ASSERT_EQ(all.size(), 4u);
  EXPECT_EQ(all[0].rank, 0);
  EXPECT_THAT(all[0].experts, ElementsAre(1, 2));
  EXPECT_EQ(all[1].rank, 1);
  EXPECT_EQ(all[1].top_k, 2);
  EXPECT_THAT(all[1].experts, ElementsAre(0, 1, 2, -1));
  EXPECT_EQ(all[2].layer, 10);
  EXPECT_EQ(all[3].iteration, 101);
  EXPECT_EQ(read_raw_statistics(folder.path(), {101, -1}).value().size(), 1u);
  EXPECT_EQ(read_raw_statistics(folder.path(), {-1, 101}).value().size(), 3u);
  EXPECT_THAT(error_of(read_raw_statistics(folder.path(), {102, 110})), HasSubstr("no entry"));
  // The counts beside them are still read alone.
  EXPECT_EQ(folder.error(), "");
}

TEST(RawStatistics, NamesWhatIsWrong) {
  const StatisticsFolder folder;
  EXPECT_EQ(read_raw_statistics(folder.path()).status().code(), StatusCode::kNotFound);
  const std::string path = folder / "rank0_raw.safetensors";
  const auto error = [&] { return error_of(read_raw_statistics(folder.path())); };
  write_tensors<int64_t>(path, {{"1_1", {0, 1, 2, 2}, {2, 2}}});
  EXPECT_EQ(error(), "");
  write_tensors<int64_t>(path, {{"1_1", {0, 1, 2, 3}, {2, 2}}});
  EXPECT_THAT(error(),
              HasSubstr("rank0_raw.safetensors: \"1_1\": token 1: id 3 is not in [-1, 3)"));
  write_tensors<int32_t>(path, {{"1_1", {-2, 1}, {1, 2}}});
  EXPECT_THAT(error(), HasSubstr("token 0: id -2"));
  write_tensors<int32_t>(path, {{"1_1", {0, 1, 2}, {1, 3}}});
  EXPECT_THAT(error(), HasSubstr("shape must be [tokens, 2]"));
  write_tensors<int32_t>(path, {{"1_1", {0, 1}}});
  EXPECT_THAT(error(), HasSubstr("shape must be [tokens, 2]"));
  write_tensors<double>(path, {{"1_1", {0, 1}, {1, 2}}});
  EXPECT_THAT(error(), HasSubstr("dtype is F64, must be I32"));
}

TEST(Cooccurrence, SumsRanksAndIterations) {
  const StatisticsFolder folder;
  EXPECT_EQ(read_cooccurrence(folder.path()).status().code(), StatusCode::kNotFound);
  const std::vector<int32_t> ones(9, 1);
  std::vector<int32_t> ramp(9);
  for (int i = 0; i < 9; ++i) ramp[static_cast<size_t>(i)] = i;
  for (const int rank : {0, 1}) {
    write_tensors<int32_t>(folder / fmt::format("cooccurrence_rank{}.safetensors", rank),
                           {{"0_3", ones, {3, 3}}, {"1_3", ramp, {3, 3}}});
  }
  const Cooccurrence both = read_cooccurrence(folder.path()).value();
  EXPECT_EQ(both.num_experts, 3);
  EXPECT_THAT(both.layers, ElementsAre(3));
  EXPECT_THAT(both.counts, ElementsAre(2, 4, 6, 8, 10, 12, 14, 16, 18));
  EXPECT_THAT(read_cooccurrence(folder.path(), {0, 1}).value().counts,
              ElementsAreArray(std::vector<int64_t>(9, 2)));
  write_tensors<int32_t>(folder / "cooccurrence_rank1.safetensors", {{"0_3", ones, {9}}});
  EXPECT_THAT(error_of(read_cooccurrence(folder.path())),
              HasSubstr("cooccurrence_rank1.safetensors: \"0_3\": shape is [9], must be [3, 3]"));
}

}  // namespace
}  // namespace wideep::eplb
