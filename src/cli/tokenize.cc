// wideep tokenize: JSON strings or chats to token ids, or ids to strings, one a line.
#include <fmt/format.h>

#include <cstdio>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "cli/commands.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace wideep::cli {
namespace {

using tokenizer::ChatTemplate;
using tokenizer::Tokenizer;

struct TokenizeArguments {
  std::string model;
  bool decode = false;
  bool chat = false;
  bool no_special_tokens = false;
};

// On one line for every reader: what some take for the end of a line (U+0085, U+2028, U+2029) is
// escaped, and everything with it.
std::string one_line(const std::string& text) {
  bool ends_lines = false;
  for (const std::string_view end : {"\u0085", "\u2028", "\u2029"}) {
    ends_lines |= text.find(end) != std::string::npos;
  }
  return Json(text).dump(-1, ' ', ends_lines);
}

// A line's answer, as JSON.
Result<std::string> encode_line(const Tokenizer& tokenizer, const Json& line,
                                const TokenizeArguments& arguments) {
  if (!line.is_string()) return Status::invalid_input("must be a JSON string");
  ASSIGN_OR_RETURN(const std::vector<int> ids,
                   tokenizer.encode(line.get_ref<const std::string&>(),
                                    {.add_special_tokens = !arguments.no_special_tokens}));
  return Json(ids).dump();
}

Result<std::string> decode_line(const Tokenizer& tokenizer, const Json& line,
                                const TokenizeArguments& arguments) {
  if (!line.is_array()) return Status::invalid_input("must be a list of token ids");
  std::vector<int> ids;
  for (const Json& id : line) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
      return Status::invalid_input(fmt::format("{}: must be a token id", id.dump()));
    }
    ids.push_back(id.get<int>());
  }
  ASSIGN_OR_RETURN(const std::string text,
                   tokenizer.decode(ids, {.skip_special_tokens = arguments.no_special_tokens}));
  return one_line(text);
}

// The prompt that the messages make, with all the special tokens that the template writes.
Result<std::string> chat_line(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                              const OrderedJson& line) {
  ASSIGN_OR_RETURN(const std::string prompt, chat_template.render({.messages = line}));
  ASSIGN_OR_RETURN(const std::vector<int> ids,
                   tokenizer.encode(prompt, {.add_special_tokens = false}));
  return Json(ids).dump();
}

using Answer = std::function<Result<std::string>(const std::string& line, const std::string& name)>;

Result<Answer> make_answer(const Tokenizer& tokenizer, const TokenizeArguments& arguments) {
  if (arguments.chat) {
    ASSIGN_OR_RETURN(ChatTemplate loaded, ChatTemplate::load(arguments.model));
    // std::function is copied, a template is not.
    const auto chat_template = std::make_shared<const ChatTemplate>(std::move(loaded));
    return Answer([&, chat_template](const std::string& line,
                                     const std::string& name) -> Result<std::string> {
      ASSIGN_OR_RETURN(const OrderedJson messages, parse_ordered_json(line, name));
      return chat_line(tokenizer, *chat_template, messages);
    });
  }
  const auto answer = arguments.decode ? decode_line : encode_line;
  return Answer(
      [&, answer](const std::string& line, const std::string& name) -> Result<std::string> {
        ASSIGN_OR_RETURN(const Json value, parse_json(line, name));
        return answer(tokenizer, value, arguments);
      });
}

Status tokenize(const TokenizeArguments& arguments) {
  ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::load(arguments.model));
  ASSIGN_OR_RETURN(const Answer answer, make_answer(tokenizer, arguments));
  std::string line;
  for (int64_t number = 1; std::getline(std::cin, line); ++number) {
    const std::string name = fmt::format("line {}", number);
    const Result<std::string> answered = answer(line, name);
    if (!answered.is_ok()) {
      const std::string& message = answered.status().message();
      return Status::invalid_input(
          message.starts_with(name) ? message : fmt::format("{}: {}", name, message));
    }
    fmt::print("{}\n", *answered);
    std::fflush(stdout);  // so that a program at both ends can ask line by line
  }
  return Status::ok();
}

}  // namespace

void add_tokenize(CLI::App& parent) {
  auto arguments = std::make_shared<TokenizeArguments>();
  CLI::App* command =
      parent.add_subcommand("tokenize", "Token ids of JSON strings, one a line of standard input");
  command->add_option("--model", arguments->model, "Folder with the model's tokenizer.json")
      ->required();
  command->add_flag("--decode", arguments->decode, "Lines are lists of ids, answers are strings");
  command
      ->add_flag("--chat", arguments->chat,
                 "Lines are lists of messages, encoded through the model's chat template")
      ->excludes("--decode");
  command
      ->add_flag("--no_special_tokens", arguments->no_special_tokens,
                 "Encode: none are added; decode: none are shown")
      ->excludes("--chat");
  command->callback([arguments] { finish(tokenize(*arguments)); });
}

}  // namespace wideep::cli
