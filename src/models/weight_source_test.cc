#include "models/weight_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "base/float_formats.h"
#include "base/parallel.h"
#include "models/models_testing.h"

namespace wideep::models {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

constexpr const char* kUp = "model.layers.2.mlp.experts.3.up_proj.weight";

TEST(CheckpointWeights, ReadsWhatTheCheckpointHolds) {
  const ModelConfig model = tiny_deepseek();
  const TestCheckpoint source{model};
  const TemporaryFolder folder;
  source.write(folder, 2);
  std::atomic<int64_t> progress = 0;
  auto weights =
      open_checkpoint_weights(folder.path(), model, [&](int64_t bytes) { progress += bytes; });
  ASSERT_TRUE(weights.is_ok()) << error_of(weights);
  const Checkpoint checkpoint = *Checkpoint::open(folder.path(), *model.fp8_block);
  const MatrixRequest request{kUp, -1, false, 3, 20, 10, 40};
  EXPECT_TRUE(same_bits(read_all<float>(**weights, request), read_all<float>(checkpoint, request)));
  EXPECT_TRUE(
      same_bits(read_all<uint16_t>(**weights, request), read_all<uint16_t>(checkpoint, request)));
  std::vector<float> norm(48);
  std::vector<float> wanted(48);
  const VectorRequest vector{"model.norm.weight", 0, 48};
  ASSERT_TRUE((*weights)->read_vector(vector, norm).is_ok());
  ASSERT_TRUE(checkpoint.read_vector(vector, wanted).is_ok());
  EXPECT_TRUE(same_bits(norm, wanted));
  EXPECT_EQ(progress, 2 * 17 * 30 + 48 * 2) << "FP8 matrix twice, bf16 vector";
  EXPECT_EQ((*weights)->bytes_read(), progress);

  EXPECT_FALSE((*weights)->read_vector({"none", 0, 1}, std::span(norm.data(), 1)).is_ok());
  EXPECT_EQ((*weights)->bytes_read(), progress) << "a failed read does not count";
}

TEST(CheckpointWeights, GiveBlocksOfFp8AsTheyAreStored) {
  const ModelConfig model = tiny_deepseek(
      {{"hidden_size", 256}, {"quantization_config", deepseek_r1_json()["quantization_config"]}});
  const TemporaryFolder folder;
  TestCheckpoint{model}.write(folder);
  const auto weights = open_checkpoint_weights(folder.path(), model).value();
  // A block ends with the tensor, or before.
  for (const MatrixRequest& request : {MatrixRequest{kUp, -1, false, 0, 24, 128, 256},
                                       MatrixRequest{kUp, -1, false, 0, 17, 0, 256}}) {
    ASSERT_TRUE(weights->has_fp8_blocks(request));
    std::vector<std::byte> values(static_cast<size_t>(request.num_elements()));
    std::vector<float> scales(static_cast<size_t>(request.columns() / kFp8Block));
    ASSERT_EQ(error_of(weights->read_fp8(request, values, scales)), "");
    std::vector<float> scaled(values.size());
    for (size_t i = 0; i < scaled.size(); ++i) {
      const size_t block = i % static_cast<size_t>(request.columns()) / kFp8Block;
      e4m3_to_float(&values[i], scales[block], std::span(&scaled[i], 1));
    }
    EXPECT_TRUE(same_bits(scaled, read_all<float>(*weights, request)));
  }
  EXPECT_FALSE(weights->has_fp8_blocks({kUp, -1, false, 8, 24, 0, 256}));
  EXPECT_FALSE(weights->has_fp8_blocks({kUp, -1, false, 0, 24, 64, 256}));
  const MatrixRequest embeddings = {"model.embed_tokens.weight", -1, false, 0, 24, 0, 256};
  EXPECT_FALSE(weights->has_fp8_blocks(embeddings));
  EXPECT_TRUE(weights->is_bf16(embeddings));
  EXPECT_FALSE(weights->is_bf16({kUp, -1, false, 0, 24, 0, 256}));
  const auto dummy = make_dummy_weights(model);
  EXPECT_FALSE(dummy->has_fp8_blocks({kUp, -1, false, 0, 24, 0, 256}));
}

TEST(CheckpointWeights, AreVerified) {
  const TemporaryFolder folder;
  TestCheckpoint{tiny_deepseek()}.write(folder);
  EXPECT_THAT(error_of(open_checkpoint_weights(folder.path(), tiny_qwen3())),
              HasSubstr("missing: must be"));
  EXPECT_FALSE(open_checkpoint_weights(folder / "none", tiny_qwen3()).is_ok());
}

// Every tensor of every family, in any part, orientation and type.
TEST(DummyWeights, AreTheSameThroughEverySlice) {
  Random random(1);
  for (const ModelConfig& model : {tiny_deepseek(), tiny_qwen3(), tiny_llama4()}) {
    const auto weights = make_dummy_weights(model);
    const auto again = make_dummy_weights(model);
    for (const TensorSpec& spec : tensor_list(model)) {
      if (spec.shape.size() == 1) continue;
      const int expert = spec.shape.size() == 3 ? 2 : -1;
      for (const bool transposed : {false, true}) {
        const MatrixRequest all = whole(spec.name, spec.shape, expert, transposed);
        const std::vector<float> values = read_all<float>(*weights, all);
        ASSERT_TRUE(same_bits(values, read_all<float>(*again, all)));
        const MatrixRequest part = random_part(random, all);
        ASSERT_TRUE(same_bits(read_all<float>(*weights, part), part_of(values, all, part)));
        std::vector<uint16_t> rounded(values.size());
        float_to_bf16(values, rounded);
        ASSERT_TRUE(same_bits(read_all<uint16_t>(*weights, part), part_of(rounded, all, part)));
        std::vector<float> widened(values.size());
        bf16_to_float(std::as_bytes(std::span(rounded)).data(), widened);
        ASSERT_TRUE(same_bits(values, widened)) << "all are bf16 values";
      }
    }
  }
}

// The transpose of a stacked expert is the same numbers.
TEST(DummyWeights, TransposeOfAnExpert) {
  const auto weights = make_dummy_weights(tiny_llama4());
  const std::string name = "language_model.model.layers.1.feed_forward.experts.down_proj";
  const auto stored = read_all<float>(*weights, whole(name, {24, 48}, 1));
  const auto turned = read_all<float>(*weights, whole(name, {24, 48}, 1, true));
  const auto other = read_all<float>(*weights, whole(name, {24, 48}, 2));
  for (size_t row = 0; row < 24; ++row) {
    for (size_t column = 0; column < 48; ++column) {
      ASSERT_EQ(stored[row * 48 + column], turned[column * 24 + row]);
    }
  }
  EXPECT_FALSE(same_bits(stored, other)) << "experts differ";
}

// Mean 0, variance 1 / in_features, and no two rows or tensors alike.
TEST(DummyWeights, KeepTheVarianceOfTheirInput) {
  const ModelConfig r1 = config_of(deepseek_r1_json());
  const auto weights = make_dummy_weights(r1);
  std::set<std::vector<uint16_t>> rows;
  for (const char* name : {"model.layers.3.mlp.experts.0.up_proj.weight",
                           "model.layers.3.mlp.experts.1.up_proj.weight",
                           "model.layers.4.mlp.experts.0.up_proj.weight", "lm_head.weight"}) {
    const MatrixRequest part{name, -1, false, 100, 110, 0, 7168};
    double sum = 0;
    double squares = 0;
    for (const float value : read_all<float>(*weights, part)) {
      sum += value;
      squares += static_cast<double>(value) * value;
    }
    const auto count = static_cast<double>(part.num_elements());
    EXPECT_NEAR(sum / count * std::sqrt(7168), 0, 0.02) << name;
    EXPECT_NEAR(squares / count * 7168, 1, 0.02) << name;
    const auto bits = read_all<uint16_t>(*weights, part);
    for (auto row = bits.begin(); row != bits.end(); row += 7168) rows.emplace(row, row + 7168);
  }
  EXPECT_EQ(rows.size(), 40u);
}

TEST(DummyWeights, NormsAreOneAndBiasesSmall) {
  const auto weights = make_dummy_weights(tiny_deepseek());
  std::vector<float> norm(48);
  ASSERT_TRUE(weights->read_vector({"model.norm.weight", 0, 48}, norm).is_ok());
  EXPECT_THAT(norm, Each(1.0F));
  const std::string name = "model.layers.1.mlp.gate.e_score_correction_bias";
  std::vector<float> bias(16);
  std::vector<float> part(5);
  ASSERT_TRUE(weights->read_vector({name, 0, 16}, bias).is_ok());
  ASSERT_TRUE(weights->read_vector({name, 3, 8}, part).is_ok());
  EXPECT_TRUE(std::ranges::equal(part, std::span(bias).subspan(3, 5)));
  for (const float value : bias) EXPECT_LT(std::abs(value), 0.035F);
  EXPECT_GT(std::set<float>(bias.begin(), bias.end()).size(), 8u);
}

TEST(DummyWeights, CountTheBytesOfTheCheckpointTheyStandFor) {
  int64_t progress = 0;
  const auto fp8 = make_dummy_weights(tiny_deepseek(), [&](int64_t bytes) { progress += bytes; });
  const MatrixRequest request{kUp, -1, false, 0, 24, 0, 48};
  read_all<float>(*fp8, request);
  EXPECT_EQ(fp8->bytes_read(), 24 * 48);
  EXPECT_EQ(progress, 24 * 48);
  EXPECT_EQ(fp8->num_bytes(VectorRequest{"model.norm.weight", 0, 48}).value(), 96);
  const auto bf16 = make_dummy_weights(tiny_qwen3());
  EXPECT_EQ(bf16->num_bytes(request).value(), 2 * 24 * 48);
  const auto fp32 = make_dummy_weights(tiny_qwen3({{"torch_dtype", "float32"}}));
  EXPECT_EQ(fp32->num_bytes(request).value(), 4 * 24 * 48);
}

TEST(DummyWeights, RefuseWhatTheModelLacks) {
  const auto weights = make_dummy_weights(tiny_deepseek());
  std::vector<float> out(1);
  EXPECT_EQ(weights->read_vector({"none", 0, 1}, out).message(),
            "dummy weights: none: no such tensor in DeepseekV3ForCausalLM");
  EXPECT_EQ(weights->read_vector({"model.norm.weight", 48, 49}, out).message(),
            "dummy weights: model.norm.weight: elements [48, 49) are not inside its 48");
  EXPECT_THAT(weights->read(MatrixRequest{kUp, -1, false, 24, 25, 0, 1}, out).message(),
              HasSubstr("rows [24, 25) x columns [0, 1) are not inside its 24 x 48"));
  EXPECT_FALSE(weights->num_bytes(MatrixRequest{"none"}).is_ok());
}

TEST(WeightSource, ReadsFromManyThreads) {
  const auto weights = make_dummy_weights(tiny_qwen3());
  const MatrixRequest all = whole(kUp, {24, 48});
  const std::vector<float> wanted = read_all<float>(*weights, all);
  std::atomic<int> same = 0;
  parallel_for(200, 4, [&](int) {
    std::vector<float> out(wanted.size());
    if (weights->read(all, out).is_ok() && same_bits(out, wanted)) ++same;
  });
  EXPECT_EQ(same, 200);
  EXPECT_EQ(weights->bytes_read(), 201 * 2 * 24 * 48);
}

}  // namespace
}  // namespace wideep::models
