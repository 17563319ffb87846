#include "eplb/trace.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/file_testing.h"
#include "base/npy.h"
#include "eplb/load.h"

namespace wideep::eplb {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename T>
std::string write_ids(const TemporaryFolder& folder, const char* name,
                      const std::vector<int64_t>& shape, const std::vector<T>& ids) {
  std::string path = folder / name;
  EXPECT_TRUE(write_npy(path, DTypeOf<T>::kValue, shape, std::as_bytes(std::span(ids))).is_ok());
  return path;
}

std::vector<int> experts_of(const Trace& trace, int64_t token, int layer) {
  std::vector<int> ids(static_cast<size_t>(trace.top_k()));
  trace.experts(token, layer, ids.data());
  return ids;
}

template <typename T>
class TraceOfType : public ::testing::Test {};
using IdTypes = ::testing::Types<uint8_t, uint16_t, int16_t, int32_t, int64_t>;
TYPED_TEST_SUITE(TraceOfType, IdTypes);

TYPED_TEST(TraceOfType, ReadsIdsAndWhatIsNotRouted) {
  const TemporaryFolder folder;
  const auto none = static_cast<TypeParam>(-1);
  const std::string path =
      write_ids<TypeParam>(folder, "a.npy", {3, 2, 2}, {0, 1, 2, 3, 4, none, none, 0, 9, 8, 7, 6});
  const Trace trace = Trace::open({path}, 0, 3).value();
  EXPECT_EQ(trace.num_tokens(), 3);
  EXPECT_EQ(trace.num_layers(), 2);
  EXPECT_EQ(trace.top_k(), 2);
  EXPECT_EQ(trace.num_experts(), 10);
  EXPECT_THAT(trace.layers(), ElementsAre(3, 4));
  EXPECT_THAT(trace.text_starts(), ElementsAre(0, 3));
  EXPECT_THAT(experts_of(trace, 0, 1), ElementsAre(2, 3));
  EXPECT_THAT(experts_of(trace, 1, 0), ElementsAre(4, -1));
  EXPECT_THAT(experts_of(trace, 1, 1), ElementsAre(-1, 0));
  EXPECT_THAT(experts_of(trace, 2, 1), ElementsAre(7, 6));
  const Load load = total_load(trace);
  EXPECT_EQ(load.top_k, 2);
  EXPECT_THAT(load.row(0), ElementsAre(1, 1, 0, 0, 1, 0, 0, 0, 1, 1));
  EXPECT_THAT(load.row(1), ElementsAre(1, 0, 1, 1, 0, 0, 1, 1, 0, 0));
}

TEST(Trace, PutsTextsInARow) {
  const TemporaryFolder folder;
  const std::string a = write_ids<uint8_t>(folder, "a.npy", {4, 1, 1}, {0, 1, 2, 3});
  const std::string b = write_ids<int32_t>(folder, "b.npy", {2, 1, 1}, {4, 5});
  folder.write("a.lens.json", "[1, 3]");
  const Trace trace = Trace::open({a, b, a}).value();
  EXPECT_THAT(trace.text_starts(), ElementsAre(0, 1, 4, 6, 7, 10));
  EXPECT_EQ(trace.num_experts(), 6);
  for (int64_t token = 0; token < 10; ++token) {
    EXPECT_THAT(experts_of(trace, token, 0), ElementsAre(token % 6)) << token;
  }
  EXPECT_EQ(Trace::open({a}, 64).value().num_experts(), 64);
}

TEST(Trace, ChecksTextLengths) {
  const TemporaryFolder folder;
  const std::string path = write_ids<uint8_t>(folder, "a.npy", {4, 1, 1}, {0, 1, 2, 3});
  for (const char* lengths : {"[1, 2]", "[5]", "[4, 1]", "[0, 4]", "[-1, 5]", "[2.0, 2]", "[[4]]",
                              "{}", "4", "[]", "[\"4\"]", "[18446744073709551615]"}) {
    folder.write("a.lens.json", lengths);
    EXPECT_THAT(error_of(Trace::open({path})), HasSubstr("sum to the 4 tokens")) << lengths;
  }
  folder.write("a.lens.json", "[4");
  EXPECT_THAT(error_of(Trace::open({path})), HasSubstr("a.lens.json: not valid JSON"));
}

TEST(Trace, ChecksShapesAndIds) {
  const TemporaryFolder folder;
  const auto error = [&](const std::string& path, int num_experts = 0) {
    return error_of(Trace::open({path}, num_experts));
  };
  EXPECT_EQ(error_of(Trace::open({})), "no trace file is named");
  EXPECT_EQ(Trace::open({folder / "none.npy"}).status().code(), StatusCode::kNotFound);
  EXPECT_THAT(error(write_ids<uint8_t>(folder, "a.npy", {4, 1}, {0, 1, 2, 3})),
              HasSubstr("shape is (4, 1), must be (tokens, layers, top_k)"));
  EXPECT_THAT(error(write_ids<uint8_t>(folder, "a.npy", {0, 1, 1}, {})), HasSubstr("at least 1"));
  EXPECT_THAT(error(write_ids<uint8_t>(folder, "a.npy", {1, 1, 23}, std::vector<uint8_t>(23))),
              HasSubstr("top_k at most 22"));
  EXPECT_THAT(error(write_ids<float>(folder, "a.npy", {1, 1, 1}, {0})),
              HasSubstr("expert ids are F32"));
  EXPECT_THAT(error(write_ids<uint16_t>(folder, "a.npy", {2, 2, 1}, {0, 7, 3, 8}), 8),
              HasSubstr("token 1, layer 1: expert id 8 is not below 8"));
  EXPECT_THAT(error(write_ids<int64_t>(folder, "a.npy", {1, 1, 1}, {INT64_MAX})),
              HasSubstr("expert id 9223372036854775807 is not below 32767"));
  EXPECT_THAT(error(write_ids<uint8_t>(folder, "a.npy", {1, 1, 2}, {255, 255})),
              HasSubstr("no token is routed"));
  EXPECT_THAT(error(write_ids<uint8_t>(folder, "a.npy", {1, 1, 1}, {3}), 256),
              HasSubstr("they can name 255 experts, not 256: save u2"));
  const std::string one = write_ids<uint8_t>(folder, "a.npy", {1, 1, 1}, {3});
  const std::string two = write_ids<uint8_t>(folder, "b.npy", {1, 1, 2}, {3, 4});
  EXPECT_THAT(error_of(Trace::open({one, two})), HasSubstr("b.npy: has 1 layers, top_k 2"));
}

TEST(Trace, AgreesWithPublishedCounts) {
  const std::string folder =
      WIDEEP_SOURCE_DIR "/../shared/data/expert_load/deepseek_v2_lite_tasks/";
  if (!path_exists(folder)) GTEST_SKIP() << "no traces at " << folder;
  for (const std::string task : {"intent", "law"}) {
    const Load counted = read_load(folder + task + "_trace_tokens_layers_top6_u8.npy").value();
    const Load published = read_load(folder + task + "_counts_26x64.csv").value();
    EXPECT_EQ(counted.top_k, 6);
    EXPECT_EQ(counted.num_experts, published.num_experts);
    EXPECT_EQ(counted.layers, published.layers);
    EXPECT_EQ(counted.tokens, published.tokens) << task;
  }
}

TEST(Trace, ReadsTheDomainTraces) {
  const std::string folder = WIDEEP_SOURCE_DIR "/../shared/data/expert_load/dsv3_tiny/";
  if (!path_exists(folder)) GTEST_SKIP() << "no traces at " << folder;
  const Trace trace = Trace::open({folder + "cpp.npy", folder + "german.npy"}).value();
  EXPECT_EQ(trace.num_experts(), 64);
  EXPECT_EQ(trace.num_tokens(), 4693 + 5187);
  EXPECT_EQ(trace.text_starts()[1], 292);
  EXPECT_EQ(trace.text_starts()[12], 4693);
  const Load load = total_load(trace);
  for (int layer = 0; layer < load.num_layers(); ++layer) {
    EXPECT_EQ(std::accumulate(load.row(layer).begin(), load.row(layer).end(), int64_t{0}),
              trace.num_tokens() * 6);
  }
}

}  // namespace
}  // namespace wideep::eplb
