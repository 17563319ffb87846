#include "base/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <string>
#include <vector>

#include "base/file_testing.h"
#include "base/random.h"

namespace wideep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string file_bytes(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

Result<Safetensors> parse(const std::string& bytes) {
  return Safetensors::parse(std::as_bytes(std::span(bytes)), "f");
}

std::string error_of_header(const std::string& header, const std::string& data = "") {
  const std::string bytes = file_bytes(header, data);
  return error_of(parse(bytes));
}

// A header entry.
std::string entry(const char* name, const char* dtype, const char* shape, const char* offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape,
                     offsets);
}

std::string object(const std::vector<std::string>& entries) {
  return fmt::format("{{{}}}", fmt::join(entries, ","));
}

TEST(Safetensors, ReadsTensorsAndMetadata) {
  const std::string header =
      object({R"("__metadata__":{"format":"pt","x":""})", entry("b", "I32", "[2,1]", "[0,8]"),
              entry("a", "U8", "[]", "[8,9]"), entry("none", "F32", "[3,0]", "[9,9]")}) +
      "   ";
  const std::string bytes = file_bytes(header, std::string("\1\0\0\0\xff\xff\xff\xff\7", 9));
  const Safetensors file = parse(bytes).value();
  ASSERT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.tensors()[0].name, "a");
  EXPECT_THAT(file.tensors()[0].shape, IsEmpty());
  EXPECT_THAT(file.values<uint8_t>(file.tensors()[0]).value().span(), ElementsAre(7));
  const TensorEntry* b = file.find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_THAT(b->shape, ElementsAre(2, 1));
  EXPECT_EQ(b->num_elements(), 2);
  EXPECT_THAT(file.values<int32_t>(*b).value().span(), ElementsAre(1, -1));
  EXPECT_EQ(file.find("none")->num_elements(), 0);
  EXPECT_EQ(file.find("c"), nullptr);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(error_of(file.values<float>(*b)), "f: tensor \"b\": dtype is I32, must be F32");
}

TEST(Safetensors, CopiesValuesThatAreNotAligned) {
  // One byte in front of the I64: its address cannot be a multiple of 8 in both files.
  for (const std::string padding : {"", " "}) {
    const std::string bytes = file_bytes(
        object({entry("a", "U8", "[1]", "[0,1]"), entry("b", "I64", "[2]", "[1,17]")}) + padding,
        std::string("x\5\0\0\0\0\0\0\0\6\0\0\0\0\0\0\0", 17));
    const Safetensors file = parse(bytes).value();
    TensorValues<int64_t> values = file.values<int64_t>(*file.find("b")).value();
    const TensorValues<int64_t> moved = std::move(values);
    EXPECT_THAT(moved.span(), ElementsAre(5, 6));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(moved.span().data()) % alignof(int64_t), 0u);
  }
}

TEST(Safetensors, RefusesTruncatedFiles) {
  const std::string good =
      file_bytes(object({entry("a", "I64", "[2]", "[0,16]")}), std::string(16, 'x'));
  ASSERT_TRUE(parse(good).is_ok());
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(parse(good.substr(0, size)).is_ok()) << size;
  }
  EXPECT_EQ(error_of(parse("1234567")), "f: 7 bytes: too short for a safetensors file");
  EXPECT_THAT(error_of(parse(good.substr(0, good.size() - 1))), HasSubstr("is it truncated?"));
}

TEST(Safetensors, RefusesHeaderLengthsBeyondTheFile) {
  for (const uint64_t length : {uint64_t{3}, uint64_t{1} << 40, ~uint64_t{0}, ~uint64_t{0} - 7}) {
    std::string bytes(reinterpret_cast<const char*>(&length), 8);
    EXPECT_THAT(error_of(parse(bytes + "{}")), HasSubstr("f: header length ")) << length;
  }
}

TEST(Safetensors, RefusesBadOffsets) {
  const std::string data(8, 'x');
  EXPECT_THAT(error_of_header(object({entry("a", "U8", "[9]", "[0,9]")}), data),
              HasSubstr("tensor \"a\": data_offsets [0, 9] are not in the 8 data bytes"));
  EXPECT_THAT(error_of_header(object({entry("a", "U8", "[2]", "[8,6]")}), data),
              HasSubstr("data_offsets [8, 6] are not in"));
  EXPECT_THAT(
      error_of_header(object({entry("a", "U8", "[6]", "[0,6]"), entry("b", "U8", "[4]", "[4,8]")}),
                      data),
      HasSubstr("tensor \"b\" overlaps another at byte 4"));
  EXPECT_THAT(
      error_of_header(object({entry("a", "U8", "[8]", "[0,8]"), entry("b", "U8", "[8]", "[0,8]")}),
                      data),
      HasSubstr("overlaps"));
  EXPECT_THAT(
      error_of_header(object({entry("a", "U8", "[4]", "[0,4]"), entry("b", "U8", "[2]", "[6,8]")}),
                      data),
      HasSubstr("data bytes [4, 6) before tensor \"b\" belong to no tensor"));
  EXPECT_THAT(error_of_header(object({entry("a", "U8", "[4]", "[0,4]")}), data),
              HasSubstr("the last 4 data bytes belong to no tensor"));
}

TEST(Safetensors, RefusesShapesThatDoNotFit) {
  EXPECT_THAT(error_of_header(object({entry("a", "F16", "[2,3]", "[0,8]")}), "12345678"),
              HasSubstr("shape [2, 3] of F16 needs 12 bytes, data_offsets hold 8"));
  EXPECT_THAT(error_of_header(object({entry("a", "I64", "[2305843009213693952]", "[0,0]")})),
              HasSubstr("needs more than 2^63 bytes"));
  EXPECT_THAT(error_of_header(object({entry("a", "U8", "[4294967296,4294967296]", "[0,0]")})),
              HasSubstr("needs more than 2^63 bytes"));
  EXPECT_EQ(error_of_header(object({entry("a", "I64", "[2305843009213693952,8,0]", "[0,0]")})), "");
}

TEST(Safetensors, RefusesBadHeaders) {
  const std::string good = entry("a", "U8", "[1]", "[0,1]");
  const std::pair<std::string, const char*> bad[] = {
      {"", "does not start with '{'"},
      {"[]", "does not start with '{'"},
      {"{", "not valid JSON at byte 2"},
      {object({good}) + " x", "not valid JSON"},
      {object({entry("a", "F4", "[1]", "[0,1]")}), "tensor \"a\": unknown dtype \"F4\""},
      {object({entry("a", "U8", "[-1]", "[0,1]")}), "unexpected a negative number"},
      {object({entry("a", "U8", "[1.0]", "[0,1]")}), "unexpected a fraction"},
      {object({entry("a", "U8", "[9223372036854775808]", "[0,1]")}), "a number beyond 2^63"},
      {object({entry("a", "U8", "[[1]]", "[0,1]")}), "unexpected a list"},
      {object({entry("a", "U8", "1", "[0,1]")}), "unexpected a number"},
      {object({entry("a", "U8", "[1]", "[0]")}), "\"data_offsets\" must be [begin, end]"},
      {object({entry("a", "U8", "[1]", "[0,1,1]")}), "\"data_offsets\" must be [begin, end]"},
      {object({entry("a", "U8", "[1]", "{}")}), "unexpected an object"},
      {"{\"a\":1}", "tensor \"a\": unexpected a number"},
      {"{\"a\":{}}", "needs \"dtype\", \"shape\" and \"data_offsets\""},
      {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", "key \"dtype\" appears twice"},
      {"{\"a\":{\"size\":1}}", "unknown key \"size\""},
      {"{\"a\":null}", "unexpected null"},
      {object({good, good}), "tensor \"a\" appears twice"},
      {"{\"__metadata__\":{},\"__metadata__\":{}}", "\"__metadata__\" appears twice"},
      {"{\"__metadata__\":{\"a\":1}}", "\"__metadata__\" must map strings to strings"},
      {"{\"__metadata__\":[]}", "\"__metadata__\" must map strings to strings"},
      {"{\"__metadata__\":{\"a\":\"\",\"a\":\"\"}}", "metadata key \"a\" twice"},
  };
  for (const auto& [header, problem] : bad) {
    EXPECT_THAT(error_of_header(header, "x"), HasSubstr(problem)) << header;
  }
}

TEST(Safetensors, WritesTheBytesOfTheReferenceWriter) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.safetensors";
  const std::vector<int64_t> wide = {1, 2};
  const std::vector<uint8_t> bytes = {3, 4, 5};
  ASSERT_TRUE(write_safetensors(path,
                                {{"b", DType::kU8, {3}, std::as_bytes(std::span(bytes))},
                                 {"a\"", DType::kU8, {0, 2}, {}},
                                 {"c", DType::kI64, {1, 2}, std::as_bytes(std::span(wide))}},
                                {{"format", "pt"}})
                  .is_ok());
  std::string header =
      R"({"__metadata__":{"format":"pt"},"c":{"dtype":"I64","shape":[1,2],"data_offsets":[0,16]},)"
      R"("a\"":{"dtype":"U8","shape":[0,2],"data_offsets":[16,16]},)"
      R"("b":{"dtype":"U8","shape":[3],"data_offsets":[16,19]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  EXPECT_EQ(contents_of(path),
            file_bytes(header, std::string("\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\3\4\5", 19)));
}

TEST(Safetensors, ReadsBackRandomFiles) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.safetensors";
  Random random(1);
  for (int round = 0; round < 50; ++round) {
    std::vector<std::string> contents;
    std::vector<TensorToWrite> tensors;
    const size_t count = random.below(20);
    for (size_t i = 0; i < count; ++i) {
      const DTypeInfo& type = kDTypes[random.below(kDTypes.size())];
      std::vector<int64_t> shape;
      while (shape.size() < 4 && random.below(3) > 0) {
        shape.push_back(static_cast<int64_t>(random.below(5)));
      }
      contents.emplace_back(static_cast<size_t>(*tensor_bytes(type.dtype, shape)),
                            static_cast<char>(i));
      tensors.push_back({fmt::format("t{}", i), type.dtype, shape, {}});
    }
    for (size_t i = 0; i < count; ++i) tensors[i].bytes = std::as_bytes(std::span(contents[i]));
    ASSERT_TRUE(write_safetensors(path, tensors).is_ok());
    const Result<Safetensors> file = Safetensors::open(path);
    ASSERT_TRUE(file.is_ok()) << error_of(file);
    ASSERT_EQ(file->tensors().size(), count);
    for (const TensorToWrite& tensor : tensors) {
      const TensorEntry* read = file->find(tensor.name);
      ASSERT_NE(read, nullptr);
      EXPECT_EQ(read->dtype, tensor.dtype);
      EXPECT_EQ(read->shape, tensor.shape);
      const auto bytes = file->bytes(*read);
      EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), tensor.bytes.begin(), tensor.bytes.end()));
    }
  }
}

TEST(Safetensors, OpensARealCheckpoint) {
  const std::string folder = WIDEEP_SOURCE_DIR "/models/dsv3-tiny/";
  for (const char* shard : {"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                            "model-00003-of-00003.safetensors"}) {
    const Result<Safetensors> file = Safetensors::open(folder + shard);
    ASSERT_TRUE(file.is_ok()) << error_of(file);
    EXPECT_EQ(file->metadata().at("format"), "pt");
    EXPECT_GT(file->tensors().size(), 100u);
  }
  EXPECT_EQ(Safetensors::open(folder + "model-00004-of-00003.safetensors").status().code(),
            StatusCode::kNotFound);
}

TEST(DType, NamesAndSizesAgree) {
  for (const DTypeInfo& info : kDTypes) {
    EXPECT_EQ(parse_dtype(info.name), info.dtype);
    EXPECT_EQ(dtype_name(info.dtype), info.name);
    EXPECT_EQ(dtype_size(info.dtype), info.size);
  }
  EXPECT_EQ(parse_dtype("f32"), std::nullopt);
  EXPECT_EQ(tensor_bytes(DType::kBF16, std::vector<int64_t>{3, 5}), 30);
  EXPECT_EQ(tensor_bytes(DType::kF64, std::vector<int64_t>{}), 8);
  EXPECT_EQ(tensor_bytes(DType::kI16, std::vector<int64_t>{int64_t{1} << 62}), std::nullopt);
}

}  // namespace
}  // namespace wideep
