#include "tokenizer/chat_template.h"

#include <fmt/format.h>

#include <algorithm>

#include "tokenizer/template_evaluator.h"
#include "tokenizer/template_parser.h"
#include "tokenizer/tokenizer_config.h"

namespace wideep::tokenizer {

struct ChatTemplate::Compiled {
  std::string name;
  Block block;
  SpecialTokens special_tokens;
  bool loops_over_content = false;
};

namespace {

// Does the template look into a message's content, in `for part in message.content` or
// `message['content'] | selectattr(...)`, or by an index? Then it takes lists of parts.
bool names_content(const Expression* expression) {
  if (expression == nullptr) return false;
  if (expression->kind == ExpressionKind::kAttribute) return expression->text == "content";
  if (expression->kind == ExpressionKind::kItem) {
    const Expression& key = *expression->children[1];
    return key.kind == ExpressionKind::kLiteral && key.value.is_string() &&
           key.value.as_string() == "content";
  }
  if (expression->kind == ExpressionKind::kFilter)
    return names_content(expression->children[0].get());
  return expression->kind == ExpressionKind::kName && expression->text == "content";
}

bool loops_over_content(const Block& block) {
  return std::ranges::any_of(block, [](const StatementPtr& statement) {
    if (statement->kind == StatementKind::kFor && names_content(statement->expression.get())) {
      return true;
    }
    return loops_over_content(statement->body) || loops_over_content(statement->otherwise) ||
           (statement->macro != nullptr && loops_over_content(statement->macro->body)) ||
           std::ranges::any_of(statement->branches, [](const auto& branch) {
             return loops_over_content(branch.second);
           });
  });
}

Status check_content(const OrderedJson& content, const std::string& place) {
  if (content.is_string() || content.is_null()) return Status::ok();
  if (!content.is_array()) {
    return Status::invalid_input(place + ": must be a string or a list of text parts");
  }
  for (size_t i = 0; i < content.size(); ++i) {
    const OrderedJson& part = content[i];
    const bool typed = part.is_object() && part.contains("type");
    if (typed && part["type"] != "text") {
      return Status::invalid_input(fmt::format("{}[{}].type: {}: only \"text\" is supported", place,
                                               i, part["type"].dump()));
    }
    if (!typed || !part.contains("text") || !part["text"].is_string()) {
      return Status::invalid_input(
          fmt::format("{}[{}]: must be {{\"type\": \"text\", \"text\": ...}}", place, i));
    }
  }
  return Status::ok();
}

// The parts' texts, joined by line ends.
OrderedJson joined_parts(const OrderedJson& messages) {
  OrderedJson joined = messages;
  for (OrderedJson& message : joined) {
    if (!message.contains("content") || !message["content"].is_array()) continue;
    std::string text;
    for (const OrderedJson& part : message["content"]) {
      if (&part != &message["content"].front()) text += '\n';
      text += part["text"].get_ref<const std::string&>();
    }
    message["content"] = std::move(text);
  }
  return joined;
}

}  // namespace

Status check_messages(const OrderedJson& messages) {
  if (!messages.is_array()) return Status::invalid_input("messages: must be a list");
  for (size_t i = 0; i < messages.size(); ++i) {
    const OrderedJson& message = messages[i];
    const std::string place = fmt::format("messages[{}]", i);
    if (!message.is_object()) return Status::invalid_input(place + ": must be an object");
    if (!message.contains("role") || !message["role"].is_string()) {
      return Status::invalid_input(place + ".role: must be a string");
    }
    if (message.contains("content")) {
      RETURN_IF_ERROR(check_content(message["content"], place + ".content"));
    }
  }
  return Status::ok();
}

ChatTemplate::ChatTemplate(std::unique_ptr<const Compiled> compiled)
    : compiled_(std::move(compiled)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

Result<ChatTemplate> ChatTemplate::load(const std::string& folder) {
  ASSIGN_OR_RETURN(const TokenizerConfig config, read_tokenizer_config(folder));
  if (!config.chat_template) {
    return Status::not_found(fmt::format(
        "{}: there is no chat template: neither chat_template.jinja nor \"chat_template\" in "
        "tokenizer_config.json",
        folder));
  }
  SpecialTokens tokens;
  const auto add = [&](const char* name, const std::optional<std::string>& token) {
    if (token) tokens.emplace_back(name, *token);
  };
  add("bos_token", config.bos_token);
  add("eos_token", config.eos_token);
  add("pad_token", config.pad_token);
  add("unk_token", config.unk_token);
  return compile(*config.chat_template, config.chat_template_path, tokens);
}

Result<ChatTemplate> ChatTemplate::compile(std::string_view source, const std::string& name,
                                           const SpecialTokens& special_tokens) {
  Result<Block> block = parse_template(source);
  if (!block.is_ok()) {
    return Status::invalid_input(fmt::format("{}: {}", name, block.status().message()));
  }
  auto compiled = std::make_unique<Compiled>();
  compiled->name = name;
  compiled->block = std::move(block).value();
  compiled->special_tokens = special_tokens;
  compiled->loops_over_content = loops_over_content(compiled->block);
  return ChatTemplate(std::move(compiled));
}

Result<std::string> ChatTemplate::render(const ChatInput& input) const {
  RETURN_IF_ERROR(check_messages(input.messages));
  if (!input.variables.is_object()) {
    return Status::invalid_input("the variables of a chat template must be an object");
  }
  TemplateEvaluator::Variables variables;
  for (const auto& [name, token] : compiled_->special_tokens) {
    variables[name] = Value::string(token);
  }
  for (const auto& [name, value] : input.variables.items()) {
    ASSIGN_OR_RETURN(variables[name], Value::from_json(value));
  }
  const bool join = !compiled_->loops_over_content;
  ASSIGN_OR_RETURN(variables["messages"],
                   Value::from_json(join ? joined_parts(input.messages) : input.messages));
  ASSIGN_OR_RETURN(variables["tools"], Value::from_json(input.tools));
  variables["documents"] = Value();
  variables["add_generation_prompt"] = Value::boolean(input.add_generation_prompt);
  TemplateEvaluator evaluator(std::move(variables), input.now.value_or(std::time(nullptr)),
                              Budget::kDefault);
  Result<std::string> text = evaluator.run(compiled_->block);
  if (text.is_ok()) return text;
  return Status::invalid_input(fmt::format("{}: {}", compiled_->name, text.status().message()));
}

}  // namespace wideep::tokenizer
