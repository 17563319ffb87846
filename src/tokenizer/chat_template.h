// Chat templates: a conversation to the text that the model was trained on, by the Jinja template
// of the model's folder. Front door of everything named template_*.
//
// The subset: if/elif/else, for (with else, filter, unpacking, loop.index, .index0, .first, .last,
// .length, .previtem, .nextitem, .revindex), break and continue, set (also of blocks and of a
// namespace's attributes), macros, {% generation %}; all operators, inline if, slices, calls with
// keywords; white space as Hugging Face sets it (trim_blocks, lstrip_blocks, "-"); the functions
// raise_exception, strftime_now, range, namespace, dict; and the filters, tests and methods of
// template_filters.cc, template_tests.cc and template_methods.cc. It covers the published templates
// of DeepSeek-V3 and R1, Qwen3 and Llama 4. Anything else is an error of compile() that names line
// and construct. Rendering is bounded in steps, text and depth, whatever the template.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace wideep::tokenizer {

struct ChatInput {
  // [{"role": string, "content": string or [{"type": "text", "text": string}, ...], ...}, ...];
  // other members (tool_calls, reasoning_content, ...) are the template's.
  OrderedJson messages;
  OrderedJson tools = nullptr;  // list of functions as JSON schema, null: none
  bool add_generation_prompt = true;
  // Further variables of the template, such as enable_thinking: an object.
  OrderedJson variables = OrderedJson::object();
  // What the template's strftime_now() shows; the system's clock where it is left out.
  std::optional<std::time_t> now = std::nullopt;
};

class ChatTemplate {
 public:
  // Names and texts of the special tokens that the template sees: bos_token, eos_token, ...
  using SpecialTokens = std::vector<std::pair<std::string, std::string>>;

  // The template of a model folder (chat_template.jinja, tokenizer_config.json). kNotFound where it
  // has none.
  static Result<ChatTemplate> load(const std::string& folder);
  // `name` (file or place) opens every error.
  static Result<ChatTemplate> compile(std::string_view source, const std::string& name,
                                      const SpecialTokens& special_tokens);

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // The prompt, special tokens written out: encode it without adding any. Lists of text parts go to
  // templates that loop over a message's content; others see the parts joined by line ends.
  Result<std::string> render(const ChatInput& input) const;

 private:
  struct Compiled;
  explicit ChatTemplate(std::unique_ptr<const Compiled> compiled);

  std::unique_ptr<const Compiled> compiled_;
};

// Are these messages as ChatInput wants them? The error names the message.
Status check_messages(const OrderedJson& messages);

}  // namespace wideep::tokenizer
