#include "tokenizer/chat_template.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/file_testing.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_testing.h"

namespace wideep::tokenizer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kFolder = WIDEEP_SOURCE_DIR "/tests/chat_templates/";

OrderedJson read_ordered(const std::string& name) {
  const std::string path = kFolder + name;
  return parse_ordered_json(read_file(path).value(), path).value();
}

Result<std::string> render(std::string_view source, const ChatInput& input) {
  ASSIGN_OR_RETURN(
      const ChatTemplate chat_template,
      ChatTemplate::compile(source, "T", {{"bos_token", "<s>"}, {"eos_token", "</s>"}}));
  return chat_template.render(input);
}

Result<std::string> render(std::string_view source) {
  return render(source, {.messages = OrderedJson::parse(R"([{"role": "user", "content": "hi"}])")});
}

// The template's text, or its error.
std::string outcome(std::string_view source) {
  const Result<std::string> text = render(source);
  return text.is_ok() ? *text : text.status().message();
}

// Templates in the shape of the published ones: expected texts are Jinja2 3.1's, in the environment
// that Hugging Face transformers makes (trim_blocks, lstrip_blocks, its tojson).
TEST(ChatTemplate, RendersAsJinjaDoes) {
  const OrderedJson document = read_ordered("cases.json");
  ASSERT_GT(document["cases"].size(), 100u);
  for (const OrderedJson& reference : document["cases"]) {
    const auto name = reference["template"].get<std::string>();
    ChatInput input{.messages = document["chats"][reference["chat"].get<std::string>()]};
    if (reference.contains("tools")) input.tools = document["tools"];
    input.add_generation_prompt = reference.value("add_generation_prompt", true);
    if (reference.contains("variables")) input.variables = reference["variables"];
    const Result<std::string> text = render(read_file(kFolder + name + ".jinja").value(), input);
    ASSERT_EQ(text.is_ok(), reference.contains("text")) << text.status().message();
    if (text.is_ok()) {
      EXPECT_EQ(*text, reference["text"].get<std::string>()) << reference.dump();
    }
  }
}

// Single constructs, one template each, by the same reference.
TEST(ChatTemplate, EvaluatesAsJinjaDoes) {
  const OrderedJson document = read_ordered("snippets.json");
  ASSERT_GT(document["cases"].size(), 50u);
  for (const OrderedJson& reference : document["cases"]) {
    const ChatInput input{.messages = document["chats"][reference["chat"].get<int>()]};
    const auto source = reference["template"].get<std::string>();
    const Result<std::string> text = render(source, input);
    ASSERT_TRUE(text.is_ok()) << source << ": " << text.status().message();
    EXPECT_EQ(*text, reference["text"].get<std::string>()) << source;
  }
}

TEST(ChatTemplate, TheEmbeddedModelChats) {
  const ChatTemplate chat_template = ChatTemplate::load(embedded_model_folder()).value();
  const Tokenizer tokenizer = Tokenizer::load(embedded_model_folder()).value();
  const ChatInput input{.messages = OrderedJson::parse(R"([{"role": "user", "content": "hi"},
      {"role": "assistant", "content": "ho"}, {"role": "user", "content": "hi"}])")};
  const std::string prompt = chat_template.render(input).value();
  EXPECT_EQ(prompt,
            "<｜begin▁of▁sentence｜><｜User｜>hi<｜Assistant｜>ho<｜end▁of▁sentence｜><｜User｜>hi"
            "<｜Assistant｜>");
  const std::vector<int> ids = tokenizer.encode(prompt, {.add_special_tokens = false}).value();
  EXPECT_EQ(ids.front(), 0);
  EXPECT_EQ(ids.back(), 4);
}

TEST(ChatTemplate, LoadsFromAFolder) {
  const TemporaryFolder folder;
  EXPECT_EQ(ChatTemplate::load(folder.path()).status().code(), StatusCode::kNotFound);
  folder.write("tokenizer_config.json",
               R"({"bos_token": "<b>", "pad_token": "<p>", "unk_token": "<u>",
                   "chat_template": "{{ bos_token }}{{ pad_token }}{{ eos_token is defined }}"})");
  const ChatInput input{.messages = OrderedJson::array()};
  EXPECT_EQ(ChatTemplate::load(folder.path())->render(input).value(), "<b><p>False");
  folder.write("chat_template.jinja", "{% if %}");
  EXPECT_THAT(error_of(ChatTemplate::load(folder.path())),
              HasSubstr("chat_template.jinja: line 1: unexpected \"%}\""));
}

TEST(ChatTemplate, ShowsTheTimeItIsGiven) {
  ChatInput input{.messages = OrderedJson::array(), .now = 86400 * 180};
  EXPECT_THAT(render("{{ strftime_now('%Y') }}", input).value(), "1970");
  EXPECT_EQ(render("{{ strftime_now('') }}", input).value(), "");
  EXPECT_THAT(error_of(render("{{ strftime_now('%Y' * 100) }}", input)), HasSubstr("255 bytes"));
  input.now.reset();
  EXPECT_EQ(render("{{ strftime_now('%Y') | length }}", input).value(), "4");
}

TEST(ChatTemplate, JoinsPartsForTemplatesThatTakeText) {
  const ChatInput input{.messages = OrderedJson::parse(
                            R"([{"role": "user", "content": [{"type": "text", "text": "a"},
                                                             {"type": "text", "text": "b"}]}])")};
  EXPECT_EQ(render("{{ messages[0].content }}", input).value(), "a\nb");
  EXPECT_EQ(
      render("{% for p in messages[0]['content'] %}<{{ p.text }}>{% endfor %}", input).value(),
      "<a><b>");
  EXPECT_EQ(render("{% macro m(content) %}{% for p in content %}<{{ p.text }}>{% endfor %}"
                   "{% endmacro %}{{ m(messages[0].content) }}",
                   input)
                .value(),
            "<a><b>");
}

TEST(ChatTemplate, RefusesMessagesThatAreNone) {
  const auto error = [](const char* messages) {
    return error_of(render("x", {.messages = OrderedJson::parse(messages)}));
  };
  EXPECT_EQ(error("{}"), "messages: must be a list");
  EXPECT_EQ(error("[3]"), "messages[0]: must be an object");
  EXPECT_EQ(error(R"([{"role": "user"}, {"content": "a"}])"), "messages[1].role: must be a string");
  EXPECT_EQ(error(R"([{"role": "user", "content": 3}])"),
            "messages[0].content: must be a string or a list of text parts");
  EXPECT_EQ(error(R"([{"role": "user", "content": [{"type": "image"}]}])"),
            "messages[0].content[0].type: \"image\": only \"text\" is supported");
  EXPECT_EQ(error(R"([{"role": "user", "content": ["a"]}])"),
            "messages[0].content[0]: must be {\"type\": \"text\", \"text\": ...}");
  EXPECT_EQ(error(R"([{"role": "user", "content": null}, {"role": "tool"}])"), "");
  EXPECT_THAT(error_of(render("x", {.messages = OrderedJson::array(), .variables = 3})),
              HasSubstr("must be an object"));
  EXPECT_THAT(
      error_of(render("x", {.messages = OrderedJson::array(), .variables = {{"a", "\xFF"}}})),
      HasSubstr("a string is not UTF-8"));
}

TEST(ChatTemplate, NamesLineAndConstructOfWhatItDoesNotSupport) {
  const struct {
    const char* source;
    const char* error;
  } cases[] = {
      {"\n\n{% include 'x' %}", "T: line 3: {% include %} is not supported here"},
      {"{% filter upper %}x{% endfilter %}", "{% filter %} is not supported"},
      {"a\n{{ x | sort }}", "T: line 2: the filter \"sort\" is not supported"},
      {"{{ x is sameas 1 }}", "the test \"sameas\" is not supported"},
      {"{% for x in y recursive %}{% endfor %}", "a recursive loop is not supported"},
      {"{% set x | upper %}{% endset %}", "a filter on a set block is not supported"},
      {"{% for x in y %}{% macro f() %}{% endmacro %}{% endfor %}", "a macro inside of a loop"},
      {"{% break %}", "break outside of a loop"},
      {"{% endif %}", "{% endif %} is not supported here"},
      {"{% if x %}", "the template ends here, expected {% endif %}"},
      {"{% if %}{% endif %}", "unexpected \"%}\", expected an expression"},
      {"{{ a b }}", "unexpected \"b\", expected }}"},
      {"{{ 'abc }}", "a string without its closing quote"},
      {"{{ 'abc\\", "a string without its closing quote"},
      {"{{ '\\xZZ' }}", "an escape with too few digits"},
      {"{{ '\\ud800' }}", "an escape that is no character"},
      {"{{ '\\101' }}", "an octal escape is not supported"},
      {"{{ x", "{{ without }}"},
      {"{% if x", "{% without %}"},
      {"{# x", "a comment without #}"},
      {"{{ ) }}", "\")\" closes nothing"},
      {"{{ € }}", "unexpected \"€\""},
      {"{{ 1x }}", "a number with letters"},
      {"{{ 99999999999999999999 }}", "a number that is too large"},
      {"{{ x.0 }}", "an index behind a point is not supported"},
      {"{{ x[] }}", "[] without an index"},
      {"{{ x[1:2:3:4] }}", "expected \"]\""},
      {"{{ f(a=1, 2) }}", "expected a keyword argument"},
      {"{{ {'a'} }}", "expected \":\""},
      {"{% for in x %}{% endfor %}", "cannot be assigned to"},
      {"{% for a x %}{% endfor %}", "expected \"in\""},
      {"{% set loop = 1 %}", "cannot be assigned to"},
      {"{% set a, b %}x{% endset %}", "expected \"=\""},
      {"{% 3 %}", "expected a name"},
      {"\xFF", "T: not UTF-8 at byte 0"},
  };
  for (const auto& [source, error] : cases) {
    EXPECT_THAT(error_of(ChatTemplate::compile(source, "T", {})), HasSubstr(error)) << source;
  }
}

TEST(ChatTemplate, NamesLineAndReasonOfWhatGoesWrong) {
  const struct {
    const char* source;
    const char* error;
  } cases[] = {
      {"\n{{ raise_exception('Two users!') }}", "T: line 2: the template says: Two users!"},
      {"\n\n{{ x.y }}", "T: line 3: \"x\" is undefined: it has no \"y\""},
      {"{{ messages[0].a['b'] }}", "\"a\" is undefined: it has no \"b\""},
      {"{{ x + 'a' }}", "\"x\" is undefined"},
      {"{{ x.strip() }}", "strip(): \"x\" is undefined"},
      {"{{ foo() }}", "the function \"foo\" is not supported"},
      {"{{ 'x'() }}", "a string is not a function"},
      {"{{ 'a'.format(1) }}", "format(): a string has no such method here"},
      {"{{ messages[0].items }}", ".items is a method"},
      {"{{ 1 + 'a' }}", "an integer + a string"},
      {"{{ 'a' % 1 }}", "a string % an integer"},
      {"{{ 5 // 0 }}", "division by zero"},
      {"{{ 5 % 0 }}", "division by zero"},
      {"{{ 9223372036854775807 + 1 }}", "a number that is too large"},
      {"{{ 10 ** 30 }}", "a number that is too large"},
      {"{{ (-9223372036854775807 - 1) // -1 }}", "a number that is too large"},
      {"{{ [1] < [2] }}", "a list and a list have no order"},
      {"{{ 1 in 2 }}", "\"in\" an integer"},
      {"{{ 1 in 'a' }}", "must be a string, not an integer"},
      {"{{ 3[1:] }}", "a slice of an integer"},
      {"{{ 'abc'[::0] }}", "a slice with step 0"},
      {"{{ {1: 2} }}", "a key must be a string"},
      {"{{ 3 | length }}", "filter length: an integer has no length"},
      {"{{ 3 | list }}", "an integer has no elements"},
      {"{{ 'a' | trim(1, 2) }}", "takes at most 1 arguments, not 2"},
      {"{{ 'a' | trim(char='a') }}", "the argument \"char\" is not supported"},
      {"{{ [1] | select('nope') }}", "the test \"nope\" is not supported"},
      {"{{ [1] | map('nope') }}", "the filter \"nope\" is not supported"},
      {"{{ range | tojson }}", "JSON cannot say a function"},
      {"{{ range }}", "a function cannot be printed"},
      {"{{ [namespace()] }}", "a namespace in a list or map"},
      {"{% set n = namespace() %}{% set n.x = n %}", "a namespace in a namespace"},
      {"{% set messages.x = 1 %}", "messages is not a namespace"},
      {"{% set a, b = [1] %}", "1 values for 2 names"},
      {"{% for a, b in [1] %}{% endfor %}", "an integer has no elements"},
      {"{{ range(200000) }}", "range() of more than 100000"},
      {"{{ range(1, 2, 0) }}", "range() with step 0"},
      {"{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "f(): takes at most 1"},
      {"{% macro f(a) %}{{ a.b }}{% endmacro %}\n{{ f() }}", "T: line 1: \"a\" is undefined"},
      {"{{ 'a'.split('') }}", "an empty separator"},
      {"{{ 'a'.replace('', 'b') }}", "replacing an empty string"},
  };
  for (const auto& [source, error] : cases)
    EXPECT_THAT(outcome(source), HasSubstr(error)) << source;
}

// Hostile templates end soon, with an error, and small.
TEST(ChatTemplate, WorkIsBounded) {
  const char* cases[] = {
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "{% set n = namespace(s='x') %}{% for a in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
      "{% set n = namespace(s=[1]) %}{% for a in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
      "{% for a in range(99999) %}{{ 'x' * 100000 }}{% endfor %}",
      "{{ 'x' * 9223372036854775807 }}",
      "{{ [1] * 999999999999 }}",
      "{% set s = 'x' * 1000000 %}{% for a in range(99999) %}{% if s == s ~ '' %}{% endif %}{% "
      "endfor %}",
      "{% set s = 'x' * 1000000 %}{{ s.replace('x', s) }}",
      "{% set s = 'x' * 100000 %}{{ s | list | join(s) }}",
      "{{ range(99999) | unique | list }}",
      "{{ (['x' * 100000] * 100000) | join }}",
      "{{ ('\n' * 1000000) | indent(1000, blank=true) }}",
  };
  for (const char* source : cases) {
    EXPECT_THAT(outcome(source), testing::AnyOf(HasSubstr("the template does too much"),
                                                HasSubstr("a number that is too large")))
        << source;
  }
}

TEST(ChatTemplate, DepthIsBounded) {
  const auto repeat = [](std::string_view text, int count) {
    std::string result;
    for (int i = 0; i < count; ++i) result += text;
    return result;
  };
  const std::string sources[] = {
      "{{ " + repeat("(", 5000) + "1" + repeat(")", 5000) + " }}",
      "{{ " + repeat("[", 5000) + repeat("]", 5000) + " }}",
      "{{ " + repeat("not ", 5000) + "1 }}",
      "{{ " + repeat("- ", 5000) + "1 }}",
      "{{ 1" + repeat(" + 1", 5000) + " }}",
      "{{ 1" + repeat(" | abs", 5000) + " }}",
      "{{ x" + repeat(".x", 5000) + " }}",
      "{{ x" + repeat("[0]", 5000) + " }}",
      "{{ 1" + repeat(" if 1 else 1", 5000) + " }}",
      repeat("{% if 1 %}", 5000) + repeat("{% endif %}", 5000),
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% set n = namespace(x=[]) %}{% for i in range(5000) %}{% set n.x = [n.x] %}{% endfor %}",
  };
  for (const std::string& source : sources) {
    EXPECT_THAT(outcome(source), HasSubstr("nested")) << source.substr(0, 40);
  }
  EXPECT_EQ(outcome("{{ " + repeat("(", 50) + "1" + repeat(")", 50) + repeat(" + 1", 40) + " }}"),
            "41");
  EXPECT_THAT(outcome(std::string(2 << 20, 'x')), HasSubstr("1048576 at most"));
}

}  // namespace
}  // namespace wideep::tokenizer
