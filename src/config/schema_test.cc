#include "config/schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "config/schema_keys.h"

namespace wideep {
namespace {

using ::testing::HasSubstr;

// The value that `text` is, as a document of its own.
template <typename Read>
auto value_of(const std::string& text, Read read) {
  const Result<YamlDocument> document = YamlDocument::parse(text, "t.yaml");
  CHECK(document.is_ok());
  return read(document->root());
}

TEST(Schema, IntegersAreStrict) {
  const auto integer = [](const char* text) { return value_of(text, scalar_int); };
  EXPECT_EQ(integer("0"), 0);
  EXPECT_EQ(integer("-17"), -17);
  EXPECT_EQ(integer("9223372036854775807"), 9223372036854775807);
  for (const char* text : {"010", "-01", "1_000", "0x10", "1.0", "1e3", "\"1\"", "'1'", "[1]", "+1",
                           "9223372036854775808", "true", "~"}) {
    EXPECT_FALSE(integer(text)) << text;
  }
}

TEST(Schema, BooleansAreThoseOfYaml11) {
  const auto boolean = [](const char* text) { return value_of(text, scalar_bool); };
  for (const char* text : {"true", "True", "yes", "ON"}) EXPECT_EQ(boolean(text), true) << text;
  for (const char* text : {"false", "FALSE", "no", "off"}) EXPECT_EQ(boolean(text), false) << text;
  for (const char* text : {"1", "y", "\"true\"", "null"}) EXPECT_FALSE(boolean(text)) << text;
}

TEST(Schema, StringsReadBackAsThemselves) {
  for (const std::string text : {"plain",
                                 "/a/b-c_d.yaml",
                                 "",
                                 " spaces ",
                                 "true",
                                 "Null",
                                 "12",
                                 "1.5",
                                 "-x",
                                 "a: b",
                                 "#x",
                                 "quote\" and \\",
                                 "two\nlines\tand\rmore",
                                 "é",
                                 "[x]",
                                 "~",
                                 "0x10",
                                 ".5",
                                 "&a",
                                 "*a"}) {
    const std::string written = yaml_string(text);
    EXPECT_EQ(value_of(written, scalar_string), text) << written;
    EXPECT_FALSE(value_of(written, scalar_int)) << written;
    EXPECT_FALSE(value_of(written, scalar_bool)) << written;
  }
}

TEST(Schema, DoublesReadBackAsThemselves) {
  for (const double value : {0.9, 1.0, 0.1 + 0.2, 1e-300}) {
    EXPECT_EQ(value_of(yaml_double(value), scalar_double), value);
  }
}

TEST(Schema, RulesReadAsSentences) {
  EXPECT_EQ(must_be("integer >= 1"), "must be an integer >= 1");
  EXPECT_EQ(must_be("list of integer >= 1, or null"), "must be a list of integer >= 1, or null");
  EXPECT_EQ(must_be("true or false"), "must be true or false");
}

TEST(Schema, MessagesStayOnOneShortLine) {
  Violations violations;
  Origins origins;
  const std::string file = "t.yaml";
  const ReadContext context{file, violations, origins};
  const std::string text = "\"" + std::string(200, 'x') + "\\n\\n\"";
  const Result<YamlDocument> document = YamlDocument::parse(text, file);
  context.fail(document->root(), "key\nkey", "rule");
  const std::string message = violations.status().message();
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_THAT(message, HasSubstr("xxx...\": rule"));
  EXPECT_LT(message.size(), 100u);
}

TEST(Schema, KeepsTheLinesOfAFailedStatus) {
  Violations violations;
  violations.add(Status::ok());
  EXPECT_TRUE(violations.status().is_ok());
  violations.add(Status::invalid_input("one\ntwo"));
  EXPECT_EQ(violations.size(), 2u);
  EXPECT_EQ(violations.status().message(), "one\ntwo");
}

}  // namespace
}  // namespace wideep
