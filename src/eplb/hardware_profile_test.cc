#include "eplb/hardware_profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_testing.h"

namespace wideep::eplb {
namespace {

using ::testing::HasSubstr;

// Round numbers, so that times can be worked out by hand.
HardwareProfile simple_profile() {
  return {.name = "simple",
          .fp8_flops = 1e12,
          .bf16_flops = 0.5e12,
          .hbm_bandwidth = 1e9,
          .link_bandwidth = 1e9,
          .link_latency = 1e-3,
          .link_ranks = 8,
          .network_bandwidth = 1e8,
          .network_latency = 5e-3,
          .tile_rows = 64,
          .layer_overhead = 1e-4};
}

// expert_bytes = 3 x 1000 x 500 = 1.5e6; a GEMM row is 6 x 1000 x 500 = 3e6 FLOP.
const MoeModel kModel{
    .hidden_size = 1000, .moe_intermediate_size = 500, .top_k = 4, .bytes_per_weight = 2};

class HardwareProfileTest : public ::testing::Test {
 protected:
  std::string write(const std::string& text) { return folder_.write("profile.json", text); }

  TemporaryFolder folder_;
};

TEST_F(HardwareProfileTest, LayerTimeByHand) {
  const Shape shape{.num_experts = 4, .num_slots = 4, .num_ranks = 2};
  // Rank 0: 65 + 0 rows: two tiles of one slot; rank 1: 10 + 25: a tile of each of two slots.
  const LayerTime time =
      layer_time(simple_profile(), kModel, shape, std::vector<int64_t>{65, 0, 10, 25}, 2);
  // bf16: an expert is 3e6 bytes; a row moves 1000 x 4 + 500 x 12 = 10000 bytes.
  // Rank 0: flops 128 x 3e6 / 0.5e12 = 0.768 ms; bytes (3e6 + 65 x 1e4) / 1e9 = 3.65 ms.
  // Rank 1: bytes (6e6 + 35 x 1e4) / 1e9 = 6.35 ms: fewer tokens, but two experts to read.
  EXPECT_NEAR(time.gemm, 6.35e-3, 1e-12);
  // Rank 0 gets 65 x 2 / 4 = 32.5 rows, half of them from the other rank.
  EXPECT_NEAR(time.dispatch, 1e-3 + 16.25 * (2000 + 96) / 1e9, 1e-12);
  EXPECT_NEAR(time.combine, 1e-3 + 16.25 * 2000 / 1e9, 1e-12);
  EXPECT_NEAR(time.total(), time.gemm + time.dispatch + time.combine + 1e-4, 1e-12);
}

TEST_F(HardwareProfileTest, ManyRowsAreBoundByFlops) {
  HardwareProfile profile = simple_profile();
  profile.hbm_bandwidth = 1e15;
  const Shape shape{.num_experts = 2, .num_slots = 2, .num_ranks = 1};
  MoeModel model = kModel;
  const std::vector<int64_t> tokens = {1000, 1};
  // 1000 -> 1024 rows and 1 -> 64 rows.
  EXPECT_NEAR(layer_time(profile, model, shape, tokens, 1).gemm, 1088 * 3e6 / 0.5e12, 1e-12);
  model.bytes_per_weight = 1;
  EXPECT_NEAR(layer_time(profile, model, shape, tokens, 1).gemm, 1088 * 3e6 / 1e12, 1e-12);
}

TEST_F(HardwareProfileTest, OneRankSendsNothing) {
  const Shape shape{.num_experts = 2, .num_slots = 2, .num_ranks = 1};
  const LayerTime time = layer_time(simple_profile(), kModel, shape, std::vector<int64_t>{5, 5}, 1);
  EXPECT_EQ(time.dispatch, 0);
  EXPECT_EQ(time.combine, 0);
}

TEST_F(HardwareProfileTest, RanksBeyondTheDomainUseTheNetwork) {
  const Shape shape{.num_experts = 16, .num_slots = 16, .num_ranks = 16};
  std::vector<int64_t> tokens(16, 0);
  tokens[0] = 160;
  const LayerTime time = layer_time(simple_profile(), kModel, shape, tokens, 4);
  // 160 rows: 70 from the 7 neighbours by link, 80 from the 8 ranks outside, ten times as slow.
  EXPECT_NEAR(time.combine, 5e-3 + 80 * 2000 / 1e8, 1e-12);
}

TEST_F(HardwareProfileTest, RowBytesOfEachFormat) {
  MoeModel model;
  EXPECT_EQ(dispatch_row_bytes(model), 7168 + 224 + 96);  // FP8 and 56 scales of 4 bytes
  model.bytes_per_weight = 2;
  EXPECT_EQ(dispatch_row_bytes(model), 14336 + 96);
  model.bytes_per_weight = 0.5;
  EXPECT_EQ(dispatch_row_bytes(model), 4032 + 96);  // NVFP4
  EXPECT_EQ(MoeModel{}.expert_bytes(), 44'040'192);
}

TEST_F(HardwareProfileTest, BuiltInProfilesAreComplete) {
  for (const char* name : {"h100", "h200", "gb200"}) {
    const HardwareProfile profile = read_hardware_profile(name).value();
    EXPECT_EQ(profile.name, name);
    EXPECT_GT(profile.fp8_flops, profile.bf16_flops);
    EXPECT_GT(profile.hbm_bandwidth, profile.link_bandwidth);
    EXPECT_GT(profile.link_bandwidth, profile.network_bandwidth);
    EXPECT_GT(profile.link_ranks, 1);
    EXPECT_GT(profile.tile_rows, 0);
  }
}

TEST_F(HardwareProfileTest, FileChangesItsBase) {
  const auto path = write(R"({"base": "h200", "name": "slow links", "link_bandwidth": 1e11})");
  const HardwareProfile profile = read_hardware_profile(path).value();
  EXPECT_EQ(profile.name, "slow links");
  EXPECT_EQ(profile.link_bandwidth, 1e11);
  EXPECT_EQ(profile.fp8_flops, read_hardware_profile("h200")->fp8_flops);
}

TEST_F(HardwareProfileTest, ErrorsNameTheKey) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"base": "h200", "link_bandwith": 1})", "did you mean link_bandwidth?"},
      {R"({"base": "h300"})", "base: must be h100, h200 or gb200"},
      {R"({"base": "h200", "hbm_bandwidth": 0})", "hbm_bandwidth: must be a number > 0"},
      {R"({"base": "h200", "link_latency": -1})", "link_latency: must be a number >= 0"},
      {R"({"base": "h200", "tile_rows": 1.5})", "tile_rows: must be an integer >= 1"},
      {R"({"fp8_flops": 1e15})", "bf16_flops: missing"},
      {R"([1])", "must be a json object"},
  };
  for (const auto& [text, message] : cases) {
    const auto result = read_hardware_profile(write(text));
    ASSERT_FALSE(result.is_ok()) << text;
    EXPECT_EQ(result.status().exit_code(), 2);
    EXPECT_THAT(result.status().message(), HasSubstr(message));
  }
  EXPECT_THAT(read_hardware_profile("h101").status().message(), HasSubstr("h100, h200, gb200"));
}

}  // namespace
}  // namespace wideep::eplb
