#include "base/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "base/file_testing.h"

namespace wideep {
namespace {

using ::testing::HasSubstr;

std::string nested_lists(int depth) {
  return std::string(static_cast<size_t>(depth), '[') +
         std::string(static_cast<size_t>(depth), ']');
}

TEST(Json, ParsesADocument) {
  const Json parsed = parse_json(R"({"a": [1, 2.5, {"a": null}], "b": {"a": "x"}})", "f").value();
  EXPECT_EQ(parsed["a"][0], 1);
  EXPECT_EQ(parsed["b"]["a"], "x");
}

TEST(Json, ErrorsNameTheFileAndTheByte) {
  EXPECT_EQ(error_of(parse_json("[1, 2", "f.json")), "f.json: not valid JSON at byte 6 of 5");
  EXPECT_EQ(error_of(parse_json("[NaN]", "f.json")), "f.json: not valid JSON at byte 2 of 5");
  for (const char* bad : {"", "[1] x", "{'a': 1}", "[1,]", "// note\n1", "\"\xff\"", "[1e999]"}) {
    EXPECT_THAT(error_of(parse_json(bad, "f")), HasSubstr("f: not valid JSON")) << bad;
  }
}

TEST(Json, RefusesDuplicateKeysAtEveryDepth) {
  EXPECT_EQ(error_of(parse_json(R"({"a": 1, "a": 2})", "f")), "f: key \"a\" appears twice");
  EXPECT_EQ(error_of(parse_json(R"([{"b": {"c": 1, "c": 1}}])", "f")),
            "f: key \"c\" appears twice");
  EXPECT_TRUE(parse_json(R"([{"a": 1}, {"a": {"a": 1}}])", "f").is_ok());
}

TEST(Json, RefusesDeepNesting) {
  EXPECT_TRUE(parse_json(nested_lists(64), "f").is_ok());
  for (const int depth : {66, 1000, 1'000'000}) {
    EXPECT_EQ(error_of(parse_json(nested_lists(depth), "f")), "f: nested more than 64 deep");
  }
}

TEST(Json, KeepsTheOrderOfKeysOnRequest) {
  const char* text = R"({"b": 1, "a": {"d": 2, "c": 3}})";
  EXPECT_EQ(parse_ordered_json(text, "f")->dump(), R"({"b":1,"a":{"d":2,"c":3}})");
  EXPECT_EQ(error_of(parse_ordered_json(R"({"a": 1, "a": 2})", "f")), "f: key \"a\" appears twice");
  EXPECT_EQ(error_of(parse_ordered_json("[1, 2", "f")), "f: not valid JSON at byte 6 of 5");
}

TEST(Json, ReadsFiles) {
  const TemporaryFolder folder;
  EXPECT_EQ(read_json(folder.write("a.json", "[7]")).value()[0], 7);
  EXPECT_EQ(read_json(folder / "b.json").status().code(), StatusCode::kNotFound);
}

// Counts numbers and stops at a negative one.
class NumberCounter : public nlohmann::json_sax<Json> {
 public:
  int count = 0;
  size_t bad_byte = 0;

  bool number_unsigned(uint64_t) override { return ++count > 0; }
  bool number_integer(int64_t) override { return false; }
  bool number_float(double, const std::string&) override { return true; }
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool string(std::string&) override { return true; }
  bool binary(Json::binary_t&) override { return true; }
  bool start_object(size_t) override { return true; }
  bool key(std::string&) override { return true; }
  bool end_object() override { return true; }
  bool start_array(size_t) override { return true; }
  bool end_array() override { return true; }
  bool parse_error(size_t byte, const std::string&, const Json::exception&) override {
    bad_byte = byte;
    return false;
  }
};

TEST(Json, StreamsToAHandler) {
  NumberCounter all;
  EXPECT_TRUE(stream_json("[1, [2, {\"a\": 3}]]", "f", all).is_ok());
  EXPECT_EQ(all.count, 3);
  NumberCounter stopped;
  EXPECT_TRUE(stream_json("[1, -1, 2]", "f", stopped).is_ok());
  EXPECT_EQ(stopped.count, 1);
  NumberCounter bad;
  EXPECT_TRUE(stream_json("[1, x]", "f", bad).is_ok());
  EXPECT_EQ(bad.bad_byte, 5u);
  NumberCounter deep;
  EXPECT_TRUE(stream_json(nested_lists(1'000'000), "f", deep).is_ok());
}

}  // namespace
}  // namespace wideep
