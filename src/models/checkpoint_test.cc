#include "models/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "models/checkpoint_index.h"
#include "models/models_testing.h"

namespace wideep::models {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kEmbeddedModel = WIDEEP_SOURCE_DIR "/models/dsv3-tiny";
constexpr Fp8Block kBlock{128, 128};

Checkpoint opened(const std::string& folder, Fp8Block block = kBlock) {
  Result<Checkpoint> checkpoint = Checkpoint::open(folder, block);
  CHECK(checkpoint.is_ok());
  return std::move(checkpoint).value();
}

// Element `i` of a tensor, one at a time.
float element(const TestCheckpoint& source, const std::string& name, int64_t i, Fp8Block block) {
  const TestCheckpoint::Tensor& tensor = source.tensors.at(name);
  const std::byte* at = tensor.bytes.data() + i * dtype_size(tensor.dtype);
  uint16_t half = 0;
  float value = 0;
  switch (tensor.dtype) {
    case DType::kF32:
      std::memcpy(&value, at, sizeof value);
      return value;
    case DType::kBF16:
      std::memcpy(&half, at, sizeof half);
      return bf16_to_float(half);
    case DType::kF16:
      std::memcpy(&half, at, sizeof half);
      return f16_to_float(half);
    default:
      break;
  }
  const std::string scales = name + std::string(kScaleSuffix);
  const int64_t row = i / tensor.shape[1] / block.rows;
  const int64_t column = i % tensor.shape[1] / block.columns;
  return e4m3_to_float(static_cast<uint8_t>(*at)) *
         element(source, scales, row * source.tensors.at(scales).shape[1] + column, block);
}

// A matrix of each dtype, wider than a block and no multiple of one.
TestCheckpoint all_dtypes() {
  TestCheckpoint source;
  source.add("f32", DType::kF32, {70, 130});
  source.add("bf16", DType::kBF16, {70, 130});
  source.add("f16", DType::kF16, {70, 1300});
  source.add("fp8", DType::kF8E4M3, {300, 400});
  source.add_scales("fp8", kBlock, DType::kF32);
  source.add("fp8_bf16_scales", DType::kF8E4M3, {129, 257});
  source.add_scales("fp8_bf16_scales", kBlock, DType::kBF16);
  source.add("stacked", DType::kBF16, {3, 70, 150});
  source.add("vector", DType::kF32, {33});
  source.add("integers", DType::kI32, {4, 4});
  source.add("unscaled", DType::kF8E4M3, {4, 4});
  source.add("wrong_scales", DType::kF8E4M3, {200, 200});
  source.add_scales("wrong_scales", {128, 256}, DType::kF32);
  return source;
}

const char* const kMatrices[] = {"f32", "bf16", "f16", "fp8", "fp8_bf16_scales"};

TEST(Checkpoint, ReadsEveryElementOfEveryDtype) {
  const TestCheckpoint source = all_dtypes();
  const TemporaryFolder folder;
  source.write(folder, 3);
  const Checkpoint checkpoint = opened(folder.path());
  for (const char* name : kMatrices) {
    const auto& shape = source.tensors.at(name).shape;
    const std::vector<float> values = read_all<float>(checkpoint, whole(name, shape));
    const std::vector<uint16_t> bf16 = read_all<uint16_t>(checkpoint, whole(name, shape));
    for (size_t i = 0; i < values.size(); ++i) {
      const float wanted = element(source, name, static_cast<int64_t>(i), kBlock);
      ASSERT_TRUE(same_bits<float>({values[i]}, {wanted})) << name << " " << i;
      const bool is_copied = source.tensors.at(name).dtype == DType::kBF16;
      const auto bits = static_cast<uint16_t>(std::bit_cast<uint32_t>(wanted) >> 16);
      ASSERT_EQ(bf16[i], is_copied ? bits : float_to_bf16(wanted)) << name << " " << i;
    }
  }
}

TEST(Checkpoint, PartsAreSlicesOfTheWhole) {
  const TestCheckpoint source = all_dtypes();
  const TemporaryFolder folder;
  source.write(folder);
  const Checkpoint checkpoint = opened(folder.path());
  Random random(1);
  for (const char* name : kMatrices) {
    for (const bool transposed : {false, true}) {
      const MatrixRequest all = whole(name, source.tensors.at(name).shape, -1, transposed);
      const std::vector<float> values = read_all<float>(checkpoint, all);
      const std::vector<uint16_t> bf16 = read_all<uint16_t>(checkpoint, all);
      for (int round = 0; round < 50; ++round) {
        const MatrixRequest part = random_part(random, all);
        ASSERT_TRUE(same_bits(read_all<float>(checkpoint, part), part_of(values, all, part)));
        ASSERT_TRUE(same_bits(read_all<uint16_t>(checkpoint, part), part_of(bf16, all, part)));
      }
    }
  }
}

TEST(Checkpoint, TransposesAndPicksExperts) {
  const TestCheckpoint source = all_dtypes();
  const TemporaryFolder folder;
  source.write(folder);
  const Checkpoint checkpoint = opened(folder.path());
  const int64_t rows = 70;
  const int64_t columns = 150;
  for (int expert = 0; expert < 3; ++expert) {
    const auto plain = read_all<float>(checkpoint, whole("stacked", {rows, columns}, expert));
    const auto turned =
        read_all<float>(checkpoint, whole("stacked", {rows, columns}, expert, true));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        const int64_t i = (expert * rows + r) * columns + c;
        const float wanted = element(source, "stacked", i, kBlock);
        const float read = plain[static_cast<size_t>(r * columns + c)];
        ASSERT_TRUE(same_bits<float>({read}, {wanted}));
        ASSERT_TRUE(same_bits<float>({read}, {turned[static_cast<size_t>(c * rows + r)]}));
      }
    }
  }
}

TEST(Checkpoint, ReadsPartsOfVectors) {
  const TestCheckpoint source = all_dtypes();
  const TemporaryFolder folder;
  source.write(folder);
  const Checkpoint checkpoint = opened(folder.path());
  std::vector<float> out(20);
  ASSERT_TRUE(checkpoint.read_vector({"vector", 5, 25}, out).is_ok());
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(same_bits<float>({out[i]}, {element(source, "vector", 5 + i, kBlock)}));
  }
  EXPECT_EQ(checkpoint.num_bytes(VectorRequest{"vector", 5, 25}).value(), 80);
  EXPECT_EQ(checkpoint.num_bytes(whole("fp8", {300, 400})).value(), 120000);
  EXPECT_EQ(checkpoint.num_bytes(whole("stacked", {70, 150}, 1)).value(), 21000);
}

TEST(Checkpoint, RefusesReadsThatDoNotFit) {
  const TemporaryFolder folder;
  all_dtypes().write(folder);
  const Checkpoint checkpoint = opened(folder.path());
  const auto refusal = [&](const MatrixRequest& request) {
    std::vector<float> out(static_cast<size_t>(std::max<int64_t>(0, request.num_elements())));
    const Status status = checkpoint.read(request, out);
    EXPECT_FALSE(status.is_ok());
    return status.message();
  };
  const std::string file = folder / "model.safetensors";
  EXPECT_EQ(refusal({"f64", -1, false, 0, 1, 0, 1}), folder.path() + ": f64: no such tensor");
  EXPECT_EQ(refusal({"f32", -1, false, 0, 71, 0, 130}),
            file + ": f32: rows [0, 71) x columns [0, 130) are not inside its 70 x 130");
  EXPECT_THAT(refusal({"f32", -1, true, 0, 70, 0, 130}), HasSubstr("not inside its 130 x 70"));
  EXPECT_THAT(refusal({"f32", -1, false, -1, 0, 0, 1}), HasSubstr("not inside"));
  EXPECT_THAT(refusal({"f32", 0, false, 0, 1, 0, 1}), HasSubstr("has 2 dimensions, must have 3"));
  EXPECT_THAT(refusal({"stacked", -1, false, 0, 1, 0, 1}), HasSubstr("has 3 dimensions"));
  EXPECT_EQ(refusal({"stacked", 3, false, 0, 1, 0, 1}), file + ": stacked: expert 3 of 3");
  EXPECT_EQ(refusal({"integers", -1, false, 0, 1, 0, 1}),
            file + ": integers: is I32, must be F32, BF16, F16 or F8_E4M3");
  EXPECT_EQ(refusal({"unscaled", -1, false, 0, 1, 0, 1}),
            file + ": unscaled: is F8_E4M3, and there is no unscaled_scale_inv");
  EXPECT_EQ(refusal({"wrong_scales", -1, false, 0, 1, 0, 1}),
            file +
                ": wrong_scales_scale_inv: is [2, 1] of F32, must be [2, 2] of F32 or BF16: a "
                "scale for each 128 x 128 block");
  std::vector<float> out(1);
  EXPECT_EQ(checkpoint.read_vector({"vector", 33, 34}, out).message(),
            file + ": vector: elements [33, 34) are not inside its 33");
  EXPECT_THAT(checkpoint.read_vector({"f32", 0, 1}, out).message(), HasSubstr("must have 1"));
  EXPECT_EQ(checkpoint.read_vector({"none", 0, 1}, out).code(), StatusCode::kNotFound);
  EXPECT_FALSE(checkpoint.num_bytes(whole("none", {1, 1})).is_ok());
}

TEST(Checkpoint, PrefersTheIndexThenTheSingleFile) {
  const TemporaryFolder folder;
  TestCheckpoint one;
  one.add("one", DType::kF32, {1});
  TestCheckpoint two;
  two.add("two", DType::kF32, {1});
  two.add("three", DType::kF32, {1});
  const auto names = [&] {
    std::vector<std::string> found;
    const Checkpoint checkpoint = opened(folder.path());
    for (const auto& tensor : checkpoint.tensors()) found.push_back(tensor.entry->name);
    return found;
  };
  two.write(folder, 2);
  std::filesystem::remove(folder / "model.safetensors.index.json");
  EXPECT_THAT(names(), ElementsAre("three", "two")) << "every file";
  one.write(folder);
  EXPECT_THAT(names(), ElementsAre("one")) << "model.safetensors";
  two.write(folder, 2);
  EXPECT_THAT(names(), ElementsAre("three", "two")) << "the index";
}

TEST(Checkpoint, SaysWhatIsNoCheckpoint) {
  const TemporaryFolder folder;
  EXPECT_EQ(error_of(Checkpoint::open(folder / "none")),
            folder / "none" + ": no such folder: must be a checkpoint's");
  EXPECT_EQ(error_of(Checkpoint::open(folder.path())),
            folder.path() + ": no *.safetensors files: is it a checkpoint's folder?");
  folder.write("pytorch_model.bin", "");
  EXPECT_THAT(error_of(Checkpoint::open(folder.path())), HasSubstr("save them as safetensors"));
}

TEST(Checkpoint, NamesAllThatIsWrongWithTheShards) {
  const TemporaryFolder folder;
  TestCheckpoint source;
  for (const char* name : {"a", "b", "c", "d"}) source.add(name, DType::kF32, {100});
  source.write(folder, 4);
  std::filesystem::remove(folder / "shard-0.safetensors");
  std::filesystem::resize_file(folder / "shard-1.safetensors", 300);  // cut short
  std::filesystem::copy_file(folder / "shard-3.safetensors", folder / "shard-2.safetensors",
                             std::filesystem::copy_options::overwrite_existing);
  const std::string message = error_of(Checkpoint::open(folder.path()));
  EXPECT_THAT(
      message,
      AllOf(HasSubstr("shard-0.safetensors: cannot open: No such file"),
            HasSubstr("shard-1.safetensors: tensor \"b\": data_offsets [0, 400] are not in"),
            HasSubstr("index.json: c: is not in shard-2.safetensors"),
            HasSubstr("shard-2.safetensors: d: is in " + folder.path())));
  EXPECT_EQ(std::ranges::count(message, '\n'), 3) << message;
}

TEST(Checkpoint, RefusesMalformedIndices) {
  const auto refusal = [](const char* json) {
    const auto index = parse_checkpoint_index(json, "index");
    EXPECT_FALSE(index.is_ok()) << json;
    return error_of(index);
  };
  EXPECT_THAT(refusal("{"), HasSubstr("not valid JSON"));
  for (const char* json : {"[]", "{}", R"({"weight_map": []})", R"({"weight_map": {}})"}) {
    EXPECT_EQ(refusal(json), "index: weight_map: must be an object of tensor names and file names");
  }
  EXPECT_EQ(refusal(R"({"weight_map": {"a": 1, "b": "../x.safetensors", "c": "x.bin",
                                       "d": "ok.safetensors"}})"),
            "index: weight_map.a: 1: must be the name of a .safetensors file in the same folder\n"
            "index: weight_map.b: \"../x.safetensors\": must be the name of a .safetensors file in "
            "the same folder\n"
            "index: weight_map.c: \"x.bin\": must be the name of a .safetensors file in the same "
            "folder");
  EXPECT_THAT(refusal(R"({"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}})"),
              HasSubstr("key \"a\" appears twice"));
  const TemporaryFolder folder;
  folder.write("model.safetensors.index.json", "{}");
  EXPECT_THAT(error_of(Checkpoint::open(folder.path())), HasSubstr("index.json: weight_map: must"));
}

TEST(Checkpoint, ReadsTheEmbeddedModel) {
  const Checkpoint checkpoint = opened(kEmbeddedModel);
  EXPECT_EQ(checkpoint.num_shards(), 3);
  EXPECT_EQ(checkpoint.tensors().size(), 1647u);
  // Golden: elements of the tensor [576, 256] computed with numpy from the bytes of the file.
  const MatrixRequest corner{
      "model.layers.0.self_attn.kv_a_proj_with_mqa.weight", -1, false, 574, 576, 126, 130};
  EXPECT_THAT(read_all<float>(checkpoint, corner),
              ElementsAre(-0x1.e2f8c00000000p-5F, -0x1.5f408c0000000p-4F, -0x1.7cd45c0000000p-4F,
                          -0x1.0a94a80000000p-10F, 0x1.e2f8c00000000p-5F, -0x1.5f408c0000000p-4F,
                          0x1.c8fed60000000p-6F, 0x1.1d9f460000000p-5F));
}

}  // namespace
}  // namespace wideep::models
