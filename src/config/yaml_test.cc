#include "config/yaml.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/random.h"

namespace wideep {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

YamlDocument parsed(std::string_view text) {
  Result<YamlDocument> document = YamlDocument::parse(text, "t.yaml");
  EXPECT_TRUE(document.is_ok()) << document.status().message();
  return document.is_ok() ? std::move(document).value() : YamlDocument();
}

std::string rewrite(const YamlNode& node) {
  std::string text;
  switch (node.kind()) {
    case YamlKind::kNull:
      return "null";
    case YamlKind::kScalar:
      return std::string(node.text());
    case YamlKind::kList:
      for (const YamlNode& item : node.items()) text += rewrite(item) + ",";
      return "[" + text + "]";
    case YamlKind::kMap:
      for (const auto& [key, value] : node.entries()) {
        text += fmt::format("{}: {},", key.text(), rewrite(value));
      }
      return "{" + text + "}";
  }
  return text;
}

std::string refusal(std::string_view text) {
  const Result<YamlDocument> document = YamlDocument::parse(text, "t.yaml");
  EXPECT_FALSE(document.is_ok()) << text;
  EXPECT_EQ(document.status().code(), StatusCode::kInvalidInput);
  return document.status().message();
}

TEST(Yaml, KeepsOrderPlacesAndQuotes) {
  const YamlDocument document = parsed(
      "# comment\n"
      "moe_config:\n"
      "    backend: WideEP   # comment\n"
      "    sizes: [1, \"2\", 'x y']\n"
      "empty:\n"
      "tilde: ~\n");
  const YamlNode root = document.root();
  ASSERT_TRUE(root.is_map());
  const auto entries = root.entries();
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[0].key.text(), "moe_config");
  EXPECT_EQ(entries[0].key.line(), 2);
  EXPECT_EQ(entries[0].key.column(), 1);
  EXPECT_TRUE(entries[1].value.is_null());
  EXPECT_TRUE(entries[2].value.is_null());

  const YamlNode moe = entries[0].value;
  const auto backend = moe.find("backend");
  ASSERT_TRUE(backend);
  EXPECT_EQ(backend->text(), "WideEP");
  EXPECT_EQ(backend->line(), 3);
  EXPECT_EQ(backend->column(), 14);
  EXPECT_FALSE(backend->quoted());
  EXPECT_FALSE(moe.find("Backend"));

  const auto sizes = moe.find("sizes")->items();
  ASSERT_EQ(sizes.size(), 3u);
  EXPECT_EQ(sizes[0].text(), "1");
  EXPECT_FALSE(sizes[0].quoted());
  EXPECT_TRUE(sizes[1].quoted());
  EXPECT_EQ(sizes[2].text(), "x y");
}

TEST(Yaml, EmptyTextIsNull) {
  EXPECT_TRUE(parsed("").root().is_null());
  EXPECT_TRUE(parsed("# nothing\n\n").root().is_null());
  EXPECT_EQ(parsed("{}").root().size(), 0);
  EXPECT_EQ(parsed("7").root().text(), "7");
}

TEST(Yaml, ReadsQuotesAndBlocks) {
  const YamlDocument document = parsed(
      "\xef\xbb\xbf\"é\": 'it''s'\n"
      "b: \"a \\\"b\\\" \\n\"\n"
      "c: |\n  one\n  two\n"
      "d: ''\n");
  EXPECT_EQ(document.root().find("é")->text(), "it's");
  EXPECT_EQ(document.root().find("b")->text(), "a \"b\" \n");
  EXPECT_EQ(document.root().find("c")->text(), "one\ntwo\n");
  EXPECT_EQ(document.root().find("d")->text(), "");
  EXPECT_TRUE(document.root().find("d")->quoted());
}

TEST(Yaml, OneDocumentMayHaveItsMarkers) {
  EXPECT_EQ(parsed("---\na: 1\n...\n").root().find("a")->text(), "1");
  EXPECT_EQ(refusal("a: 1\n---\nb: 2\n"), "t.yaml:2: a second document: one is read");
}

TEST(Yaml, RefusesAnchorsAliasesAndTags) {
  EXPECT_EQ(refusal("a: &x [1]\n"), "t.yaml:1: anchor \"&x\": anchors and aliases are not read");
  EXPECT_THAT(refusal("a: 1\nb: *x\n"), StartsWith("t.yaml:2: "));
  EXPECT_THAT(refusal("a: 1\nb: !!int 3\n"), StartsWith("t.yaml:2: a tag"));
  EXPECT_THAT(refusal("a: ! x\n"), StartsWith("t.yaml:1: a tag"));
  EXPECT_THAT(refusal("a: !set {x: 1}\n"), StartsWith("t.yaml:1: a tag"));
  // The bomb that every YAML reader is offered.
  EXPECT_THAT(refusal("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"), HasSubstr("anchor"));
}

TEST(Yaml, RefusesDuplicateKeysWithBothLines) {
  EXPECT_EQ(refusal("a: 1\nb: 2\na: 3\n"), "t.yaml:3: a: given twice, first on line 1");
  EXPECT_EQ(refusal("m:\n  3: [1]\n  4: [1]\n  3: [2]\n"),
            "t.yaml:4: 3: given twice, first on line 2");
  EXPECT_EQ(refusal("{x: {k: 1, \"k\": 2}}"), "t.yaml:1: k: given twice, first on line 1");
  parsed("a: {k: 1}\nb: {k: 1}\nk: [k, k]\n");  // equal names in different maps are fine
}

TEST(Yaml, RefusesKeysThatAreNotWords) {
  EXPECT_THAT(refusal("{[1]: 2}"), HasSubstr("a list or map as key"));
  EXPECT_THAT(refusal("? {a: 1}\n: 2\n"), HasSubstr("a list or map as key"));
  EXPECT_THAT(refusal("~: 2\n"), HasSubstr("a key without a name"));
}

TEST(Yaml, NestsAtMost64Deep) {
  const auto nested = [](int depth) {
    return std::string(depth, '[') + "1" + std::string(depth, ']');
  };
  parsed(nested(kYamlMaxDepth));
  EXPECT_EQ(refusal(nested(kYamlMaxDepth + 1)), "t.yaml:1: nested more than 64 deep");
  EXPECT_THAT(refusal(std::string(100'000, '[')), StartsWith("t.yaml:1: "));
}

TEST(Yaml, RefusesTabsAndControlCharacters) {
  EXPECT_EQ(refusal("a:\n\tb: 1\n"), "t.yaml:2: a tab as indentation: use spaces");
  EXPECT_EQ(refusal("a:\n  \tb: 1\n"), "t.yaml:2: a tab as indentation: use spaces");
  // Byte 4 would end the input unseen.
  EXPECT_EQ(refusal("a: 1\nb: 2\x04\nc: 3\n"), "t.yaml:2: control character 0x04: not a text file");
  EXPECT_THAT(refusal(std::string_view("a\0: 1", 5)), HasSubstr("0x00"));
  EXPECT_EQ(parsed("a: 1\t# a tab before a comment\r\n").root().find("a")->text(), "1");
}

TEST(Yaml, SyntaxErrorsHaveTheirLine) {
  EXPECT_THAT(refusal("a: [1, 2\nb: 3\n"), StartsWith("t.yaml:"));
  EXPECT_THAT(refusal("a: 1\n  b: 2\n"), StartsWith("t.yaml:2: "));
  EXPECT_EQ(refusal("a: 1\nb: \"open\n"), "t.yaml:2: a quote that is not closed");
  EXPECT_EQ(refusal("b: \"open\\\"\n"), "t.yaml:1: a quote that is not closed");
  EXPECT_EQ(refusal("b: 'open''\n"), "t.yaml:1: a quote that is not closed");
  EXPECT_EQ(refusal("b: 'open\n"), "t.yaml:1: a quote that is not closed");
  EXPECT_THAT(refusal("a: {b: 1\n"), StartsWith("t.yaml:"));
}

TEST(Yaml, LimitsSizes) {
  EXPECT_THAT(refusal(std::string(kYamlMaxBytes + 1, ' ')), HasSubstr("more than the"));
  EXPECT_EQ(read_yaml("/nonexistent/x.yaml").status().code(), StatusCode::kNotFound);
}

TEST(Yaml, ListsOfIntegersAreReadInEveryPlace) {
  const YamlDocument document = parsed(
      "é: 1\n"
      "plan:\n"
      "  3: [10, 2,3]\n"
      "  4: [ 7 ]\r\n"
      "  5: [1, 2,]\n"
      "  6:\n"
      "    [8, 9]\n");
  const YamlNode plan = *document.root().find("plan");
  EXPECT_EQ(rewrite(plan), "{3: [10,2,3,],4: [7,],5: [1,2,],6: [8,9,],}");
  const auto items = plan.find("3")->items();
  EXPECT_EQ(items[1].line(), 3);
  EXPECT_EQ(items[1].column(), 11);
  EXPECT_EQ(plan.find("6")->items()[1].line(), 7);
}

TEST(Yaml, WhatOnlyLooksLikeAListIsLeftAlone) {
  const YamlDocument document = parsed(
      "text: |\n  a: [1, 2]\n"
      "quoted: \"x\n  [3, 4]\"\n"
      "list: [5, 6]\n");
  EXPECT_EQ(document.root().find("text")->text(), "a: [1, 2]\n");
  EXPECT_EQ(document.root().find("quoted")->text(), "x [3, 4]");
  EXPECT_EQ(rewrite(*document.root().find("list")), "[5,6,]");
}

// Random trees written as flow YAML read back as they were written.
class RandomTree {
 public:
  explicit RandomTree(uint64_t seed) : random_(seed) {}

  std::string write(int depth) {
    switch (depth == 0 ? 2 : random_.below(4)) {
      case 0:
        return list(depth);
      case 1:
        return map(depth);
      case 2:
        return std::to_string(random_.below(1000));
      default:
        return "null";
    }
  }

 private:
  std::string list(int depth) {
    std::string text = "[";
    for (uint64_t i = random_.below(5); i > 0; --i) text += write(depth - 1) + ",";
    return text + "]";
  }
  std::string map(int depth) {
    std::string text = "{";
    for (uint64_t i = random_.below(5); i > 0; --i) {
      text += fmt::format("k{}: {},", i, write(depth - 1));
    }
    return text + "}";
  }

  Random random_;
};

TEST(Yaml, RandomTreesReadBack) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const std::string text = RandomTree(seed).write(6);
    EXPECT_EQ(rewrite(parsed(text).root()), text);
  }
}

}  // namespace
}  // namespace wideep
