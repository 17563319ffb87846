#include "eplb/load.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <utility>

#include "base/file.h"
#include "base/file_testing.h"
#include "base/npy.h"
#include "eplb/csv.h"
#include "eplb/sglang.h"

namespace wideep::eplb {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string sglang_error(const std::string& counts) {
  return error_of(parse_sglang_load(fmt::format("{{\"logical_count\": {}}}", counts), "f.json"));
}

TEST(SglangLoad, ReadsLayersByExperts) {
  const Load load =
      parse_sglang_load(
          R"({"rank": 0, "logical_count": [[0, 0.0], [0, 0], [1, 2.0], [0, 0], [5e1, 0]],
                            "other": [[[[1, {"logical_count": [[9]]}]]], null, "x", -1.5, true]})",
          "f.json")
          .value();
  EXPECT_EQ(load.num_experts, 2);
  EXPECT_EQ(load.top_k, 0);
  // The two dense layers at the front are left out, the idle one between others is not.
  EXPECT_THAT(load.layers, ElementsAre(2, 3, 4));
  EXPECT_THAT(load.tokens, ElementsAre(1, 2, 0, 0, 50, 0));
}

TEST(SglangLoad, SumsSteps) {
  const Load load =
      parse_sglang_load(
          R"({"logical_count": [[[0, 0, 0], [1, 2, 3]], [[0, 0, 0], [10, 20, 30]], [[0, 0, 1], [0, 0, 0]]]})",
          "f.json")
          .value();
  EXPECT_THAT(load.layers, ElementsAre(0, 1));
  EXPECT_THAT(load.tokens, ElementsAre(0, 0, 1, 11, 22, 33));
}

TEST(SglangLoad, NamesBadCounts) {
  const std::pair<const char*, const char*> bad[] = {
      {"[[1, 2], [3, -4]]", "layer 1, expert 1: -4 is not a count"},
      {"[[1, 2], [3, NaN]]", "layer 1, expert 1: NaN is not a count"},
      {"[[1, Infinity]]", "layer 0, expert 1: Infinity is not a count"},
      {"[[1, -Infinity]]", "layer 0, expert 1: "},
      {"[[1.5, 2]]", "layer 0, expert 0: 1.5 is not a count"},
      {"[[1, -1.0]]", "layer 0, expert 1: -1.0 is not a count"},
      {"[[1, \"2\"]]", "layer 0, expert 1: a string is not a count"},
      {"[[1, null]]", "layer 0, expert 1: null is not a count"},
      {"[[1, true]]", "layer 0, expert 1: a boolean is not a count"},
      {"[[1, {}]]", "layer 0, expert 1: an object is not a count"},
      {"[[1, [2]]]", "layer 0, expert 1: a list is not a count"},
      {"[[1, 1125899906842625]]", "1125899906842625 is not a count"},
      {"[[1, 1e30]]", "1e30 is not a count"},
      {"[[1125899906842624, 1]]", "layer 0 has more than 2^50 tokens"},
      {"[[[1125899906842624]], [[1]]]", "a sum over 2^50 is not a count"},
      {"[[[1, 2]], [[1, -1]]]", "layer 0, expert 1: -1 is not a count"},
  };
  for (const auto& [counts, problem] : bad) {
    EXPECT_THAT(sglang_error(counts), HasSubstr(problem)) << counts;
  }
}

TEST(SglangLoad, NamesBadShapes) {
  const std::pair<const char*, const char*> bad[] = {
      {"[[1, 2], [3]]", "layer 1 has 1 experts, the layers before it 2"},
      {"[[1, 2], [3, 4, 5]]", "layer 1 has 3 experts, the layers before it 2"},
      {"[[[1], [2]], [[3]]]", "step 1 has 1 layers, the steps before it 2"},
      {"[[[1], [2]], [[3], [4], [5]]]", "step 1 has 3 layers, the steps before it 2"},
      {"[[[1, 2]], [[3]]]", "layer 0 has 1 experts, the layers before it 2"},
      {"[1, 2]", "must be [layers][experts] or [steps][layers][experts]"},
      {"[[[[1]]]]", "a list is not a count"},
      {"[[1], 2]", "must be [layers][experts]"},
      {"5", "must be [layers][experts]"},
      {"null", "must be lists of counts, found null"},
      {"{}", "must be lists of counts, found an object"},
      {"[]", "has an empty list"},
      {"[[]]", "has an empty list"},
      {"[[1], []]", "has an empty list"},
      {"[[0, 0], [0, 0]]", "no layer has any token"},
      {"[[1]], \"logical_count\": [[1]]", "appears twice"},
  };
  for (const auto& [counts, problem] : bad) {
    EXPECT_THAT(sglang_error(counts), HasSubstr(problem)) << counts;
  }
  EXPECT_THAT(error_of(parse_sglang_load("{}", "f.json")), HasSubstr("no key \"logical_count\""));
  EXPECT_THAT(error_of(parse_sglang_load("[[1]]", "f.json")), HasSubstr("no key"));
  EXPECT_THAT(error_of(parse_sglang_load("{\"a\": ", "f.json")), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of(parse_sglang_load(R"({"physical_to_logical_map": [[0]]})", "f.json")),
              HasSubstr("this is a placement"));
}

TEST(CsvLoad, ReadsAMatrix) {
  const Load load = parse_csv_load("0,0\n0,0\r\n1, 2.0 \n\n0,0\n3,4", "f.csv").value();
  EXPECT_EQ(load.num_experts, 2);
  EXPECT_THAT(load.layers, ElementsAre(2, 3, 4));
  EXPECT_THAT(load.tokens, ElementsAre(1, 2, 0, 0, 3, 4));
}

constexpr std::string_view kTable =
    "\xEF\xBB\xBF,dataset,iteration,layer_idx,0,1\n"
    "0,wiki,0,3,1,2\n"
    "1,wiki,0,5,3,4\n"
    "2,code,0,3,10,20\n"
    "3,code,0,5,30,40\n"
    "4,code,1,5,300,400\n"
    "5,code,1,3,100,200\n";

TEST(CsvLoad, ReadsATable) {
  const Load all = parse_csv_load(kTable, "f.csv").value();
  EXPECT_EQ(all.num_experts, 2);
  EXPECT_THAT(all.layers, ElementsAre(3, 5));
  EXPECT_THAT(all.tokens, ElementsAre(111, 222, 333, 444));
  EXPECT_THAT(parse_csv_load(kTable, "f.csv", "wiki").value().tokens, ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(error_of(parse_csv_load(kTable, "f.csv", "news")),
              HasSubstr("no row of dataset news"));
  EXPECT_THAT(parse_csv_load("layer,0\n7,5\n", "f.csv").value().layers, ElementsAre(7));
}

TEST(CsvLoad, NamesWhatIsWrong) {
  const std::pair<const char*, const char*> bad[] = {
      {"", "f.csv: is empty"},
      {"\n \n", "f.csv: is empty"},
      {"1,2\n3\n", "f.csv:2: has 1 fields, the first line has 2"},
      {"1,2\n\n3,x\n", "f.csv:3: layer 1, expert 1: \"x\" is not a count"},
      {"1,-2\n", "layer 0, expert 1: \"-2\" is not a count"},
      {"1,nan\n", "layer 0, expert 1: \"nan\" is not a count"},
      {"1,2.5\n", "layer 0, expert 1: \"2.5\" is not a count"},
      {"1,\n", "layer 0, expert 1: \"\" is not a count"},
      {"1;2\n", "layer 0, expert 0: \"1;2\" is not a count"},
      {"0,0\n", "no layer has any token"},
      {"layer_idx,0,1\n", "no row"},
      {"layer_idx\n1\n", "needs the column layer_idx and the experts' numbers"},
      {"layer_idx,1,2\n1,2,3\n", "found 1 for 0"},
      {"layer_idx,0,2\n1,2,3\n", "found 2 for 1"},
      {"layer_idx,0,iteration,1\n1,2,3,4\n", "side by side"},
      {"layer_idx,layer_idx,0\n1,1,2\n", "column \"layer_idx\" appears twice"},
      {"layer_idx,colour,0\n1,1,2\n", "unknown column \"colour\""},
      {"layer_idx,0\nx,2\n", "f.csv:2: layer_idx and iteration must be whole numbers"},
      {"layer_idx,0\n-1,2\n", "must be whole numbers from 0"},
      {"layer_idx,0\n3,2\n3,2\n", "f.csv:3: a second row of iteration 0, layer 3"},
      {"layer_idx,0\n3,2,1\n", "f.csv:2: has 3 fields, the first line has 2"},
      {"layer_idx,0\n3,x\n", "f.csv:2: layer 3, expert 0: \"x\" is not a count"},
      {"iteration,layer_idx,0\n0,3,1\n0,4,1\n1,4,1\n", "iteration 1 has no row of layer 3"},
  };
  for (const auto& [text, problem] : bad) {
    EXPECT_THAT(error_of(parse_csv_load(text, "f.csv")), HasSubstr(problem)) << text;
  }
  EXPECT_THAT(error_of(parse_csv_load("1,2\n", "f.csv", "wiki")), HasSubstr("no data sets"));
  EXPECT_THAT(error_of(parse_csv_load("layer_idx,0\n1,2\n", "f.csv", "wiki")),
              HasSubstr("has no column \"dataset\""));
}

TEST(ReadLoad, KnowsFormatsByName) {
  const TemporaryFolder folder;
  EXPECT_EQ(load_format(folder.path()).value(), LoadFormat::kStatistics);
  EXPECT_EQ(load_format(folder.write("a.json", "")).value(), LoadFormat::kSglang);
  EXPECT_EQ(load_format(folder.write("a.CSV", "")).value(), LoadFormat::kCsv);
  EXPECT_EQ(load_format(folder.write("a.npy", "")).value(), LoadFormat::kTrace);
  EXPECT_EQ(load_format(folder / "none.json").status().code(), StatusCode::kNotFound);
  EXPECT_THAT(error_of(load_format(folder.write("a.pt", ""))),
              HasSubstr(".pt files are not read: save json.dump"));
  EXPECT_THAT(error_of(load_format(folder.write("a.npz", ""))), HasSubstr("extract its arrays"));
  EXPECT_THAT(error_of(load_format(folder.write("rank0.safetensors", ""))),
              HasSubstr("name the statistics folder"));
  EXPECT_THAT(error_of(load_format(folder.write("a.txt", ""))), HasSubstr("unknown kind of load"));
}

TEST(ReadLoad, ReadsEveryFormat) {
  const TemporaryFolder folder;
  EXPECT_THAT(read_load(folder.write("a.json", R"({"logical_count": [[1, 2]]})")).value().tokens,
              ElementsAre(1, 2));
  EXPECT_THAT(read_load(folder.write("a.csv", "3,4")).value().tokens, ElementsAre(3, 4));
  const uint8_t ids[] = {0, 1, 1, 2};
  ASSERT_TRUE(
      write_npy(folder / "a.npy", DType::kU8, {2, 1, 2}, std::as_bytes(std::span(ids))).is_ok());
  const Load trace = read_load(folder / "a.npy").value();
  EXPECT_THAT(trace.tokens, ElementsAre(1, 2, 1));
  EXPECT_EQ(trace.top_k, 2);

  const std::string statistics = folder / "statistics";
  ASSERT_TRUE(write_statistics(statistics, 2, 1, {{{4, 0, {0, 0}}, {4, 1, {1, 2}}}}).is_ok());
  const Load load = read_load(statistics).value();
  EXPECT_EQ(load.top_k, 1);
  EXPECT_THAT(load.layers, ElementsAre(0, 1));
  EXPECT_THAT(load.tokens, ElementsAre(0, 0, 1, 2));
  EXPECT_TRUE(read_load(statistics, {4, 5}).is_ok());
  EXPECT_FALSE(read_load(statistics, {5, 6}).is_ok());
  EXPECT_THAT(error_of(read_load(folder / "a.csv", {4, 5})), HasSubstr("has no iterations"));
  ASSERT_TRUE(write_statistics(statistics, 2, 1, {{{4, 0, {0, 0}}}}).is_ok());
  EXPECT_THAT(error_of(read_load(statistics)), HasSubstr("no layer has any token"));
}

TEST(ReadLoad, ReadsTheSample) {
  const Load load = read_load(WIDEEP_SOURCE_DIR "/data/sample_load.json").value();
  EXPECT_EQ(load.num_experts, 256);
  EXPECT_EQ(load.num_layers(), 58);
  EXPECT_EQ(load.layers.front(), 3);
  for (int i = 0; i < 58; ++i) {
    EXPECT_EQ(std::accumulate(load.row(i).begin(), load.row(i).end(), int64_t{0}), 2560000);
  }
}

TEST(ReadLoad, ReadsPublishedLoads) {
  const std::string folder = WIDEEP_SOURCE_DIR "/../shared/data/expert_load/";
  if (!path_exists(folder)) GTEST_SKIP() << "no loads at " << folder;
  const Load decode = read_load(folder + "deepseek_v3/decode_in1000out1000.json").value();
  EXPECT_EQ(decode.num_experts, 256);
  ASSERT_EQ(decode.num_layers(), 58);
  EXPECT_EQ(decode.layers.front(), 3);
  EXPECT_EQ(decode.layers.back(), 60);
  for (int i = 0; i < 58; ++i) {
    EXPECT_EQ(std::accumulate(decode.row(i).begin(), decode.row(i).end(), int64_t{0}), 147308544);
  }
  const Load qwen = read_load(folder + "harmoeny/expert_freq_qwen_policy_datasets.csv").value();
  EXPECT_EQ(qwen.num_experts, 60);
  EXPECT_EQ(qwen.layers.front(), 0);
}

}  // namespace
}  // namespace wideep::eplb
