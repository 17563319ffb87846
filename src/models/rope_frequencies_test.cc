#include "models/rope_frequencies.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace wideep::models {
namespace {

TEST(RopeFrequencies, FallGeometrically) {
  RopeConfig config;
  config.theta = 10000;
  const RopeFrequencies frequencies = rope_frequencies(config, 8);
  ASSERT_EQ(frequencies.inv_freq.size(), 4U);
  EXPECT_DOUBLE_EQ(frequencies.inv_freq[0], 1);
  EXPECT_NEAR(frequencies.inv_freq[1], 0.1, 1e-15);
  EXPECT_NEAR(frequencies.inv_freq[3], 0.001, 1e-15);
  EXPECT_EQ(frequencies.factor, 1);
}

RopeConfig deepseek_v3() {
  RopeConfig config;
  config.type = RopeType::kYarn;
  config.theta = 10000;
  config.factor = 40;
  config.original_max_position_embeddings = 4096;
  config.mscale = 1;
  config.mscale_all_dim = 1;
  return config;
}

// Of DeepSeek-V3's 32 frequencies the ramp goes from index 10 to 23: floor and ceil of
// 64 ln(4096 / (2 pi beta)) / (2 ln 10000), 10.47 for beta 32 and 22.51 for beta 1.
TEST(RopeFrequencies, YarnStretchesSlowOnesOnly) {
  const RopeFrequencies plain = rope_frequencies(RopeConfig(), 64);
  const RopeFrequencies yarn = rope_frequencies(deepseek_v3(), 64);
  for (int i = 0; i <= 10; ++i) EXPECT_DOUBLE_EQ(yarn.inv_freq[i], plain.inv_freq[i]) << i;
  const double ramp = 5.0 / 13;
  EXPECT_DOUBLE_EQ(yarn.inv_freq[15], plain.inv_freq[15] * (1 - ramp + ramp / 40));
  for (int i = 23; i < 32; ++i) EXPECT_DOUBLE_EQ(yarn.inv_freq[i], plain.inv_freq[i] / 40) << i;
  EXPECT_EQ(yarn.factor, 1) << "mscale and mscale_all_dim cancel";
}

TEST(RopeFrequencies, YarnRaisesTheSoftmaxScale) {
  EXPECT_NEAR(yarn_softmax_factor(deepseek_v3()), 1.8739, 1e-4);
  EXPECT_EQ(yarn_softmax_factor(RopeConfig()), 1);
  RopeConfig without = deepseek_v3();
  without.mscale_all_dim.reset();
  EXPECT_EQ(yarn_softmax_factor(without), 1);
  EXPECT_DOUBLE_EQ(rope_frequencies(without, 64).factor, 0.1 * std::log(40.0) + 1);
  without.attention_factor = 1.25;
  EXPECT_EQ(rope_frequencies(without, 64).factor, 1.25);
}

TEST(RopeFrequencies, RoundToBf16) {
  RopeFrequencies frequencies;
  frequencies.inv_freq = {1, 0.649381637, 0.421696514};
  round_to_bf16(frequencies);
  EXPECT_EQ(frequencies.inv_freq, (std::vector<double>{1, 0.6484375, 0.421875}));
}

TEST(RopeFrequencies, Llama3StretchesLongWavelengths) {
  RopeConfig config;
  config.type = RopeType::kLlama3;
  config.theta = 500000;
  config.factor = 16;
  config.original_max_position_embeddings = 8192;
  RopeConfig plain_config;
  plain_config.theta = 500000;
  const RopeFrequencies plain = rope_frequencies(plain_config, 128);
  const RopeFrequencies scaled = rope_frequencies(config, 128);
  for (int i = 0; i < 64; ++i) {
    const double wavelength = 2 * std::numbers::pi / plain.inv_freq[i];
    if (wavelength > 8192) {
      EXPECT_DOUBLE_EQ(scaled.inv_freq[i], plain.inv_freq[i] / 16) << i;
    } else if (wavelength < 2048) {
      EXPECT_DOUBLE_EQ(scaled.inv_freq[i], plain.inv_freq[i]) << i;
    } else {
      const double smooth = (8192 / wavelength - 1) / 3;
      EXPECT_DOUBLE_EQ(scaled.inv_freq[i],
                       (1 - smooth) * plain.inv_freq[i] / 16 + smooth * plain.inv_freq[i])
          << i;
    }
  }
}

}  // namespace
}  // namespace wideep::models
