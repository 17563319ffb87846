#include "tokenizer/tokenizer_config.h"

#include <fmt/format.h>

#include "base/file.h"
#include "base/json.h"
#include "tokenizer/json_node.h"
#include "tokenizer/limits.h"

namespace wideep::tokenizer {
namespace {

// A special token is a string or an object with "content".
Status read_token(const JsonNode& root, const char* key, std::optional<std::string>& token) {
  if (token || !root.has(key)) return Status::ok();
  ASSIGN_OR_RETURN(const JsonNode node, root.member(key));
  ASSIGN_OR_RETURN(token, node.json().is_object() ? node.string_member("content") : node.string());
  return Status::ok();
}

Status read_tokens(const JsonNode& root, TokenizerConfig& config) {
  RETURN_IF_ERROR(read_token(root, "bos_token", config.bos_token));
  RETURN_IF_ERROR(read_token(root, "eos_token", config.eos_token));
  RETURN_IF_ERROR(read_token(root, "pad_token", config.pad_token));
  return read_token(root, "unk_token", config.unk_token);
}

// One template, or a list of {"name", "template"} of which "default" is for chat.
Status read_template(const JsonNode& root, TokenizerConfig& config) {
  if (!root.has("chat_template")) return Status::ok();
  config.chat_template_path = config.path + ": chat_template";
  ASSIGN_OR_RETURN(const JsonNode node, root.member("chat_template"));
  if (node.json().is_string()) {
    ASSIGN_OR_RETURN(config.chat_template, node.string());
    return Status::ok();
  }
  if (!node.json().is_array()) {
    return node.error("must be a string, or a list of {\"name\": ..., \"template\": ...}");
  }
  ASSIGN_OR_RETURN(const std::vector<JsonNode> elements, node.elements());
  for (const JsonNode& element : elements) {
    ASSIGN_OR_RETURN(const std::string name, element.string_member("name"));
    if (name != "default") continue;
    ASSIGN_OR_RETURN(config.chat_template, element.string_member("template"));
    return Status::ok();
  }
  return node.error("none of the templates is named \"default\"");
}

// The Llama classes build their own post-processor out of these flags; the others leave
// tokenizer.json's.
Status read_llama_flags(const JsonNode& root, TokenizerConfig& config) {
  ASSIGN_OR_RETURN(const std::string type, root.string_or("tokenizer_class", ""));
  if (type != "LlamaTokenizer" && type != "LlamaTokenizerFast") return Status::ok();
  ASSIGN_OR_RETURN(config.add_bos_token, root.boolean_or("add_bos_token", true));
  ASSIGN_OR_RETURN(config.add_eos_token, root.boolean_or("add_eos_token", false));
  return Status::ok();
}

Status read_eos_ids(const JsonNode& root, TokenizerConfig& config) {
  if (!root.has("eos_token_id")) return Status::ok();
  ASSIGN_OR_RETURN(const JsonNode node, root.member("eos_token_id"));
  if (!node.json().is_array()) {
    ASSIGN_OR_RETURN(const int id, node.integer(0, kMaxTokenId));
    config.eos_ids = {id};
    return Status::ok();
  }
  ASSIGN_OR_RETURN(const std::vector<JsonNode> elements, node.elements());
  for (const JsonNode& element : elements) {
    ASSIGN_OR_RETURN(const int id, element.integer(0, kMaxTokenId));
    config.eos_ids.push_back(id);
  }
  return Status::ok();
}

// Reads the folder's file `name`, where there is one, with each of the readers.
template <typename... Readers>
Status read_if_there(const std::string& folder, const char* name, TokenizerConfig& config,
                     const Readers&... readers) {
  const std::string path = join_path(folder, name);
  if (!path_exists(path)) return Status::ok();
  ASSIGN_OR_RETURN(const Json document, read_json(path));
  const JsonNode root(document, path);
  if (!document.is_object()) return root.error("must be an object");
  Status status;
  // The first error ends it.
  static_cast<void>(((status = readers(root, config), status.is_ok()) && ...));
  return status;
}

}  // namespace

Result<TokenizerConfig> read_tokenizer_config(const std::string& folder) {
  TokenizerConfig config;
  config.path = join_path(folder, "tokenizer_config.json");
  RETURN_IF_ERROR(read_if_there(folder, "tokenizer_config.json", config, read_tokens, read_template,
                                read_llama_flags));
  RETURN_IF_ERROR(read_if_there(folder, "special_tokens_map.json", config, read_tokens));
  RETURN_IF_ERROR(read_if_there(folder, "generation_config.json", config, read_eos_ids));
  const std::string jinja = join_path(folder, "chat_template.jinja");
  if (path_exists(jinja)) {
    ASSIGN_OR_RETURN(config.chat_template, read_file(jinja));
    config.chat_template_path = jinja;
  }
  return config;
}

}  // namespace wideep::tokenizer
