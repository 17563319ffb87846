#include "tokenizer/tokenizer_spec.h"

#include <fmt/format.h>

#include <unordered_set>

#include "base/text.h"
#include "tokenizer/json_node.h"
#include "tokenizer/limits.h"

namespace wideep::tokenizer {
namespace {

Status unsupported_type(const JsonNode& node, const std::string& type, std::string_view known) {
  return node.error(
      fmt::format("type \"{}\" is not supported: only {} (byte-level BPE)", type, known));
}

// Calls visit(element) for a component, or for each component of a (nested) Sequence; the members'
// list has another name in each kind of Sequence.
template <typename Visit>
Status for_each_component(const JsonNode& node, const char* list_key, const Visit& visit) {
  const Result<std::string> type = node.type();
  RETURN_IF_ERROR(type.status());
  if (*type != "Sequence") return visit(node, *type);
  ASSIGN_OR_RETURN(const JsonNode list, node.member(list_key));
  ASSIGN_OR_RETURN(const std::vector<JsonNode> elements, list.elements());
  for (const JsonNode& element : elements) {
    RETURN_IF_ERROR(for_each_component(element, list_key, visit));
  }
  return Status::ok();
}

Status read_normalizer(const JsonNode& root, TokenizerSpec& spec) {
  if (!root.has("normalizer")) return Status::ok();
  ASSIGN_OR_RETURN(const JsonNode node, root.member("normalizer"));
  return for_each_component(node, "normalizers",
                            [&](const JsonNode& part, const std::string& type) {
                              if (type != "NFC")
                                return unsupported_type(part, type, "NFC, Sequence or null");
                              spec.nfc = true;
                              return Status::ok();
                            });
}

Result<SplitBehavior> read_behavior(const JsonNode& node) {
  static constexpr std::pair<std::string_view, SplitBehavior> kNames[] = {
      {"Isolated", SplitBehavior::kIsolated},
      {"Removed", SplitBehavior::kRemoved},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous}};
  ASSIGN_OR_RETURN(const JsonNode member, node.member("behavior"));
  ASSIGN_OR_RETURN(const std::string name, member.string());
  for (const auto& [known, behavior] : kNames) {
    if (name == known) return behavior;
  }
  return member.error(fmt::format(
      "\"{}\": must be Isolated, Removed, MergedWithPrevious, MergedWithNext or Contiguous", name));
}

Result<SplitSpec> read_split(const JsonNode& node) {
  SplitSpec split;
  ASSIGN_OR_RETURN(const JsonNode pattern, node.member("pattern"));
  split.is_regex = pattern.has("Regex");
  if (!split.is_regex && !pattern.has("String")) {
    return pattern.error("must be {\"Regex\": ...} or {\"String\": ...}");
  }
  ASSIGN_OR_RETURN(split.pattern, pattern.string_member(split.is_regex ? "Regex" : "String"));
  ASSIGN_OR_RETURN(split.behavior, read_behavior(node));
  ASSIGN_OR_RETURN(split.invert, node.boolean_or("invert", false));
  split.path = pattern.path();
  return split;
}

// Digits is a Split on numeric characters.
Result<SplitSpec> read_digits(const JsonNode& node) {
  ASSIGN_OR_RETURN(const bool individual, node.boolean_or("individual_digits", false));
  return SplitSpec{.pattern = "\\p{N}",
                   .behavior = individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous,
                   .path = node.path()};
}

Status read_pre_tokenizer(const JsonNode& root, TokenizerSpec& spec) {
  ASSIGN_OR_RETURN(const JsonNode node, root.member("pre_tokenizer"));
  if (node.is_null())
    return node.error("must hold a ByteLevel step: only byte-level BPE is supported");
  bool byte_level = false;
  const auto read = [&](const JsonNode& part, const std::string& type) {
    // The steps before ByteLevel see text, those behind it would see its substitute characters.
    if (byte_level) return part.error("ByteLevel must be the last pre-tokenizer");
    if (type == "Split" || type == "Digits") {
      ASSIGN_OR_RETURN(SplitSpec split, type == "Split" ? read_split(part) : read_digits(part));
      spec.pre_tokenizer.splits.push_back(std::move(split));
    } else if (type == "ByteLevel") {
      byte_level = true;
      ASSIGN_OR_RETURN(spec.pre_tokenizer.add_prefix_space,
                       part.boolean_or("add_prefix_space", true));
      ASSIGN_OR_RETURN(spec.pre_tokenizer.use_regex, part.boolean_or("use_regex", true));
    } else {
      return unsupported_type(part, type, "Split, Digits, ByteLevel and Sequence");
    }
    return Status::ok();
  };
  RETURN_IF_ERROR(for_each_component(node, "pretokenizers", read));
  if (!byte_level)
    return node.error("must hold a ByteLevel step: only byte-level BPE is supported");
  return Status::ok();
}

Status read_vocab(const JsonNode& model, BpeSpec& bpe) {
  ASSIGN_OR_RETURN(const JsonNode vocab, model.member("vocab"));
  if (!vocab.json().is_object()) return vocab.error("must be an object of token -> id");
  std::unordered_set<int> ids;
  bpe.vocab.reserve(vocab.json().size());
  for (const auto& [token, value] : vocab.json().items()) {
    const std::optional<int> id = integer_in(value, 0, kMaxTokenId);
    if (!id) {
      return vocab.error(
          fmt::format("\"{}\": id must be an integer from 0 to {}", token, kMaxTokenId));
    }
    if (!ids.insert(*id).second) {
      return vocab.error(fmt::format("\"{}\": id {} is another token's too", token, *id));
    }
    bpe.vocab.emplace_back(token, *id);
  }
  return Status::ok();
}

// Merges are "a b" in files of tokenizers before 0.20, ["a", "b"] since.
Status read_merges(const JsonNode& model, BpeSpec& bpe) {
  ASSIGN_OR_RETURN(const JsonNode merges, model.member("merges"));
  if (!merges.json().is_array()) return merges.error("must be a list");
  bpe.merges.reserve(merges.json().size());
  for (const Json& merge : merges.json()) {
    const auto fail = [&] {
      return merges.error(
          fmt::format("[{}]: must be \"a b\" or [\"a\", \"b\"]", &merge - &merges.json()[0]));
    };
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      bpe.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      continue;
    }
    if (!merge.is_string()) return fail();
    const auto& text = merge.get_ref<const std::string&>();
    const std::vector<std::string_view> parts = split(text, ' ');
    if (parts.size() != 2) return fail();
    bpe.merges.emplace_back(parts[0], parts[1]);
  }
  return Status::ok();
}

Status read_model(const JsonNode& root, TokenizerSpec& spec) {
  ASSIGN_OR_RETURN(const JsonNode model, root.member("model"));
  ASSIGN_OR_RETURN(const std::string type, model.string_or("type", "BPE"));
  if (type != "BPE") return unsupported_type(model, type, "BPE");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ASSIGN_OR_RETURN(const std::string affix, model.string_or(key, ""));
    if (!affix.empty()) return model.error(fmt::format("{} \"{}\" is not supported", key, affix));
  }
  if (model.has("dropout") && model.json()["dropout"] != 0.0) {
    return model.error("dropout must be null: encoding is deterministic");
  }
  ASSIGN_OR_RETURN(const bool byte_fallback, model.boolean_or("byte_fallback", false));
  if (byte_fallback) return model.error("byte_fallback is not supported: only byte-level BPE is");
  BpeSpec& bpe = spec.bpe;
  ASSIGN_OR_RETURN(const std::string unk, model.string_or("unk_token", ""));
  if (!unk.empty()) bpe.unk_token = unk;
  ASSIGN_OR_RETURN(bpe.fuse_unk, model.boolean_or("fuse_unk", false));
  ASSIGN_OR_RETURN(bpe.ignore_merges, model.boolean_or("ignore_merges", false));
  RETURN_IF_ERROR(read_vocab(model, bpe));
  return read_merges(model, bpe);
}

Status read_added_tokens(const JsonNode& root, TokenizerSpec& spec) {
  ASSIGN_OR_RETURN(const std::vector<JsonNode> nodes, root.optional_elements("added_tokens"));
  for (const JsonNode& node : nodes) {
    AddedToken token;
    ASSIGN_OR_RETURN(const JsonNode id, node.member("id"));
    ASSIGN_OR_RETURN(token.id, id.integer(0, kMaxTokenId));
    ASSIGN_OR_RETURN(token.content, node.string_member("content"));
    ASSIGN_OR_RETURN(token.special, node.boolean_or("special", false));
    ASSIGN_OR_RETURN(token.single_word, node.boolean_or("single_word", false));
    ASSIGN_OR_RETURN(token.lstrip, node.boolean_or("lstrip", false));
    ASSIGN_OR_RETURN(token.rstrip, node.boolean_or("rstrip", false));
    ASSIGN_OR_RETURN(token.normalized, node.boolean_or("normalized", !token.special));
    spec.added_tokens.push_back(std::move(token));
  }
  return Status::ok();
}

// The pieces of a TemplateProcessing for one text: special tokens before and behind $A.
Status read_template(const JsonNode& node, TokenizerSpec& spec) {
  ASSIGN_OR_RETURN(const JsonNode single, node.member("single"));
  ASSIGN_OR_RETURN(const std::vector<JsonNode> pieces, single.elements());
  std::vector<int> before;
  std::vector<int> behind;
  bool text_seen = false;
  for (const JsonNode& piece : pieces) {
    if (piece.has("Sequence")) {
      if (text_seen) return piece.error("the text stands in the template twice");
      text_seen = true;
      continue;
    }
    ASSIGN_OR_RETURN(const JsonNode special, piece.member("SpecialToken"));
    ASSIGN_OR_RETURN(const JsonNode name, special.member("id"));
    ASSIGN_OR_RETURN(const std::string token, name.string());
    ASSIGN_OR_RETURN(const JsonNode table, node.member("special_tokens"));
    if (!table.has(token.c_str())) {
      return name.error(fmt::format("\"{}\" is not in {}", token, table.path()));
    }
    ASSIGN_OR_RETURN(const JsonNode entry, table.member(token.c_str()));
    ASSIGN_OR_RETURN(const JsonNode list, entry.member("ids"));
    ASSIGN_OR_RETURN(const std::vector<JsonNode> ids, list.elements());
    for (const JsonNode& id : ids) {
      ASSIGN_OR_RETURN(const int value, id.integer(0, kMaxTokenId));
      (text_seen ? behind : before).push_back(value);
    }
  }
  if (!text_seen) return single.error("the text is not in the template");
  // In a Sequence each further template goes around what the ones before it made.
  spec.prefix.insert(spec.prefix.begin(), before.begin(), before.end());
  spec.suffix.insert(spec.suffix.end(), behind.begin(), behind.end());
  return Status::ok();
}

Status read_post_processor(const JsonNode& root, TokenizerSpec& spec) {
  if (!root.has("post_processor")) return Status::ok();
  ASSIGN_OR_RETURN(const JsonNode node, root.member("post_processor"));
  return for_each_component(node, "processors", [&](const JsonNode& part, const std::string& type) {
    if (type == "TemplateProcessing") return read_template(part, spec);
    // ByteLevel trims offsets, which ids do not have.
    if (type == "ByteLevel") return Status::ok();
    return unsupported_type(part, type, "ByteLevel, TemplateProcessing and Sequence");
  });
}

Status check_decoder(const JsonNode& root) {
  ASSIGN_OR_RETURN(const JsonNode node, root.member("decoder"));
  if (node.is_null()) return node.error("must be ByteLevel: only byte-level BPE is supported");
  bool byte_level = false;
  RETURN_IF_ERROR(
      for_each_component(node, "decoders", [&](const JsonNode& part, const std::string& type) {
        if (type != "ByteLevel") return unsupported_type(part, type, "ByteLevel and Sequence");
        byte_level = true;
        return Status::ok();
      }));
  return byte_level ? Status::ok() : node.error("must hold ByteLevel");
}

}  // namespace

Result<TokenizerSpec> parse_tokenizer_spec(const Json& document, const std::string& name) {
  const JsonNode root(document, name);
  if (!document.is_object()) return root.error("must be an object");
  TokenizerSpec spec;
  RETURN_IF_ERROR(read_model(root, spec));
  RETURN_IF_ERROR(read_added_tokens(root, spec));
  RETURN_IF_ERROR(read_normalizer(root, spec));
  RETURN_IF_ERROR(read_pre_tokenizer(root, spec));
  RETURN_IF_ERROR(read_post_processor(root, spec));
  RETURN_IF_ERROR(check_decoder(root));
  return spec;
}

}  // namespace wideep::tokenizer
